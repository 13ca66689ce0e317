"""Checks on the room that storages have for images and disks; pure."""

from __future__ import annotations

from provisioner.domain.names import StorageName
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import StorageSeen
from provisioner.planning.doctor.facts import DoctorFacts
from provisioner.planning.doctor.words import about
from provisioner.planning.host.steps import ok
from provisioner.planning.readiness import Check, CheckStatus

# Cloud images are 0.3 to 1 GiB, and Proxmox fetches one beside the file that it becomes.
IMAGE_ROOM_BYTES = 2 * GIB
# Storages that set a disk's whole size aside at once; all others take what is written.
_THICK = frozenset({"lvm"})


def storages_have_room(facts: DoctorFacts) -> list[Check]:
    """Proxmox notices a full storage only in the middle of its work."""
    if facts.api is None:
        return []
    roles = facts.cluster.storage
    return [
        *_images(_storage(facts, roles.images)),
        *(
            each
            for name in facts.fleet.disk_storages(facts.cluster.name)
            for each in _disks(facts, _storage(facts, name))
        ),
    ]


def _storage(facts: DoctorFacts, name: StorageName) -> StorageSeen | None:
    return facts.api.snapshot.storages.get((facts.hypervisor.name, name)) if facts.api is not None else None


def _images(storage: StorageSeen | None) -> list[Check]:
    if storage is None or storage.free_bytes is None:
        return []
    why = "an image that does not fit fails after its download"
    found = f'{about(storage.free_bytes)} free on "{storage.name}"'
    if storage.free_bytes >= IMAGE_ROOM_BYTES:
        return [ok("space_images", found, why)]
    step = f'free space on "{storage.name}", {about(IMAGE_ROOM_BYTES)} for each image, or name another storage'
    return [Check("space_images", CheckStatus.WARN, found, why, step)]


def _disks(facts: DoctorFacts, storage: StorageSeen | None) -> list[Check]:
    if storage is None or storage.free_bytes is None or facts.api is None:
        return []
    coming = [node for node in facts.nodes if node.vmid not in facts.api.snapshot.vms]
    if not coming:
        return []
    is_first = storage.name == facts.cluster.storage.disks
    sizes = {
        node.name: (node.disk_bytes if is_first else 0)
        + ((node.models.disk_bytes or 0) if facts.fleet.model_storage(node) == storage.name else 0)
        for node in coming
    }
    wanted = sum(sizes.values())
    if not wanted:
        return []
    id_ = "space_disks" if is_first else f"space_models_{storage.name}"
    names = ", ".join(name for name, size in sizes.items() if size)
    found = f'{names} will want {about(wanted)} of disk; "{storage.name}" has {about(storage.free_bytes)} free'
    is_thick = storage.kind in _THICK
    why = (
        "this kind of storage sets the whole size aside when a VM is made"
        if is_thick
        else "disks take what is written to them; a storage that fills up stops every VM on it"
    )
    if wanted <= storage.free_bytes:
        return [ok(id_, found, why)]
    key, storage_key = ("disk", "storage.disks") if is_first else ("model_disk", "model_storage")
    step = f'lower {key} of these nodes, free space on "{storage.name}", or name another under {storage_key}'
    return [Check(id_, CheckStatus.FAIL if is_thick else CheckStatus.WARN, found, why, step)]
