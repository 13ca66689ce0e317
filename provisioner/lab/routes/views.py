"""How the API shows things: one function a shape, so that lists and single answers agree."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from provisioner.lab.model import GIB, Guest, Node, Storage, TaskRecord

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_ROOT_DISK = 100 * GIB


def version(lab: Lab) -> dict[str, object]:
    """Return what ``GET /version`` says."""
    from provisioner.lab.core import VERSIONS

    full = VERSIONS[lab.options.pve]
    return {"version": full, "release": lab.options.pve, "repoid": "1ab0000000000000"}


def guest_facts(lab: Lab, guest: Guest) -> dict[str, object]:
    """Return what lists of guests and the status of one have in common."""
    config = guest.config
    is_vm = guest.kind == "qemu"
    running = lab.is_running(guest)
    options = lab.vm_options
    memory = config.get("memory", "512")
    if is_vm and not memory.isdigit():
        memory = options.parts("memory", memory)["current"]
    used = int(memory) * 1024**2
    facts: dict[str, object] = {
        "vmid": guest.vmid,
        "name": config.get("name", config.get("hostname", f"VM {guest.vmid}")),
        "status": "running" if running else "stopped",
        "uptime": int(lab.backend.uptime_seconds(guest.vmid)) if running else 0,
        "maxmem": used,
        "mem": used if running else 0,
        "cpu": 0.01 if running else 0,
        "disk": 0,
        "maxdisk": boot_disk_size(lab, guest),
        "netin": 0,
        "netout": 0,
        "diskread": 0,
        "diskwrite": 0,
    }
    for key in ("tags", "lock"):
        if key in config:
            facts[key] = config[key]
    if config.get("template") == "1":
        facts["template"] = 1
    return facts


def guest_resource(lab: Lab, guest: Guest, pool: str | None) -> dict[str, object]:
    """Return a guest's line in ``/cluster/resources``."""
    facts = guest_facts(lab, guest)
    facts |= {
        "id": f"{guest.kind}/{guest.vmid}",
        "type": guest.kind,
        "node": guest.node,
        "maxcpu": vcpus(guest),
        "template": int(guest.config.get("template") == "1"),
    }
    if not lab.cluster.nodes[guest.node].online:
        # What a server that is away last said of its guests is dropped after five minutes; that is now.
        facts["status"] = "unknown"
        del facts["name"]
    if pool is not None:
        facts["pool"] = pool
    if guest.vmid in lab.adversity.ha:
        facts["hastate"] = lab.adversity.ha[guest.vmid].state
    if lab.major >= 9 and facts["status"] == "running":
        facts["memhost"] = facts["mem"]
    return facts


def vcpus(guest: Guest) -> int:
    """Return how many virtual processors a guest has."""
    return int(guest.config.get("cores", "1")) * int(guest.config.get("sockets", "1"))


def boot_disk_size(lab: Lab, guest: Guest) -> int:
    """Return the size of the first disk that is recorded."""
    for key in ("scsi0", "virtio0", "sata0", "ide0"):
        if key in guest.config:
            volume = lab.cluster.volumes.get(guest.config[key].split(",")[0])
            if volume is not None:
                return volume.size
    return 0


def node_resource(lab: Lab, node: Node, *, details: bool) -> dict[str, object]:
    """Return a node's line in lists."""
    view: dict[str, object] = {
        "id": f"node/{node.name}",
        "node": node.name,
        "type": "node",
        "status": "online" if node.online else "offline",
        "level": "",
    }
    if details and node.online:
        view |= {
            "maxcpu": node.threads,
            "cpu": 0.02,
            "maxmem": node.memory_bytes,
            "mem": used_memory(lab, node),
            "maxdisk": _ROOT_DISK,
            "disk": _ROOT_DISK // 10,
            "uptime": int(time.time() - lab.journal.started) + 3600,
        }
    return view


def bridge(node: Node, index: int) -> dict[str, object]:
    """Return a bridge's line in the list of network interfaces; the first one has the node's address, if any has."""
    view: dict[str, object] = {
        "iface": node.bridges[index],
        "type": "bridge",
        "active": 1,
        "autostart": 1,
        "method": "manual",
        "priority": index + 3,
    }
    if index > 0 or node.cidr is None:
        return view
    address, _, prefix = node.cidr.partition("/")
    view |= {"method": "static", "cidr": node.cidr, "address": address, "netmask": prefix}
    return view if node.gateway is None else {**view, "gateway": node.gateway}


def used_memory(lab: Lab, node: Node) -> int:
    """Return the memory that running guests take from a node."""
    guests = sum(
        int(str((guest.run or {}).get("memory", 0))) * 1024**2
        for guest in lab.cluster.guests.values()
        if guest.node == node.name and guest.run
    )
    return min(node.memory_bytes, 2 * GIB + guests)


