"""Which storages a fleet should use: one for disks, one for images, one for seed ISOs; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from provisioner.domain.discovery import StorageFound
from provisioner.domain.name_rules import STORAGE_ID, fits
from provisioner.domain.proposal import Choice
from provisioner.domain.quantities import GIB, size_text

# Disks: thin block storage first, for a disk of 200 GiB then takes what is in it; files last. Images and ISOs are
# files, so only storages that hold files can have them (pve-storage: types with a path).
_DISK_RANK = {"lvmthin": 0, "zfspool": 0, "rbd": 0, "zfs": 1, "lvm": 1, "btrfs": 2, "dir": 3}
_LAST_RANK = 4
_FILE_KINDS = frozenset({"dir", "btrfs", "nfs", "cifs", "cephfs", "glusterfs"})
_INSTALLERS_OWN = {"disks": "local-lvm", "images": "local", "iso": "local"}


def storage_choices(storages: Sequence[StorageFound], hypervisors: Sequence[str]) -> tuple[Choice, Choice, Choice]:
    """Return the choices for disks, images and ISOs.

    Args:
        storages: as each hypervisor sees them; other hypervisors' are left aside.
        hypervisors: where nodes will live; a storage that more of them have is better.
    """
    by_name: dict[str, list[StorageFound]] = {}
    for storage in storages:
        if fits(STORAGE_ID, storage.name) and storage.hypervisor in hypervisors:
            by_name.setdefault(storage.name, []).append(storage)
    disks = _chosen("disks", "images", by_name, hypervisors, _disk_order)
    iso_order = _file_order(lambda seen: "import" not in seen.content)
    iso = _chosen("iso", "iso", by_name, hypervisors, iso_order, _FILE_KINDS)
    images_order = _file_order(lambda seen: seen.name != iso.name)
    images = _chosen("images", "import", by_name, hypervisors, images_order, _FILE_KINDS)
    return disks, images, iso


_Order = Callable[[StorageFound], tuple[object, ...]]


def _disk_order(seen: StorageFound) -> tuple[object, ...]:
    return (_DISK_RANK.get(seen.kind, _LAST_RANK), -(seen.free_bytes or 0), seen.name)


def _file_order(is_worse: Callable[[StorageFound], bool]) -> _Order:
    return lambda seen: (is_worse(seen), -(seen.free_bytes or 0), seen.name)


def _chosen(
    role: str,
    content: str,
    by_name: Mapping[str, Sequence[StorageFound]],
    hypervisors: Sequence[str],
    order: _Order,
    kinds: frozenset[str] | None = None,
) -> Choice:
    eligible = {name: seen for name, seen in by_name.items() if kinds is None or seen[0].kind in kinds}
    holding = {name: seen for name, seen in eligible.items() if content in seen[0].content}
    if not holding:
        return _instead(role, content, eligible if kinds else {}, hypervisors)

    def rank(name: str) -> tuple[object, ...]:
        seen = holding[name]
        usable = sum(each.is_available for each in seen)
        return (-usable, *order(max(seen, key=lambda each: each.is_available)))

    names = sorted(holding, key=rank)
    best = holding[names[0]]
    others = tuple(name for name in names[1:] if any(each.is_available for each in holding[name]))
    return Choice(names[0], _found(best), others, tuple(_notes(names[0], best, hypervisors)))


def _instead(
    role: str, content: str, eligible: Mapping[str, Sequence[StorageFound]], hypervisors: Sequence[str]
) -> Choice:
    """Choose a storage that could hold the content once it is told to, or name the installer's own."""
    if not eligible:
        name = _INSTALLERS_OWN[role]
        return Choice(
            name, notes=(f"no storage for content type {content} was seen; {name} is what Proxmox's installer makes",)
        )
    name = min(
        eligible,
        key=lambda each: (-sum(seen.is_available for seen in eligible[each]), each != _INSTALLERS_OWN[role], each),
    )
    seen = eligible[name]
    content_list = ",".join(sorted({*seen[0].content, content}))
    return Choice(
        name,
        _found(seen),
        notes=(
            f"no storage has content type {content}; let {name} have it: "
            f"pvesh set /storage/{name} --content {content_list}",
            *_notes(name, seen, hypervisors),
        ),
    )


def _found(seen: Sequence[StorageFound]) -> str:
    free = [each.free_bytes for each in seen if each.free_bytes is not None]
    # The least of all servers: a node may land on any of them.
    return f"{seen[0].kind}, {size_text(min(free) // GIB * GIB or GIB)} free" if free else seen[0].kind


def _notes(name: str, seen: Sequence[StorageFound], hypervisors: Sequence[str]) -> Iterable[str]:
    there = {each.hypervisor for each in seen}
    missing = [hypervisor for hypervisor in hypervisors if hypervisor not in there]
    if missing:
        yield f"{name} is not on {', '.join(missing)}"
    down = [each.hypervisor for each in seen if not each.is_available]
    if down:
        yield f"{name} is not available on {', '.join(down)}"
