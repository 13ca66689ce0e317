"""The cluster as a whole, its nodes, and PCI mappings."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING

from provisioner.lab.model import Mapping
from provisioner.lab.pci import entry_parts, mapping_view
from provisioner.lab.refusals import bad_parameters, failed
from provisioner.lab.routes import views
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema.formats import split_list

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_FIRST_FREE, _LAST_FREE = 100, 1_000_000


@serves("GET", "/version")
async def version(lab: Lab, call: Call) -> object:
    """Answer with the flavour of this lab."""
    return views.version(lab)


@serves("GET", "/cluster/status")
async def cluster_status(lab: Lab, call: Call) -> object:
    """List the cluster and its nodes."""
    nodes = [
        {
            "type": "node",
            "id": f"node/{node.name}",
            "name": node.name,
            "ip": node.ip,
            "online": int(node.online),
            "local": int(index == 0),
            "nodeid": index + 1,
            "level": "",
        }
        for index, node in enumerate(lab.cluster.nodes.values())
    ]
    if len(nodes) == 1:
        return nodes
    return [
        {"type": "cluster", "id": "cluster", "name": "lab", "nodes": len(nodes), "quorate": 1, "version": 1},
        *nodes,
    ]


@serves("GET", "/cluster/resources")
async def resources(lab: Lab, call: Call) -> object:
    """List VMs, storages and nodes, as far as the caller may see them."""
    wanted = call.params.get("type")
    found: list[dict[str, object]] = []
    if wanted in (None, "vm"):
        pools = {vmid: pool.name for pool in lab.cluster.pools.values() for vmid in pool.vms}
        found += [
            views.guest_resource(lab, guest, pools.get(guest.vmid))
            for guest in lab.cluster.guests.values()
            if lab.access.may(call.who, f"/vms/{guest.vmid}", ("VM.Audit",))
        ]
    if wanted in (None, "node"):
        found += [
            views.node_resource(lab, node, details=lab.access.may(call.who, f"/nodes/{node.name}", ("Sys.Audit",)))
            for node in lab.cluster.nodes.values()
        ]
    if wanted in (None, "storage"):
        found += [
            views.storage_resource(lab, storage, node.name)
            for storage in lab.cluster.storages.values()
            # Stricter than the storage's own pages, which AllocateSpace opens too.
            if lab.access.may(call.who, f"/storage/{storage.name}", ("Datastore.Audit",))
            for node in lab.cluster.nodes.values()
            if storage.nodes is None or node.name in storage.nodes
        ]
    if wanted in (None, "sdn"):
        found += [
            {
                "id": f"sdn/{node.name}/localnetwork",
                "node": node.name,
                "sdn": "localnetwork",
                "status": "ok",
                "type": "sdn",
            }
            for node in lab.cluster.nodes.values()
            if lab.access.may(call.who, "/sdn/zones/localnetwork", ("SDN.Audit", "SDN.Use"), any_of=True)
        ]
    return found


@serves("GET", "/cluster/nextid")
async def next_id(lab: Lab, call: Call) -> object:
    """Return the lowest free id, or say whether one id is free."""
    if "vmid" in call.params:
        if str(call.vmid) in lab.cluster.guests:
            raise bad_parameters({"vmid": f"VM {call.vmid} already exists"})
        return str(call.vmid)
    for vmid in range(_FIRST_FREE, _LAST_FREE):
        if str(vmid) not in lab.cluster.guests:
            return str(vmid)
    raise failed("unable to get any free VMID")


@serves("GET", "/cluster/tasks")
async def cluster_tasks(lab: Lab, call: Call) -> object:
    """List recent tasks of all nodes."""
    records = [r for r in lab.cluster.tasks.values() if views.sees_task(lab, call.who, r)]
    records.sort(key=lambda record: record.starttime, reverse=True)
    return [views.task_line(record) for record in records[:100]]


@serves("GET", "/cluster/mapping/pci")
async def list_mappings(lab: Lab, call: Call) -> object:
    """List mappings, with what is wrong with them on a node when asked."""
    node = call.params.get("check-node")
    found = []
    for mapping in lab.cluster.mappings.values():
        if not _sees_mapping(lab, call.who, mapping.name):
            continue
        view = mapping_view(mapping)
        if node is not None:
            view["checks"] = _checks(lab, mapping, str(node))
        found.append({**view, "digest": _digest(lab)})
    return found


@serves("POST", "/cluster/mapping/pci")
async def create_mapping(lab: Lab, call: Call) -> object:
    """Define a mapping; whether it fits the hardware is not looked at."""
    name = call.text("id")
    if name in lab.cluster.mappings:
        raise failed(f"create hardware mapping failed: pci ID '{name}' already defined")
    lab.cluster.mappings.save(name, _filled(Mapping(name, []), call))
    return None


@serves("GET", "/cluster/mapping/pci/{id}")
async def read_mapping(lab: Lab, call: Call) -> object:
    """Return one mapping."""
    return {**mapping_view(_mapping(lab, call.text("id"))), "digest": _digest(lab)}


@serves("PUT", "/cluster/mapping/pci/{id}")
async def update_mapping(lab: Lab, call: Call) -> object:
    """Change a mapping; its map is replaced as a whole."""
    prefix = "update hardware mapping failed: "
    if "digest" in call.params and call.text("digest") != _digest(lab):
        raise failed(f"{prefix}detected modified configuration - file changed by other user? Try again.")
    mapping = lab.cluster.mappings.get(call.text("id"))
    if mapping is None:
        raise failed(f"{prefix}pci ID '{call.text('id')}' does not exist")
    for key in split_list(call.text("delete")):
        name = key.replace("-", "_")
        if name == "map":
            raise failed(f"{prefix}unable to delete required option 'map'")
        if name not in ("description", "mdev", "live_migration_capable"):
            raise failed(f"{prefix}no such option '{key}'")
        setattr(mapping, name, None)
    lab.cluster.mappings.save(mapping.name, _filled(mapping, call))
    return None


@serves("DELETE", "/cluster/mapping/pci/{id}")
async def delete_mapping(lab: Lab, call: Call) -> object:
    """Remove a mapping; removing one that is not there is no error."""
    lab.cluster.mappings.remove(call.text("id"))
    return None


@serves("GET", "/nodes")
async def nodes(lab: Lab, call: Call) -> object:
    """List the nodes."""
    return [
        views.node_resource(lab, node, details=lab.access.may(call.who, f"/nodes/{node.name}", ("Sys.Audit",)))
        for node in lab.cluster.nodes.values()
    ]


@serves("GET", "/nodes/{node}")
async def node_index(lab: Lab, call: Call) -> object:
    """List what can be asked of a node."""
    return [
        {"name": name}
        for name in (
            "apt",
            "capabilities",
            "dns",
            "hardware",
            "network",
            "qemu",
            "status",
            "storage",
            "tasks",
            "version",
        )
    ]


@serves("GET", "/nodes/{node}/status")
async def node_status(lab: Lab, call: Call) -> object:
    """Return what a node is made of and how busy it is."""
    return views.node_status(lab, lab.cluster.node(call.node))


@serves("GET", "/nodes/{node}/version")
async def node_version(lab: Lab, call: Call) -> object:
    """Return the version of a node."""
    return views.version(lab)


@serves("GET", "/nodes/{node}/dns")
async def dns(lab: Lab, call: Call) -> object:
    """Return the resolver settings of a node."""
    return {"search": "lab.invalid", "dns1": "10.10.0.1"}


@serves("GET", "/nodes/{node}/network")
async def network(lab: Lab, call: Call) -> object:
    """List the bridges of a node."""
    node = lab.cluster.node(call.node)
    if call.params.get("type") not in (None, "bridge", "any_bridge", "any_local_bridge", "include_sdn"):
        return []
    return [
        views.bridge(node, index)
        for index, name in enumerate(node.bridges)
        if lab.access.may(call.who, f"/sdn/zones/localnetwork/{name}", ("SDN.Audit", "SDN.Use"), any_of=True)
    ]


@serves("GET", "/nodes/{node}/lxc/{vmid}/config")
async def container_config(lab: Lab, call: Call) -> object:
    """Return a container's configuration; containers are only ever described, never made here."""
    found = lab.cluster.guests.get(str(call.vmid))
    if found is None or found.node != lab.cluster.node(call.node).name or found.kind != "lxc":
        raise failed(f"Configuration file 'nodes/{call.node}/lxc/{call.vmid}.conf' does not exist")
    return {**found.config, "digest": hashlib.sha1(repr(found.config).encode(), usedforsecurity=False).hexdigest()}


