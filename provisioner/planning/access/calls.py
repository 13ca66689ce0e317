"""Every API call of ours that takes a privilege, and what it takes; pure.

`CALLS` is the one table. Everything else that speaks of rights rests on it: the
roles that are made, the README's table, doctor's findings. Proxmox names the
privileges of these calls alike in versions 8 and 9, but for the guest agent's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import ClusterSpec, GuestKind


class Verb(Enum):
    """A command that talks to Proxmox with the token. `plan` is the first half of `up`."""

    DOCTOR = "doctor"
    UP = "up"
    WAKE = "wake"
    SLEEP = "sleep"
    IDLE = "idle"
    DESTROY = "destroy"
    STATUS = "status"
    MODE = "mode"


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
        granted: `prepare` grants it although commands can do without.
        simulated: only guests of the embedded lab are reached this way.
        native: only where Proxmox makes the cloud-init drive of a node.
    """

    request: str
    verbs: frozenset[Verb]
    needs: tuple[tuple[Place, tuple[str, ...]], ...]
    optional: bool = False
    granted: bool = False
    simulated: bool = False
    native: bool = False


def _call(
    request: str,
    verbs: str,
    *needs: tuple[Place, str],
    optional: bool = False,
    granted: bool = False,
    simulated: bool = False,
) -> Call:
    return Call(
        request,
        frozenset(Verb(name) for name in verbs.split()),
        tuple((place, tuple(privileges.split())) for place, privileges in needs),
        optional,
        granted,
        simulated,
    )


_VM = "/nodes/{node}/qemu/{vmid}"
_STORAGE = "/nodes/{node}/storage/{storage}"
_AGENT_EXEC = {8: "VM.Monitor", 9: "VM.GuestAgent.Unrestricted"}
_AGENT_READ = {8: "VM.Monitor", 9: "VM.GuestAgent.FileRead"}
_AGENT = "the privilege to run commands by the guest agent"
_AGENT_FILE = "the privilege to read a file by the guest agent"

_ENTERING = frozenset({Verb.UP, Verb.WAKE, Verb.SLEEP, Verb.IDLE, Verb.MODE})

CALLS: tuple[Call, ...] = (
    # A storage or VM that may not be seen is left out of this list without a word.
    _call("GET /cluster/resources", "doctor up wake sleep idle destroy status mode", (Place.VMS, "VM.Audit")),
    _call(
        "GET /cluster/resources",
        "doctor up",
        (Place.DISKS, "Datastore.Audit"),
        (Place.IMAGES, "Datastore.Audit"),
        (Place.SEEDS, "Datastore.Audit"),
    ),
    _call("GET /cluster/mapping/pci", "doctor up mode", (Place.GPU, "Mapping.Use")),
    _call("GET /nodes/{node}/status", "doctor", (Place.NODE, "Sys.Audit")),
    _call("GET /nodes/{node}/journal", "doctor", (Place.NODE, "Sys.Syslog"), optional=True),
    # Looked for on "/", not on the node: pve-manager, PVE/API2/Hardware/PCI.pm.
    _call("GET /nodes/{node}/hardware/pci", "doctor", (Place.ROOT, "Sys.Audit")),
    _call(f"GET {_VM}/status/current", "up wake sleep idle destroy mode", (Place.VMS, "VM.Audit")),
    # Like GET .../config, but it also shows what waits for the next cold start. In the notes stands a node's mode.
    _call(f"GET {_VM}/pending", "up wake sleep idle destroy status mode", (Place.VMS, "VM.Audit")),
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
    _call(f"PUT {_VM}/config", "up wake mode", (Place.VMS, "VM.Config.Options")),
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
    # A node that several others share an image with is cloned; without these rights its image is imported.
    _call(
        f"POST {_VM}/clone",
        "up",
        (Place.VMS, "VM.Allocate VM.Clone"),
        (Place.DISKS, "Datastore.AllocateSpace"),
        optional=True,
        granted=True,
    ),
    # A clone gets its shape afterwards, its seed with it, which takes a right that creating with the seed does not.
    _call(
        f"PUT {_VM}/config",
        "up",
        (
            Place.VMS,
            "VM.Config.CDROM VM.Config.CPU VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network"
            " VM.Config.Options",
        ),
        (Place.SEEDS, "Datastore.Audit"),
        (Place.BRIDGE, "SDN.Use"),
        (Place.GPU, "Mapping.Use"),
        optional=True,
        granted=True,
    ),
    _call(f"POST {_VM}/template", "up", (Place.VMS, "VM.Allocate"), optional=True, granted=True),
    _call(f"PUT {_VM}/resize", "up", (Place.VMS, "VM.Config.Disk"), (Place.DISKS, "Datastore.AllocateSpace")),
    _call(f"POST {_VM}/status/start", "up wake mode", (Place.VMS, "VM.PowerMgmt")),
    _call(f"POST {_VM}/status/shutdown", "up sleep idle mode", (Place.VMS, "VM.PowerMgmt")),
    _call(f"POST {_VM}/status/stop", "sleep destroy", (Place.VMS, "VM.PowerMgmt")),
    _call(f"DELETE {_VM}", "destroy", (Place.VMS, "VM.Allocate")),
    _call(f"DELETE {_STORAGE}/content/{{volume}}", "destroy", (Place.SEEDS, "Datastore.Allocate"), optional=True),
    # The drive itself takes both on a VM that exists (qemu-server, src/PVE/API2/Qemu.pm); its settings take the first.
    *(
        Call(
            request,
            frozenset({Verb.UP}),
            ((Place.VMS, ("VM.Config.CDROM", "VM.Config.Cloudinit")), (Place.DISKS, ("Datastore.AllocateSpace",))),
            native=True,
        )
        for request in (f"POST {_VM}/config", f"PUT {_VM}/config")
    ),
    # The guest's public SSH host key, before the first login.
    Call(f"GET {_VM}/agent/file-read", frozenset({Verb.UP}), ((Place.VMS, (_AGENT_FILE,)),), native=True),
    *(
        Call(request, _ENTERING, ((Place.VMS, (_AGENT,)),), simulated=True)
        for request in (f"GET {_VM}/agent/file-read", f"POST {_VM}/agent/exec", f"GET {_VM}/agent/exec-status")
    ),
)
"""Every request that takes a privilege. Looking at one's own tasks takes none.

Sources: the API's published schema (versions 8.4 and 9.1), and for what handlers check by themselves qemu-server,
src/PVE/API2/Qemu.pm. Proxmox takes some of these rights for others (``Datastore.AllocateSpace`` opens a storage's
list too); the table names the least.
"""


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
