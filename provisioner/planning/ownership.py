"""Whose VM is it? The one rule before anything is changed, stopped or deleted. Pure."""

from __future__ import annotations

from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.snapshot import VmSeen
from provisioner.errors import RefusedError


def is_nodes_own(vm: VmSeen, node: NodeSpec) -> bool:
    """Say whether a VM was made for this node: it carries our tag and the node's name."""
    return vm.is_ours and vm.name == node.name


def require_own(vm: VmSeen, node: NodeSpec, act: str) -> None:
    """Let an act on a VM pass only if the VM was made for this node.

    Args:
        vm: as it is right now; read again right before every stop and delete.
        node: whose VM it should be.
        act: what is about to happen, such as ``wake the node``.

    Raises:
        RefusedError: it is somebody else's.
    """
    if is_nodes_own(vm, node):
        return
    tags = ", ".join(sorted(vm.tags)) or "none"
    raise RefusedError(
        f'cannot {act}: VM {vm.vmid} is "{vm.name}" (tags: {tags}), not ours',
        subject=node.subject,
        next_step=f'only a VM with tag "{TAG}" and the node\'s name is touched; check vmid in the fleet file',
    )
