"""Every path and method the lab serves: parameters and who may call.

Handlers live in `provisioner.lab.routes`; a handler without a line here, or a
line without a handler, fails at start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.lab.schema import permissions as may
from provisioner.lab.schema.endpoints_access import ACCESS
from provisioner.lab.schema.endpoints_qemu import QEMU
from provisioner.lab.schema.endpoints_storage import STORAGE
from provisioner.lab.schema.language import (
    ParamTable,
    flag,
    for_major,
    many,
    one_of,
    pieces,
    required,
    text,
    whole,
)
from provisioner.lab.schema.permissions import ALL, Row, Rule
from provisioner.lab.schema.property_strings import MAP_ENTRY
from provisioner.lab.schema.qemu_options import NODE

_VMID = whole("vmid", 100, 999999999, format="pve-vmid")
_MAPPING_ID = required(text("id", format="pve-configid"))
_MAP = many("map", pieces("map", MAP_ENTRY))
_MAPPING_OPTIONS = (
    text("description", max_length=4096),
    flag("live-migration-capable", 0),
    flag("mdev", 0),
)
_MAPPING = "/cluster/mapping/pci"
_UPID = required(text("upid"))

_NETWORK_TYPES = "bridge bond eth alias vlan OVSBridge OVSBond OVSPort OVSIntPort vnet any_bridge any_local_bridge"

_CLUSTER: tuple[Row, ...] = (
    ("GET", "/version", (), ALL),
    ("GET", "/cluster/status", (), may.has("/", "Sys.Audit")),
    ("GET", "/cluster/resources", (one_of("type", "vm storage node sdn"),), ALL),
    ("GET", "/cluster/nextid", (_VMID,), ALL),
    ("GET", "/cluster/tasks", (), ALL),
    ("GET", _MAPPING, (text("check-node", format="pve-node"),), ALL),
    ("POST", _MAPPING, (_MAPPING_ID, required(_MAP), *_MAPPING_OPTIONS), may.has("/mapping/pci", "Mapping.Modify")),
    (
        "GET",
        _MAPPING + "/{id}",
        (_MAPPING_ID,),
        may.one_of(*(may.has("/mapping/pci/{id}", f"Mapping.{what}") for what in ("Use", "Modify", "Audit"))),
    ),
    (
        "PUT",
        _MAPPING + "/{id}",
        (
            _MAPPING_ID,
            _MAP,
            *_MAPPING_OPTIONS,
            text("delete", format="pve-configid-list", max_length=4096),
            text("digest", max_length=64),
        ),
        may.has("/mapping/pci/{id}", "Mapping.Modify"),
    ),
    ("DELETE", _MAPPING + "/{id}", (_MAPPING_ID,), may.has("/mapping/pci", "Mapping.Modify")),
)

_NODES: tuple[Row, ...] = (
    ("GET", "/nodes", (), ALL),
    ("GET", "/nodes/{node}", (NODE,), ALL),
    ("GET", "/nodes/{node}/status", (NODE,), may.has("/nodes/{node}", "Sys.Audit")),
    ("GET", "/nodes/{node}/version", (NODE,), ALL),
    ("GET", "/nodes/{node}/dns", (NODE,), may.has("/nodes/{node}", "Sys.Audit")),
    (
        "GET",
        "/nodes/{node}/network",
        (
            NODE,
            one_of("type", _NETWORK_TYPES, only=8),
            one_of("type", _NETWORK_TYPES.replace("vlan ", "vlan fabric ") + " include_sdn", only=9),
        ),
        ALL,
    ),
    ("GET", "/nodes/{node}/apt/versions", (NODE,), may.has("/nodes/{node}", "Sys.Audit")),
    (
        "GET",
        "/nodes/{node}/journal",
        (
            NODE,
            text("endcursor"),
            whole("lastentries", 0),
            whole("since", 0),
            text("startcursor"),
            whole("until", 0),
        ),
        may.has("/nodes/{node}", "Sys.Syslog"),
    ),
    (
        "GET",
        "/nodes/{node}/hardware/pci",
        (NODE, text("pci-class-blacklist", format="string-list", default="05;06;0b"), flag("verbose", 1)),
        may.has_any("/", "Sys.Audit Sys.Modify"),
    ),
    (
        "GET",
        "/nodes/{node}/capabilities/qemu/machines",
        (NODE, one_of("arch", "x86_64 aarch64", only=9)),
        ALL,
    ),
    (
        "GET",
        "/nodes/{node}/lxc/{vmid}/config",
        (
            NODE,
            required(_VMID),
            flag("current", 0),
            text("snapshot", format="pve-configid", max_length=40),
        ),
        may.has("/vms/{vmid}", "VM.Audit"),
    ),
    (
        "GET",
        "/nodes/{node}/tasks",
        (
            NODE,
            flag("errors", 0),
            whole("limit", 0, default=50),
            whole("since"),
            one_of("source", "archive active all", "archive"),
            whole("start", 0, default=0),
            text("statusfilter", format="pve-task-status-type-list"),
            text("typefilter"),
            whole("until"),
            text("userfilter"),
            _VMID,
        ),
        ALL,
    ),
    ("GET", "/nodes/{node}/tasks/{upid}", (NODE, _UPID), ALL),
    ("DELETE", "/nodes/{node}/tasks/{upid}", (NODE, _UPID), ALL),
    ("GET", "/nodes/{node}/tasks/{upid}/status", (NODE, _UPID), ALL),
    (
        "GET",
        "/nodes/{node}/tasks/{upid}/log",
        (NODE, _UPID, flag("download"), whole("limit", 0, default=50), whole("start", 0, default=0)),
        ALL,
    ),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path in one major version."""

    method: str
    path: str
    params: ParamTable
    rule: Rule


def endpoints(major: int) -> Mapping[tuple[str, str], Endpoint]:
    """Return every endpoint of a major version by method and path."""
    rows: tuple[Row, ...] = (*_CLUSTER, *_NODES, *STORAGE, *QEMU, *ACCESS)
    found: dict[tuple[str, str], Endpoint] = {}
    for row in rows:
        # A fifth column is the rule of version 9 where the two differ.
        rule = row[3] if major == 8 else row[-1]
        found[row[0], row[1]] = Endpoint(row[0], row[1], ParamTable(for_major(row[2], major)), rule)
    return found
