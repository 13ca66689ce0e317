"""What somebody must be allowed to do to prepare a cluster; pure.

Proxmox leaves out of its lists what one may not see, so a plan made by somebody
with too few rights would be wrong without a word. Hence the look before the
look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from provisioner.domain.access import AccessWanted
from provisioner.domain.access_plan import AccessStep
from provisioner.planning.access.rights import Permissions, is_held


def lacking_to_look(permissions: Permissions, wanted: AccessWanted, *, undoing: bool = False) -> tuple[str, ...]:
    """Return what is missing for seeing everything that a plan rests on, as ``PRIVILEGE on PATH``."""
    return tuple(
        f"{' or '.join(privileges)} on {path}"
        for path, privileges in _looks(wanted, undoing)
        if not any(is_held(permissions, path, privilege) for privilege in privileges)
    )


def lacking_to_do(permissions: Permissions, steps: Iterable[AccessStep]) -> tuple[str, ...]:
    """Return what is missing for carrying out steps, as ``PRIVILEGE on PATH``."""
    needs = dict.fromkeys(need for step in steps for need in step.needs)
    return tuple(f"{privilege} on {path}" for path, privilege in needs if not is_held(permissions, path, privilege))


def _looks(wanted: AccessWanted, undoing: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "/access", ("Sys.Audit", "Permissions.Modify")
    yield "/access/groups", ("User.Modify", "Sys.Audit")
    storage = wanted.cluster.storage
    disks = wanted.fleet.disk_storages(wanted.cluster.name)
    for name in dict.fromkeys((*disks, storage.images, storage.iso)):
        yield f"/storage/{name}", ("Datastore.Audit", "Datastore.AllocateSpace")
    servers = [server for server in wanted.fleet.hypervisors.values() if server.cluster == wanted.cluster.name]
    mappings = dict.fromkeys(gpu.mapping for server in servers for gpu in server.gpus.values())
    if mappings:
        yield "/", ("Sys.Audit", "Sys.Modify")
    for mapping in mappings:
        yield f"/mapping/pci/{mapping}", ("Mapping.Audit", "Mapping.Use", "Mapping.Modify")
    if undoing and mappings:
        yield "/vms", ("VM.Audit",)
