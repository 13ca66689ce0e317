"""Looks at Proxmox for what planning needs to know of nodes."""

from __future__ import annotations

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.snapshot import VmSeen
from provisioner.ports.hypervisors import Hypervisors


def find_vm(api: Hypervisors, node: NodeSpec) -> VmSeen | None:
    """Return the VM with a node's VMID as it is now, wherever in the cluster it is.

    One call where the VM is where it should be; only one that is not there is
    looked for elsewhere, so that a VM that has moved is never taken for gone.
    """
    return api.vm(node.hypervisor, node.vmid) or api.snapshot().vms.get(node.vmid)