def node_status(lab: Lab, node: Node) -> dict[str, object]:
    """Return what ``/nodes/{node}/status`` says."""
    used = used_memory(lab, node)
    kernel = "6.8.12-15-pve" if lab.major == 8 else "6.14.11-4-pve"
    memory: dict[str, object] = {"total": node.memory_bytes, "used": used, "free": node.memory_bytes - used}
    if lab.major >= 9:
        memory["available"] = node.memory_bytes - used
    return {
        "uptime": int(time.time() - lab.journal.started) + 3600,
        "cpu": 0.02,
        "wait": 0,
        "idle": 0,
        "loadavg": ["0.10", "0.12", "0.09"],
        "memory": memory,
        "swap": {"total": 8 * GIB, "used": 0, "free": 8 * GIB},
        "rootfs": {
            "total": _ROOT_DISK,
            "used": _ROOT_DISK // 10,
            "free": _ROOT_DISK * 9 // 10,
            "avail": _ROOT_DISK * 9 // 10,
        },
        "ksm": {"shared": 0},
        "cpuinfo": {
            "model": "AMD Ryzen 9 5950X 16-Core Processor",
            "cpus": node.threads,
            "cores": max(1, node.threads // 2),
            "sockets": 1,
            "mhz": "3400.000",
            "hvm": "1",
            "flags": "fpu vme de pse avx avx2 svm",
            "user_hz": 100,
        },
        "boot-info": {"mode": "efi", "secureboot": 0},
        "current-kernel": {
            "sysname": "Linux",
            "release": kernel,
            "version": "#1 SMP PREEMPT_DYNAMIC PMX",
            "machine": "x86_64",
        },
        "kversion": f"Linux {kernel} #1 SMP PREEMPT_DYNAMIC PMX",
        "pveversion": f"pve-manager/{version(lab)['version']}/{version(lab)['repoid']}",
    }


def package_versions(lab: Lab) -> list[dict[str, object]]:
    """Return the installed packages that clients ask about."""
    from provisioner.lab.core import QEMU_VERSIONS

    packages = {
        "pve-manager": str(version(lab)["version"]),
        "qemu-server": "8.4.5" if lab.major == 8 else "9.1.3",
        "pve-qemu-kvm": f"{QEMU_VERSIONS[lab.major]}-1",
        "libpve-storage-perl": "8.3.8" if lab.major == 8 else "9.1.0",
    }
    return [
        {
            "Package": name,
            "Version": found,
            "OldVersion": found,
            "CurrentState": "Installed",
            "Arch": "all",
            "Origin": "Proxmox",
        }
        for name, found in packages.items()
    ]


def sees_storage(lab: Lab, who: str, name: str) -> bool:
    """Say whether a storage is listed for somebody."""
    return lab.access.may(who, f"/storage/{name}", ("Datastore.Audit", "Datastore.AllocateSpace"), any_of=True)


def _is_in_reach(lab: Lab, storage: Storage, node: str) -> bool:
    return not storage.disabled and storage.name not in lab.storages.away and lab.cluster.nodes[node].online


def storage_resource(lab: Lab, storage: Storage, node: str) -> dict[str, object]:
    """Return a storage's line in ``/cluster/resources``."""
    return {
        "id": f"storage/{node}/{storage.name}",
        "type": "storage",
        "storage": storage.name,
        "node": node,
        "plugintype": storage.type,
        "content": ",".join(storage.content),
        "shared": int(lab.storages.is_shared(storage)),
        "status": "available" if _is_in_reach(lab, storage, node) else "unknown",
        "maxdisk": lab.storages.total_bytes(storage),
        "disk": lab.storages.used_bytes(storage),
    }


def sees_task(lab: Lab, who: str, record: TaskRecord) -> bool:
    """Say whether a task is somebody's own (a user's tokens count), or they may look at those of others."""
    own = record.user == who or record.user.partition("!")[0] == who
    return own or lab.access.may(who, f"/nodes/{record.node}", ("Sys.Audit",))


def task_facts(record: TaskRecord) -> dict[str, object]:
    """Return who started what and when; a token is shown apart from its user."""
    user, mark, token = record.user.partition("!")
    facts: dict[str, object] = {
        "upid": record.upid,
        "node": record.node,
        "pid": record.pid,
        "pstart": record.pstart,
        "starttime": record.starttime,
        "type": record.type,
        "id": record.id,
        "user": user,
    }
    return {**facts, "tokenid": token} if mark else facts


def task_line(record: TaskRecord) -> dict[str, object]:
    """Return a task's line in lists."""
    line = task_facts(record)
    if record.exitstatus is not None:
        line |= {"endtime": record.endtime, "status": record.exitstatus}
    return line
