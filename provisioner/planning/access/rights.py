"""Which privilege on which path each verb needs, and which of them somebody lacks; pure. Rests on `calls`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.fleet import ClusterSpec, FleetSpec, HypervisorSpec
from provisioner.planning.access.calls import CALLS, Place, Verb, needs_of

Permissions = Mapping[str, Mapping[str, int]]
"""What ``GET /access/permissions`` answers: path -> privilege -> 1 if it also holds below the path, else 0."""


@dataclass(frozen=True, slots=True)
class Right:
    """One privilege on one path.

    Attributes:
        path: where to grant it.
        privilege: Proxmox's name of it.
        place: what the path stands for.
        verbs: the commands that need it, in the order of `Verb`.
        requests: the API calls that ask for it.
        optional: without it the commands still do their work, and say what they left undone.
        granted: `prepare` grants it: all that is not optional, and some of what is.
        propagate: grant it for everything below the path too.
        holds_at: the paths that Proxmox looks at, where it must be in force; `path` itself, or below it.
    """

    path: str
    privilege: str
    place: Place
    verbs: tuple[Verb, ...]
    requests: tuple[str, ...]
    optional: bool
    granted: bool
    propagate: bool
    holds_at: tuple[str, ...]

    @property
    def is_for_doctor_only(self) -> bool:
        """Nothing but `doctor` needs it: nodes come and go without it."""
        return self.verbs == (Verb.DOCTOR,)

    def __str__(self) -> str:
        return f"{self.privilege} on {self.path}"


def needed_rights(fleet: FleetSpec, cluster: ClusterSpec, major: int) -> tuple[Right, ...]:
    """Return every right that the token of a cluster needs, by path in the order of `Place`.

    Args:
        fleet: names servers, GPUs and VMIDs.
        cluster: whose storages, bridge and servers are meant.
        major: Proxmox VE's major version, 8 or 9.
    """
    found: dict[tuple[str, str], Right] = {}
    native = makes_native_drives(fleet, cluster)
    required = {need for call in CALLS if not call.optional for need in needs_of(call, cluster, major, native=native)}
    granted = required | {
        need for call in CALLS if call.granted for need in needs_of(call, cluster, major, native=native)
    }
    for place in Place:
        for path, holds_at in paths_of(place, fleet, cluster):
            for call in CALLS:
                needs = needs_of(call, cluster, major, native=native)
                for privilege in (name for where, name in needs if where is place):
                    known = found.get((path, privilege))
                    verbs = {*call.verbs, *(known.verbs if known else ())}
                    requests = (*known.requests, call.request) if known else (call.request,)
                    reached = (*known.holds_at, *holds_at) if known else holds_at
                    found[path, privilege] = Right(
                        path=path,
                        privilege=privilege,
                        place=known.place if known else place,
                        verbs=tuple(verb for verb in Verb if verb in verbs),
                        requests=tuple(dict.fromkeys(requests)),
                        optional=(place, privilege) not in required and (known is None or known.optional),
                        granted=(place, privilege) in granted or (known is not None and known.granted),
                        propagate=propagates(place),
                        holds_at=tuple(dict.fromkeys(reached)),
                    )
    return tuple(found.values())


def missing_rights(permissions: Permissions, needed: Iterable[Right]) -> tuple[Right, ...]:
    """Return the rights that are not in force, in the order given.

    Args:
        permissions: what ``GET /access/permissions`` answers, for all paths or for each of the `holds_at` paths.
        needed: from `needed_rights`.
    """
    return tuple(
        right for right in needed if not all(is_held(permissions, path, right.privilege) for path in right.holds_at)
    )


def is_held(permissions: Permissions, path: str, privilege: str) -> bool:
    """Say whether a privilege is in force on a path.

    Proxmox lists a few fixed paths and every path with a rule. What is listed
    is the truth about that very path. One that is not listed has what comes
    down to it: from the nearest path above where anything is passed on, since
    rules on a deeper path replace those from above (pve-access-control,
    ``roles`` and ``get_effective_permissions``). A path where somebody has
    nothing at all is left out of the list, so a rule such as NoAccess below a
    listed path is only seen when the answer was asked for by that path.
    """
    if path in permissions:
        return privilege in permissions[path]
    passed_on = next((held for held in _above(path, permissions) if any(held.values())), {})
    return bool(passed_on.get(privilege))


def rights_by_path(rights: Iterable[Right]) -> dict[str, tuple[str, ...]]:
    """Return path to its privileges, sorted."""
    found: dict[str, set[str]] = {}
    for right in rights:
        found.setdefault(right.path, set()).add(right.privilege)
    return {path: tuple(sorted(privileges)) for path, privileges in found.items()}


def makes_native_drives(fleet: FleetSpec, cluster: ClusterSpec) -> bool:
    """Say whether Proxmox makes the cloud-init drive of any of a cluster's nodes."""
    names = {server.name for server in fleet.hypervisors.values() if server.cluster == cluster.name}
    return any(
        node.hypervisor in names and node.cloud_init is CloudInit.PROXMOX and not node.adopt
        for node in fleet.nodes.values()
    )


def propagates(place: Place) -> bool:
    """Say whether a grant is for everything below its path too."""
    # The privilege to look at hardware must not become one to look at everything.
    return place is not Place.ROOT


def paths_of(place: Place, fleet: FleetSpec, cluster: ClusterSpec) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Return the paths of a place, each with the paths that Proxmox looks at."""
    servers = [server for server in fleet.hypervisors.values() if server.cluster == cluster.name]
    match place:
        case Place.VMS:
            # Not one path per VMID: Proxmox drops the rules on /vms/N with VM N (pve-access-control, remove_vm_access).
            return [("/vms", _vm_paths(fleet, servers))]
        case Place.ROOT:
            paths = ["/"]
        case Place.NODE:
            paths = [f"/nodes/{server.name}" for server in servers]
        case Place.DISKS:
            paths = [f"/storage/{storage}" for storage in fleet.disk_storages(cluster.name)]
        case Place.IMAGES:
            paths = [f"/storage/{cluster.storage.images}"]
        case Place.SEEDS:
            paths = [f"/storage/{cluster.storage.iso}"]
        case Place.BRIDGE:
            paths = [f"/sdn/zones/localnetwork/{cluster.bridge}"]
        case Place.GPU:
            gpus = [gpu for server in servers for gpu in server.gpus.values()]
            paths = list(dict.fromkeys(f"/mapping/pci/{gpu.mapping}" for gpu in gpus))
    return [(path, (path,)) for path in paths]


def _vm_paths(fleet: FleetSpec, servers: Sequence[HypervisorSpec]) -> tuple[str, ...]:
    names = {server.name for server in servers}
    paths = tuple(f"/vms/{node.vmid}" for node in fleet.nodes.values() if node.hypervisor in names)
    return paths or ("/vms",)


def _above(path: str, permissions: Permissions) -> Iterator[Mapping[str, int]]:
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        if path in permissions:
            yield permissions[path]
