"""Which privilege on which path each verb needs, and which of them somebody lacks; pure.

`CALLS` is the one table. Everything else that speaks of rights rests on it: the
roles that are made, the README's table, doctor's findings. Proxmox names the
privileges of these calls alike in versions 8 and 9, but for the guest agent's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.fleet import ClusterSpec, FleetSpec, GuestKind, HypervisorSpec

Permissions = Mapping[str, Mapping[str, int]]
"""What ``GET /access/permissions`` answers: path -> privilege -> 1 if it also holds below the path, else 0."""


class Verb(Enum):
    """A command that talks to Proxmox with the token. `plan` is the first half of `up`."""

    DOCTOR = "doctor"
    UP = "up"
    WAKE = "wake"
    SLEEP = "sleep"
    IDLE = "idle"
    DESTROY = "destroy"
    STATUS = "status"


class Place(Enum):
    """Where a privilege is held; the value says what lies there."""

    ROOT = "the datacenter"
    NODE = "the server"
    VMS = "VMs"
    DISKS = "disks"
    IMAGES = "images"
    SEEDS = "seeds"
    BRIDGE = "the bridge"
    GPU = "the GPU"


@dataclass(frozen=True, slots=True)
class Call:
    """One API call of ours and what it takes.

    Attributes:
        request: method and path, as the API's schema writes them.
        verbs: the commands that send it.
        needs: place and privileges, all of which must be held.
        optional: without it the command still does its work, and says what it left undone.
        simulated: only guests of the embedded lab are reached this way.
        native: only where Proxmox makes the cloud-init drive of a node.
    """

    request: str
    verbs: frozenset[Verb]
    needs: tuple[tuple[Place, tuple[str, ...]], ...]
    optional: bool = False
    simulated: bool = False
    native: bool = False


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
        propagate: grant it for everything below the path too.
        holds_at: the paths that Proxmox looks at, where it must be in force; `path` itself, or below it.
    """

    path: str
    privilege: str
    place: Place
    verbs: tuple[Verb, ...]
    requests: tuple[str, ...]
    optional: bool
    propagate: bool
    holds_at: tuple[str, ...]

    @property
    def is_for_doctor_only(self) -> bool:
        """Nothing but `doctor` needs it: nodes come and go without it."""
        return self.verbs == (Verb.DOCTOR,)

    def __str__(self) -> str:
        return f"{self.privilege} on {self.path}"


def _call(request: str, verbs: str, *needs: tuple[Place, str], optional: bool = False, simulated: bool = False) -> Call:
    return Call(
        request,
        frozenset(Verb(name) for name in verbs.split()),
        tuple((place, tuple(privileges.split())) for place, privileges in needs),
        optional,
        simulated,
    )


_VM = "/nodes/{node}/qemu/{vmid}"
_STORAGE = "/nodes/{node}/storage/{storage}"
_AGENT_EXEC = {8: "VM.Monitor", 9: "VM.GuestAgent.Unrestricted"}
_AGENT_READ = {8: "VM.Monitor", 9: "VM.GuestAgent.FileRead"}
_AGENT = "the privilege to run commands by the guest agent"
_AGENT_FILE = "the privilege to read a file by the guest agent"