@serves("GET", "/nodes/{node}/apt/versions")
async def package_versions(lab: Lab, call: Call) -> object:
    """List the packages that matter."""
    return views.package_versions(lab)


@serves("GET", "/nodes/{node}/journal")
async def system_journal(lab: Lab, call: Call) -> object:
    """Return kernel lines that say how the node was started."""
    stamp = time.strftime("%b %d %H:%M:%S", time.gmtime(lab.journal.started))
    lines = (
        "Command line: BOOT_IMAGE=/boot/vmlinuz-6.14.11-4-pve root=/dev/mapper/pve-root ro quiet",
        "DMAR-IR: Enabled IRQ remapping in x2apic mode",
    )
    return [f"{stamp} {call.node} kernel: {line}" for line in lines]


@serves("GET", "/nodes/{node}/hardware/pci")
async def pci_devices(lab: Lab, call: Call) -> object:
    """List PCI devices, without the classes that nobody passes through."""
    hidden = split_list(call.text("pci-class-blacklist", "05;06;0b"))
    found = []
    for device in lab.cluster.node(call.node).devices:
        pci_class = str(device.get("class", "0x000000"))
        if any(pci_class.removeprefix("0x").startswith(prefix) for prefix in hidden):
            continue
        view = {"id": device["address"], "class": pci_class, "iommugroup": device.get("iommugroup", -1)}
        if call.on("verbose", default=True):
            view |= {key: value for key, value in device.items() if key not in ("address", "driver")}
        found.append(view)
    return found


