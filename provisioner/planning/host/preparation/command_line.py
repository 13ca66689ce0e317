"""The kernel's command line in the file that this machine's boot loader reads; pure."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.domain.host import BootLoader, HostFacts
from provisioner.domain.host_files import HostState, Refresh
from provisioner.domain.host_preparation import FileChange, HostRefusal
from provisioner.planning.host.preparation.grub import DROP_INS, change_grub, grub_words
from provisioner.planning.host.preparation.words import PASSTHROUGH_WORD, HandEdit, WordChanges, with_words
from provisioner.planning.host.steps import GRUB_FILE, SYSTEMD_BOOT_FILE, boot_loader_of

_SPEED_ONLY = f"without {PASSTHROUGH_WORD}"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What to do about the command line.

    `words` are the wanted ones, as they will stand in the file. `waits` says in
    what the running kernel's line differs; empty when it does not.
    """

    change: FileChange | None = None
    refusal: HostRefusal | None = None
    words: tuple[str, ...] = ()
    waits: str = ""
    notes: tuple[str, ...] = ()


def command_line(facts: HostFacts, state: HostState, changes: WordChanges) -> CommandLine:
    """Decide about the file that the running system's boot loader reads."""
    loader = boot_loader_of(facts)
    running = (facts.command_line or "").split()
    if loader is None:
        if not changes.missing(running) and not changes.unwanted(running):
            return CommandLine(words=_found(changes, running))
        return CommandLine(
            refusal=HostRefusal(
                "nothing tells whether GRUB or systemd-boot starts this machine: /proc/cmdline has neither "
                "BOOT_IMAGE= nor an initrd below \\EFI",
                f"look with: proxmox-boot-tool status; efibootmgr -v. Then, by hand, {_needed(changes, running)}: with "
                f"GRUB in GRUB_CMDLINE_LINUX_DEFAULT of {GRUB_FILE} and update-grub, with systemd-boot in the line of "
                f"{SYSTEMD_BOOT_FILE} and proxmox-boot-tool refresh; then reboot",
            )
        )
    texts, unreadable = _texts(state, loader)
    if unreadable is not None:
        return CommandLine(refusal=unreadable)
    before = _words(loader, texts)
    try:
        after = change_grub(texts, changes) if loader is BootLoader.GRUB else _change_plain(texts, running, changes)
    except HandEdit as edit:
        return CommandLine(refusal=HostRefusal(edit.problem, f"{edit.edit}; then prepare again"))
    path = GRUB_FILE if loader is BootLoader.GRUB else SYSTEMD_BOOT_FILE
    notes = _wrong_file(state, loader, changes)
    waits = _waits([each.word for each in changes.missing(running)], changes.unwanted(running))
    if after is None:
        return CommandLine(words=_found(changes, before), waits=waits, notes=notes)
    seen = state.files[path]
    change = FileChange(
        path,
        texts[path],
        after,
        _why(changes, before),
        seen.mode,
        seen.owner,
        seen.group,
        # update-grub also serves EFI partitions that proxmox-boot-tool keeps: it calls the tool.
        (Refresh.GRUB if loader is BootLoader.GRUB else Refresh.BOOT_TOOL,),
    )
    texts[path] = after
    return CommandLine(change, words=_found(changes, _words(loader, texts)), waits=waits, notes=notes)


def _texts(state: HostState, loader: BootLoader) -> tuple[dict[str, str], HostRefusal | None]:
    texts: dict[str, str] = {}
    own = GRUB_FILE if loader is BootLoader.GRUB else SYSTEMD_BOOT_FILE
    for path, file in state.files.items():
        if path != own and not (loader is BootLoader.GRUB and path.startswith(DROP_INS) and path.endswith(".cfg")):
            continue
        if file.content is None:
            problem = f"{path} cannot be edited by program: it {file.trouble}"
            return texts, HostRefusal(problem, "make it a plain text file, then prepare again")
        texts[path] = file.content
    return texts, None


