"""VM paths: configuration, power, cloning, and the guest agent."""

from __future__ import annotations

from provisioner.lab.schema import permissions as may
from provisioner.lab.schema.language import Param, flag, many, one_of, pieces, required, text, whole
from provisioner.lab.schema.permissions import ALL, Row, Rule
from provisioner.lab.schema.property_strings import MACHINE
from provisioner.lab.schema.qemu_options import ALL_DRIVE_KEYS, CREATE, NODE, UPDATE, UPDATE_ASYNC, VMID

_VMS = "/nodes/{node}/qemu"
_VM = _VMS + "/{vmid}"
_ONE = (NODE, VMID)
_SKIPLOCK = flag("skiplock")
_TIMEOUT = whole("timeout", 0)
_AUDITS = may.has("/vms/{vmid}", "VM.Audit")
_POWERS = may.has("/vms/{vmid}", "VM.PowerMgmt")
_ALLOCATES = may.has("/vms/{vmid}", "VM.Allocate")
_DISK = one_of("disk", " ".join(ALL_DRIVE_KEYS))
_CONFIGURES = may.has_any(
    "/vms/{vmid}",
    "VM.Config.Disk VM.Config.CDROM VM.Config.CPU VM.Config.Memory VM.Config.Network VM.Config.HWType"
    " VM.Config.Options VM.Config.Cloudinit",
)
_LARGEST_READ = 16 << 20
_MIGRATED_FROM = text("migratedfrom", format="pve-node")

_MONITORS = may.has("/vms/{vmid}", "VM.Monitor")
_AGENT_AUDITS = may.has_any("/vms/{vmid}", "VM.GuestAgent.Audit VM.GuestAgent.Unrestricted")
_AGENT_FILESYSTEM = may.has_any("/vms/{vmid}", "VM.GuestAgent.FileSystemMgmt VM.GuestAgent.Unrestricted")
_AGENT_FREEZE_STATUS = may.has_any(
    "/vms/{vmid}", "VM.GuestAgent.Audit VM.GuestAgent.FileSystemMgmt VM.GuestAgent.Unrestricted"
)
_AGENT_POWERS = may.has_any("/vms/{vmid}", "VM.PowerMgmt VM.GuestAgent.Unrestricted")
_AGENT_READS = may.has_any("/vms/{vmid}", "VM.GuestAgent.FileRead VM.GuestAgent.Unrestricted")
_AGENT_FREE = may.has("/vms/{vmid}", "VM.GuestAgent.Unrestricted")

AGENT_COMMANDS: tuple[tuple[str, str, Rule], ...] = (
    ("POST", "fsfreeze-freeze", _AGENT_FILESYSTEM),
    ("POST", "fsfreeze-status", _AGENT_FREEZE_STATUS),
    ("POST", "fsfreeze-thaw", _AGENT_FILESYSTEM),
    ("POST", "fstrim", _AGENT_FILESYSTEM),
    ("GET", "get-fsinfo", _AGENT_AUDITS),
    ("GET", "get-host-name", _AGENT_AUDITS),
    ("GET", "get-osinfo", _AGENT_AUDITS),
    ("GET", "get-time", _AGENT_AUDITS),
    ("GET", "get-timezone", _AGENT_AUDITS),
    ("GET", "get-users", _AGENT_AUDITS),
    ("GET", "get-vcpus", _AGENT_AUDITS),
    ("GET", "info", _AGENT_AUDITS),
    ("GET", "network-get-interfaces", _AGENT_AUDITS),
    ("POST", "ping", _AGENT_AUDITS),
    ("POST", "shutdown", _AGENT_POWERS),
)
"""The plain agent commands that have a path of their own."""

_GENERIC_AGENT_COMMANDS = (
    "fsfreeze-freeze fsfreeze-status fsfreeze-thaw fstrim get-fsinfo get-host-name get-memory-block-info"
    " get-memory-blocks get-osinfo get-time get-timezone get-users get-vcpus info network-get-interfaces ping"
    " shutdown suspend-disk suspend-hybrid suspend-ram"
)


def _power(action: str, *params: Param) -> tuple[str, str, tuple[Param, ...], Rule]:
    return ("POST", f"{_VM}/status/{action}", (*_ONE, *params), _POWERS)