CALLS: tuple[Call, ...] = (
    # A storage or VM that may not be seen is left out of this list without a word.
    _call("GET /cluster/resources", "doctor up wake sleep idle destroy status", (Place.VMS, "VM.Audit")),
    _call(
        "GET /cluster/resources",
        "doctor up",
        (Place.DISKS, "Datastore.Audit"),
        (Place.IMAGES, "Datastore.Audit"),
        (Place.SEEDS, "Datastore.Audit"),
    ),
    _call("GET /cluster/mapping/pci", "doctor up", (Place.GPU, "Mapping.Use")),
    _call("GET /nodes/{node}/status", "doctor", (Place.NODE, "Sys.Audit")),
    _call("GET /nodes/{node}/journal", "doctor", (Place.NODE, "Sys.Syslog"), optional=True),
    # Looked for on "/", not on the node: pve-manager, PVE/API2/Hardware/PCI.pm.
    _call("GET /nodes/{node}/hardware/pci", "doctor", (Place.ROOT, "Sys.Audit")),
    _call(f"GET {_VM}/status/current", "up wake sleep idle destroy", (Place.VMS, "VM.Audit")),
    # Like GET .../config, but it also shows what waits for the next cold start.
    _call(f"GET {_VM}/pending", "up destroy", (Place.VMS, "VM.Audit")),
    _call(f"GET {_STORAGE}/content", "up", (Place.IMAGES, "Datastore.Audit"), (Place.SEEDS, "Datastore.Audit")),
    _call(f"GET {_STORAGE}/content", "destroy", (Place.SEEDS, "Datastore.Audit")),
    _call(
        f"POST {_STORAGE}/download-url",
        "up",
        (Place.IMAGES, "Datastore.AllocateTemplate"),
        (Place.NODE, "Sys.AccessNetwork"),
    ),
    # `destroy` puts a secret-free ISO over one that it may not delete.
    _call(f"POST {_STORAGE}/upload", "up destroy", (Place.SEEDS, "Datastore.AllocateTemplate")),
    _call(
        "POST /nodes/{node}/qemu",
        "up",
        (
            Place.VMS,
            "VM.Allocate VM.Config.CPU VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network"
            " VM.Config.Options",
        ),
        (Place.DISKS, "Datastore.AllocateSpace"),
        (Place.IMAGES, "Datastore.Audit"),
        (Place.SEEDS, "Datastore.Audit"),
        (Place.BRIDGE, "SDN.Use"),
        (Place.GPU, "Mapping.Use"),
    ),
    _call(f"PUT {_VM}/config", "up", (Place.VMS, "VM.Config.Options")),
    # What each needs depends on the options sent: a VM that has drifted may take any of them.
    _call(
        f"POST {_VM}/config",
        "up",
        (
            Place.VMS,
            "VM.Config.CPU VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network VM.Config.Options",
        ),
        (Place.DISKS, "Datastore.AllocateSpace"),
        (Place.BRIDGE, "SDN.Use"),
        (Place.GPU, "Mapping.Use"),
    ),
    _call(f"PUT {_VM}/resize", "up", (Place.VMS, "VM.Config.Disk"), (Place.DISKS, "Datastore.AllocateSpace")),
    _call(f"POST {_VM}/status/start", "up wake", (Place.VMS, "VM.PowerMgmt")),
    _call(f"POST {_VM}/status/shutdown", "up sleep idle", (Place.VMS, "VM.PowerMgmt")),
    _call(f"POST {_VM}/status/stop", "sleep destroy", (Place.VMS, "VM.PowerMgmt")),
    _call(f"DELETE {_VM}", "destroy", (Place.VMS, "VM.Allocate")),
    _call(f"DELETE {_STORAGE}/content/{{volume}}", "destroy", (Place.SEEDS, "Datastore.Allocate"), optional=True),
    # The drive itself takes both on a VM that exists (qemu-server, src/PVE/API2/Qemu.pm); its settings take the first.
    Call(
        f"POST {_VM}/config",
        frozenset({Verb.UP}),
        ((Place.VMS, ("VM.Config.CDROM", "VM.Config.Cloudinit")),),
        native=True,
    ),
    # The guest's public SSH host key, before the first login.
    Call(f"GET {_VM}/agent/file-read", frozenset({Verb.UP}), ((Place.VMS, (_AGENT_FILE,)),), native=True),
    *(
        Call(request, frozenset({Verb.UP, Verb.WAKE, Verb.SLEEP, Verb.IDLE}), ((Place.VMS, (_AGENT,)),), simulated=True)
        for request in (f"POST {_VM}/agent/ping", f"POST {_VM}/agent/exec", f"GET {_VM}/agent/exec-status")
    ),
)
"""Every request that takes a privilege. Looking at one's own tasks takes none.

Sources: the API's published schema (versions 8.4 and 9.1), and for what handlers check by themselves qemu-server,
src/PVE/API2/Qemu.pm. Proxmox takes some of these rights for others (``Datastore.AllocateSpace`` opens a storage's
list too); the table names the least.
"""


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


def needs_of(call: Call, cluster: ClusterSpec, major: int, *, native: bool = False) -> Iterator[tuple[Place, str]]:
    """Yield place and privilege of one call in a cluster of a major version; `native` is of `makes_native_drives`."""
    if (call.simulated and cluster.guests is not GuestKind.SIMULATED) or (call.native and not native):
        return
    known = 8 if major < 9 else 9
    by_agent = {_AGENT: _AGENT_EXEC[known], _AGENT_FILE: _AGENT_READ[known]}
    for place, privileges in call.needs:
        for privilege in privileges:
            # From version 9 on, each agent command takes a privilege of its own.
            yield place, by_agent.get(privilege, privilege)


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
            paths = [f"/storage/{cluster.storage.disks}"]
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