def _words(loader: BootLoader, texts: dict[str, str]) -> list[str]:
    return grub_words(texts) if loader is BootLoader.GRUB else texts.get(SYSTEMD_BOOT_FILE, "").split()


def _change_plain(texts: dict[str, str], running: list[str], changes: WordChanges) -> str | None:
    """Return the new content of /etc/kernel/cmdline, None when it is right. Raises HandEdit."""
    text = texts.get(SYSTEMD_BOOT_FILE)
    if text is None:
        # proxmox-boot-tool falls back to /proc/cmdline then, which has its own entries' words in it.
        line = with_words(
            " ".join(word for word in running if not word.startswith(("initrd=", "BOOT_IMAGE="))),
            [each.word for each in changes.missing(running)],
            changes.unwanted(running),
        )
        raise HandEdit(
            f"there is no {SYSTEMD_BOOT_FILE}, though this machine boots by systemd-boot",
            f"write this one line into {SYSTEMD_BOOT_FILE} and run proxmox-boot-tool refresh: {line}",
        )
    lines = text.split("\n")
    full = [number for number, line in enumerate(lines) if line.strip()]
    words = text.split()
    missing, unwanted = changes.missing(words), changes.unwanted(words)
    if not missing and not unwanted:
        return None
    if len(full) != 1 or "\r" in text:
        what = "it has carriage returns" if "\r" in text else f"it has {len(full)} lines where one is read"
        raise HandEdit(
            f"{SYSTEMD_BOOT_FILE} is not safe to edit by program: {what}",
            f"in {SYSTEMD_BOOT_FILE} keep one line, the one with root=, and {_needed(changes, words)} there; then run "
            "proxmox-boot-tool refresh",
        )
    lines[full[0]] = with_words(lines[full[0]], [each.word for each in missing], unwanted)
    return "\n".join(lines)


def _needed(changes: WordChanges, words: list[str]) -> str:
    add, remove = [each.word for each in changes.missing(words)], changes.unwanted(words)
    return " and ".join(f"{verb} {' '.join(words)}" for verb, words in (("add", add), ("remove", remove)) if words)


def _why(changes: WordChanges, before: list[str]) -> str:
    reasons = [f"{each.word}: {each.why}" for each in changes.missing(before)]
    reasons += [f"{word} goes: it turns the IOMMU off" for word in dict.fromkeys(changes.unwanted(before))]
    return "; ".join(reasons)


def _found(changes: WordChanges, words: list[str]) -> tuple[str, ...]:
    """Return the words that fulfil what is wanted, as they are spelt."""
    return tuple(word for wanted in changes.wanted for word in words[:] if wanted.is_there(word))


def _waits(without: list[str], words: tuple[str, ...]) -> str:
    differences = [f"without {' '.join(without)}"] if without else []
    differences += [f"with {' '.join(words)}"] if words else []
    for_speed = ", which is for speed: nothing else waits for it" if differences == [_SPEED_ONLY] else ""
    return f"the running kernel was started {' and '.join(differences)}{for_speed}" if differences else ""


def _wrong_file(state: HostState, loader: BootLoader, changes: WordChanges) -> tuple[str, ...]:
    other = SYSTEMD_BOOT_FILE if loader is BootLoader.GRUB else GRUB_FILE
    text = state.text(other)
    if text is None:
        return ()
    words = text.split() if other == SYSTEMD_BOOT_FILE else grub_words({GRUB_FILE: text})
    lost = [word for word in _found(changes, words) if word != PASSTHROUGH_WORD] + [
        word for word in words if word.startswith(("vfio-pci.ids=", "vfio_pci.ids="))
    ]
    if not lost:
        return ()
    return (
        f"{other} has {' '.join(lost)}, which nothing reads: this machine boots by {loader.value}; it is left as it is",
    )