@serves("GET", "/nodes/{node}/capabilities/qemu/machines")
async def machines(lab: Lab, call: Call) -> object:
    """List machine types, newest first."""
    versions = ("9.2", "9.1", "9.0", "8.2") if lab.major == 8 else ("10.1", "10.0", "9.2", "9.0")
    return [
        {"id": f"pc-{kind}-{version}", "type": kind, "version": version}
        for kind in ("q35", "i440fx")
        for version in versions
    ]


def _mapping(lab: Lab, name: str) -> Mapping:
    found = lab.cluster.mappings.get(name)
    if found is None:
        raise failed(f"mapping '{name}' not found")
    return found


def _filled(mapping: Mapping, call: Call) -> Mapping:
    entries = call.params.get("map")
    if isinstance(entries, list):
        mapping.map = [",".join(f"{key}={value}" for key, value in sorted(entry_parts(e).items())) for e in entries]
    if "description" in call.params:
        mapping.description = call.text("description")
    if "mdev" in call.params:
        mapping.mdev = call.on("mdev")
    if "live-migration-capable" in call.params:
        mapping.live_migration_capable = call.on("live-migration-capable")
    return mapping


def _sees_mapping(lab: Lab, who: str, name: str) -> bool:
    needed = ("Mapping.Use", "Mapping.Modify", "Mapping.Audit")
    return lab.access.may(who, f"/mapping/pci/{name}", needed, any_of=True)


def _checks(lab: Lab, mapping: Mapping, node: str) -> list[dict[str, str]]:
    entries = [entry for entry in map(entry_parts, mapping.map) if entry.get("node") == node]
    if not entries:
        return [{"severity": "warning", "message": f"No mapping for node {node}."}]
    problems = [lab.pci.entry_problem(node, entry, mapping) for entry in entries]
    return [{"severity": "error", "message": f"Invalid configuration: {problem}"} for problem in problems if problem]


def _digest(lab: Lab) -> str:
    content = json.dumps([mapping_view(mapping) for mapping in lab.cluster.mappings.values()])
    return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