QEMU: tuple[Row, ...] = (
    ("GET", _VMS, (NODE, flag("full")), ALL),
    ("POST", _VMS, CREATE, ALL),
    ("GET", _VM, _ONE, ALL),
    (
        "DELETE",
        _VM,
        (*_ONE, flag("destroy-unreferenced-disks", 0), flag("purge"), _SKIPLOCK),
        _ALLOCATES,
    ),
    (
        "GET",
        _VM + "/config",
        (*_ONE, flag("current", 0), text("snapshot", format="pve-configid", max_length=40)),
        _AUDITS,
    ),
    ("PUT", _VM + "/config", UPDATE, _CONFIGURES),
    ("POST", _VM + "/config", UPDATE_ASYNC, _CONFIGURES),
    ("GET", _VM + "/pending", _ONE, _AUDITS),
    ("GET", _VM + "/snapshot", _ONE, _AUDITS),
    (
        "PUT",
        _VM + "/resize",
        (
            *_ONE,
            text("digest", max_length=40),
            required(_DISK),
            required(text("size", pattern=r"\+?\d+(\.\d+)?[KMGT]?")),
            _SKIPLOCK,
        ),
        may.has("/vms/{vmid}", "VM.Config.Disk"),
    ),
    ("GET", _VM + "/status", _ONE, ALL),
    ("GET", _VM + "/status/current", _ONE, _AUDITS),
    _power(
        "start",
        text("force-cpu"),
        pieces("machine", MACHINE),
        _MIGRATED_FROM,
        text("migration_network", format="CIDR"),
        one_of("migration_type", "secure insecure"),
        text("nets-host-mtu", pattern=r"net\d+=\d+(,net\d+=\d+)*"),
        _SKIPLOCK,
        text("stateuri", max_length=128),
        text("targetstorage", format="storage-pair-list"),
        whole("timeout", 0, default="max(30, vm memory in GiB)"),
        flag("with-conntrack-state", 0, only=9),
    ),
    _power("stop", flag("keepActive", 0), _MIGRATED_FROM, flag("overrule-shutdown", 0), _SKIPLOCK, _TIMEOUT),
    _power("shutdown", flag("forceStop", 0), flag("keepActive", 0), _SKIPLOCK, _TIMEOUT),
    _power("reboot", _TIMEOUT),
    _power("reset", _SKIPLOCK),
    _power(
        "suspend",
        _SKIPLOCK,
        text("statestorage", format="pve-storage-id", requires="todisk"),
        flag("todisk", 0),
    ),
    _power("resume", flag("nocheck"), _SKIPLOCK),
    (
        "POST",
        _VM + "/clone",
        (
            *_ONE,
            whole("bwlimit", 0, default="clone limit from datacenter or storage config"),
            text("description"),
            one_of("format", "raw qcow2 vmdk"),
            flag("full"),
            text("name", format="dns-name"),
            required(whole("newid", 100, 999999999, format="pve-vmid")),
            text("pool", format="pve-poolid"),
            text("snapname", format="pve-configid", max_length=40),
            text("storage", format="pve-storage-id"),
            text("target", format="pve-node"),
        ),
        may.all_of(
            may.has("/vms/{vmid}", "VM.Clone"),
            may.one_of(
                may.has("/vms/{newid}", "VM.Allocate"),
                may.has("/pool/{pool}", "VM.Allocate", needs_param="pool"),
            ),
        ),
    ),
    ("POST", _VM + "/template", (*_ONE, _DISK), _ALLOCATES),
    ("GET", _VM + "/cloudinit", _ONE, _AUDITS),
    ("PUT", _VM + "/cloudinit", _ONE, may.has("/vms/{vmid}", "VM.Config.Cloudinit")),
    ("GET", _VM + "/cloudinit/dump", (*_ONE, required(one_of("type", "user network meta"))), _AUDITS),
    (
        "POST",
        _VM + "/agent",
        (*_ONE, required(one_of("command", _GENERIC_AGENT_COMMANDS))),
        _MONITORS,
        may.has_any("/vms/{vmid}", "VM.GuestAgent.Unrestricted VM.GuestAgent.Unrestricted"),
    ),
    (
        "POST",
        _VM + "/agent/exec",
        (
            *_ONE,
            required(many("command", text("command", only=9), only=9)),
            required(many("command", Param("command", type="any", format="string"), only=8)),
            text("input-data", max_length=65536),
        ),
        _MONITORS,
        _AGENT_FREE,
    ),
    (
        "GET",
        _VM + "/agent/exec-status",
        (*_ONE, required(whole("pid"))),
        _MONITORS,
        _AGENT_FREE,
    ),
    (
        "GET",
        _VM + "/agent/file-read",
        (
            *_ONE,
            required(text("file")),
            whole("count", 1, _LARGEST_READ, default=str(_LARGEST_READ), only=9),
            flag("decode", 1, only=9),
            whole("offset", 0, default=0, only=9),
        ),
        _MONITORS,
        _AGENT_READS,
    ),
    *((method, f"{_VM}/agent/{command}", _ONE, _MONITORS, rule) for method, command, rule in AGENT_COMMANDS),
)
