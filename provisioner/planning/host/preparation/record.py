"""What the hypervisor remembers of our changes, and what undoing makes of it; pure.

An original is never lost: the copy of a file is named by its own checksum, and
where somebody edited a file between two of our runs, that edit is the state
to go back to, with the older original kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from provisioner.domain.host_files import (
    ORIGINALS_FOLDER,
    HostState,
    KeptFile,
    PreparationRecord,
    Refresh,
    sha256,
)
from provisioner.domain.host_preparation import FileChange, HostCommand, HostRefusal, Preparation

_WHY_REFRESH = {
    Refresh.INITRAMFS: "the initramfs holds copies of these files, and it is what acts first at boot",
    Refresh.GRUB: "GRUB boots by the menu that is generated from its defaults",
    Refresh.BOOT_TOOL: "the EFI system partitions hold copies of the command line and of the initramfs",
}


def record_with(state: HostState, changes: Sequence[FileChange]) -> PreparationRecord:
    """Return the record as it must stand before these changes are made."""
    if not changes:
        return state.record
    kept = {each.path: each for each in state.record.files}
    for change in changes:
        kept[change.path] = _kept(change, kept.get(change.path))
    return PreparationRecord(tuple(kept[path] for path in sorted(kept)), state.boot_id)


def _kept(change: FileChange, earlier: KeptFile | None) -> KeptFile:
    before = None if change.before is None else sha256(change.before)
    after = None if change.after is None else sha256(change.after)
    refresh = _in_order({*change.refresh, *(earlier.refresh if earlier else ())})
    if earlier is not None and before in (earlier.after, earlier.before):
        # What is there is our own work (or its undoing): the state to go back to stays what it was.
        return replace(earlier, after=after, refresh=refresh)
    copies = () if earlier is None else (*earlier.earlier_copies, *([earlier.copy] if earlier.copy else []))
    copy = None if before is None else f"{ORIGINALS_FOLDER}/{change.path.strip('/').replace('/', '-')}.{before[:12]}"
    return KeptFile(
        change.path, before, after, copy, change.mode, change.owner, change.group, refresh, tuple(dict.fromkeys(copies))
    )


def refresh_commands(needed: Iterable[Refresh], why: str = "") -> tuple[HostCommand, ...]:
    """Return the commands, the initramfs first: the boot loaders' tools copy it."""
    return tuple(HostCommand(each.value, why or _WHY_REFRESH[each]) for each in _in_order(set(needed)))


def _in_order(needed: set[Refresh]) -> tuple[Refresh, ...]:
    return tuple(each for each in Refresh if each in needed)


def undoing(state: HostState) -> Preparation:
    """Return what taking all our changes back means."""
    changes, left, refusals = [], [], []
    for kept in state.record.files:
        found = state.sum(kept.path)
        if found == kept.before and kept.path not in _unread(state):
            continue
        if found != kept.after or kept.path in _unread(state):
            left.append(kept)
            continue
        original = None if kept.copy is None else state.text(kept.copy)
        if kept.before is not None and (original is None or sha256(original) != kept.before):
            refusals.append(
                HostRefusal(
                    f"the copy of {kept.path} is missing or damaged: {kept.copy}",
                    f"mend {kept.path} by hand; provisioner prepare shows what it would set in it",
                )
            )
            continue
        why = "as it was before" if kept.before is not None else "it was not there before"
        changes.append(
            FileChange(kept.path, state.text(kept.path), original, why, kept.mode, kept.owner, kept.group, kept.refresh)
        )
    notes = [note for kept in left for note in _left(kept)]
    notes += [
        f"{kept.path} goes back to what it was before our last change; an older original is {copy}"
        for kept in state.record.files
        if kept not in left
        for copy in kept.earlier_copies
    ]
    needed = {each for change in changes for each in change.refresh} | set(state.refresh_needed)
    reboot_for = [f"{change.path} as it was" for change in changes if change.refresh]
    if not reboot_for and state.record.boot_id == state.boot_id and state.refresh_needed:
        reboot_for = ["what an earlier run changed"]
    return Preparation(
        files=tuple(changes),
        commands=refresh_commands(needed),
        reboot_for=tuple(reboot_for),
        refusals=tuple(refusals),
        notes=tuple(notes),
        record=PreparationRecord(tuple(left), state.record.boot_id) if left else PreparationRecord(),
    )


def _unread(state: HostState) -> frozenset[str]:
    return frozenset(path for path, file in state.files.items() if file.content is None)


def _left(kept: KeptFile) -> list[str]:
    if kept.copy is None:
        return [f"{kept.path} was edited after we made it, so it stays; delete it if it is not needed"]
    return [
        f"{kept.path} was edited after our change, so it stays as it is; the original is {kept.copy}: "
        f"compare with diff -u {kept.copy} {kept.path}"
    ]
