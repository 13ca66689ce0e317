"""What one writes with proxmoxer in ten minutes: create, wait, start, wait, one VM after the other."""

from __future__ import annotations

import os
import sys

from proxmoxer import ProxmoxAPI
from proxmoxer.tools import Tasks

proxmox = ProxmoxAPI(
    os.environ["BENCH_HOST"],
    port=int(os.environ["BENCH_PORT"]),
    user="provisioner@pve",
    token_name="fleet",
    token_value=os.environ["BENCH_SECRET"],
    verify_ssl=os.environ["BENCH_CA"],
)
node = proxmox.nodes("pve1")
for vmid in map(int, sys.argv[1:]):
    upid = node.qemu.post(
        vmid=vmid,
        name=f"node-{vmid}",
        cores=2,
        memory=1024,
        cpu="host",
        machine="q35",
        scsihw="virtio-scsi-single",
        scsi0="local-lvm:0,import-from=local:import/bench.qcow2,discard=on,iothread=1",
        net0="virtio,bridge=vmbr0",
        boot="order=scsi0",
        onboot=0,
    )
    assert Tasks.blocking_status(proxmox, upid)["exitstatus"] == "OK"
    assert Tasks.blocking_status(proxmox, node.qemu(vmid).status.start.post())["exitstatus"] == "OK"
