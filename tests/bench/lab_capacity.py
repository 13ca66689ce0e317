"""The embedded Proxmox with ten thousand simulated VMs: how long it takes to be there, to answer, and its memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import lab_process
from tests.bench.watching import cpu_seconds, memory_mib

VMS = 10_000
NODES = 20
ROUNDS = 10


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    state = bench.folder / "state.json"
    state.write_text(json.dumps(description(VMS, NODES)))
    began = time.monotonic()
    with lab_process(bench.folder / "lab", "--state", str(state)) as lab:
        up = time.monotonic() - began
        proxmox = lab.as_root()
        found, cpu = [], cpu_seconds(lab.pid)
        for _ in range(ROUNDS):
            began = time.monotonic()
            vms = proxmox.cluster.resources.get(type="vm")
            found.append(time.monotonic() - began)
            assert len(vms) == VMS
            assert sum(vm["status"] == "running" for vm in vms) == VMS // 2
        cpu = (cpu_seconds(lab.pid) - cpu) / ROUNDS
        memory = memory_mib(lab.pid)
    row = f"provisioning.lab_{VMS}_vms"
    yield Result(f"{row}.resources", "s", "", Figures.of(found), note=f"{cpu:.2g} s of it the lab's processor time")
    yield Result(f"{row}.start", "s", "", Figures.of([up]), note="from nothing, disks and running guests included")
    yield Result(f"{row}.memory", "MiB", "", Figures.of([memory]))


def description(vms: int, nodes: int) -> dict[str, object]:
    """Describe a cluster, every second VM of which runs."""
    names = [f"pve{number + 1}" for number in range(nodes)]
    return {
        "nodes": {name: {} for name in names},
        "storage": {
            "local": {"type": "dir", "content": ["iso", "import"], "path": "/var/lib/vz"},
            "local-lvm": {"type": "lvmthin", "content": ["images"], "vgname": "pve", "thinpool": "data"},
        },
        "guests": {
            str(1000 + number): {
                "node": names[number % nodes],
                "type": "qemu",
                "status": "running" if number % 2 else "stopped",
                "config": {
                    "name": f"vm-{number}",
                    "cores": "4",
                    "memory": "8192",
                    "scsi0": f"local-lvm:vm-{1000 + number}-disk-0,size=32G",
                    "net0": f"virtio=BC:24:11:{_mac(number)},bridge=vmbr0",
                    "tags": "bench",
                },
            }
            for number in range(vms)
        },
    }


def _mac(number: int) -> str:
    return ":".join(re.findall("..", f"{number:06X}"))
