"""Which privileges exist, and which of them the built-in roles carry, by major version."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

_GROUPS = {
    "VM": {
        "user": "VM.Audit VM.Console VM.Config.CDROM VM.Config.Cloudinit VM.PowerMgmt VM.Backup",
        "admin": "VM.Config.Disk VM.Config.CPU VM.Config.Memory VM.Config.Network VM.Config.HWType VM.Config.Options"
        " VM.Allocate VM.Clone VM.Migrate VM.Snapshot VM.Snapshot.Rollback",
        "audit": "VM.Audit",
    },
    "Datastore": {
        "user": "Datastore.AllocateSpace Datastore.Audit",
        "admin": "Datastore.Allocate Datastore.AllocateTemplate",
        "audit": "Datastore.Audit",
    },
    "SDN": {"user": "SDN.Audit SDN.Use", "admin": "SDN.Allocate", "audit": "SDN.Audit"},
    "Pool": {"user": "Pool.Audit", "admin": "Pool.Allocate", "audit": "Pool.Audit"},
    "User": {"user": "", "admin": "User.Modify Group.Allocate", "audit": ""},
    "Mapping": {"user": "Mapping.Audit Mapping.Use", "admin": "", "audit": "Mapping.Audit"},
    "Sys": {"user": "", "admin": "Sys.Audit Sys.Console Sys.Syslog", "audit": "Sys.Audit"},
}
_ROOT_ONLY = (
    "Realm.Allocate Realm.AllocateUser Permissions.Modify Sys.PowerMgmt Sys.Modify Sys.Incoming"
    " Sys.AccessNetwork Mapping.Modify"
)
_BY_MAJOR = {
    8: {"user": "VM.Monitor", "admin": "", "audit": ""},
    9: {
        "user": "",
        "admin": "VM.Replicate VM.GuestAgent.FileRead VM.GuestAgent.FileWrite VM.GuestAgent.FileSystemMgmt"
        " VM.GuestAgent.Unrestricted",
        "audit": "",
    },
}
_AGENT_AUDIT = "VM.GuestAgent.Audit"


@cache
def names(major: int) -> frozenset[str]:
    """Return every privilege of a major version."""
    return builtin_roles(major)["Administrator"]


@cache
def builtin_roles(major: int) -> Mapping[str, frozenset[str]]:
    """Return the roles that exist without anyone making them."""

    def carries(group: str, *levels: str) -> frozenset[str]:
        own = _GROUPS[group]
        found = {name for level in levels for name in own[level].split()}
        if group == "VM":
            found |= {name for level in levels for name in _BY_MAJOR[major][level].split()}
            if major >= 9:
                found.add(_AGENT_AUDIT)
        return frozenset(found)

    groups = tuple(_GROUPS)
    everything = frozenset().union(*(carries(group, "user", "admin", "audit") for group in groups))
    return {
        "Administrator": everything | frozenset(_ROOT_ONLY.split()),
        "PVEAdmin": everything | {"Realm.AllocateUser"},
        "NoAccess": frozenset(),
        "PVEAuditor": frozenset().union(*(carries(group, "audit") for group in groups)),
        "PVEDatastoreAdmin": carries("Datastore", "user", "admin"),
        "PVEDatastoreUser": carries("Datastore", "user"),
        "PVEMappingAdmin": carries("Mapping", "user") | {"Mapping.Modify"},
        "PVEMappingAuditor": carries("Mapping", "audit"),
        "PVEMappingUser": carries("Mapping", "user"),
        "PVEPoolAdmin": carries("Pool", "user", "admin"),
        "PVEPoolUser": carries("Pool", "user"),
        "PVESDNAdmin": carries("SDN", "user", "admin"),
        "PVESDNUser": carries("SDN", "user"),
        "PVESysAdmin": carries("Sys", "admin"),
        "PVETemplateUser": frozenset({"VM.Clone", "VM.Audit"}),
        "PVEUserAdmin": carries("User", "admin") | {"Realm.AllocateUser"},
        "PVEVMAdmin": carries("VM", "user", "admin"),
        "PVEVMUser": carries("VM", "user"),
    }
