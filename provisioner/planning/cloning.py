"""Import or linked clone? And which template? Pure.

A linked clone shares the blocks of a template's disk, so it is made in a moment
where an import copies the whole image. The template itself costs an import, so
one node alone gains nothing by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import Vmid
from provisioner.domain.snapshot import ClusterSnapshot, StorageSeen, VmSeen
from provisioner.domain.templates import (
    CLONE_PRIVILEGES,
    FIRST_TEMPLATE_VMID,
    NATIVE_CLONE_PRIVILEGES,
    CloneChoice,
    Template,
    TemplateShape,
    is_template_of_ours,
)
from provisioner.planning.native_drive import is_native

Permissions = Mapping[str, Mapping[str, int]]
"""What ``GET /access/permissions`` answers, as in `planning.access.rights`."""

LINKED_CLONE_KINDS = frozenset({"lvmthin", "zfspool", "zfs", "rbd", "dir", "nfs", "cifs", "btrfs"})
"""Storages that make linked clones (pve-docs, pvesm.adoc); those of files do it with qcow2, LVM without thin never."""

_LEAST_SHARERS = 2
_WORTH_IT = f"a template pays from {_LEAST_SHARERS} nodes on"


@dataclass(frozen=True, slots=True)
class Making:
    """How a node's VM is to be made, and why.

    `template` is None for an import. `ready` is the template, where it exists already.
    `is_refused` means that the fleet file insists on a clone that cannot be.
    """

    why: str
    template: TemplateShape | None = None
    ready: Template | None = None
    is_refused: bool = False


def how_to_make(
    fleet: FleetSpec, node: NodeSpec, cluster: ClusterSnapshot, permissions: Permissions | None = None
) -> Making:
    """Return how a node's VM is to be made.

    Args:
        fleet: whose nodes share images.
        node: whose VM is missing.
        cluster: as it is now; it knows the storages' types and the templates.
        permissions: what our login may do; None while that has not been asked.
    """
    if node.clone is CloneChoice.NEVER:
        return Making("imported, as the fleet file says")
    storage = _disks(fleet, node, cluster)
    if storage is None:
        return _import(node, f'imported: storage "{fleet.cluster_of(node).storage.disks}" is not in sight')
    if storage.kind not in LINKED_CLONE_KINDS:
        kind = f"of type {storage.kind}" if storage.kind else "of a type that Proxmox does not tell"
        return _import(node, f'imported: storage "{storage.name}", {kind}, makes no linked clones')
    sharers = _sharers(fleet, node, storage)
    image = f'"{node.image}" on {storage.name}'
    template = template_shape(fleet, node, storage)
    found = templates(fleet, cluster, template, node, storage)
    if node.clone is CloneChoice.AUTO and sharers < _LEAST_SHARERS:
        return Making(f"imported: no other node here uses image {image}, and {_WORTH_IT}")
    if node.clone is CloneChoice.AUTO and not found and _missing(fleet, node, cluster, storage) < _LEAST_SHARERS:
        return Making(f"imported: it is the only node of image {image} still to be made, and {_WORTH_IT}")
    ready = next((each for each in found if each.is_template), None)
    source = ready.vmid if ready else FIRST_TEMPLATE_VMID
    lacking = [] if permissions is None else _lacking(permissions, node, source)
    if lacking:
        return _import(node, f"imported: the token lacks {', '.join(lacking)}")
    share = f"{sharers} nodes share image {image}" if sharers > 1 else f"the fleet file asks for it, image {image}"
    why = f"a linked clone, made in a moment: {share} ({storage.kind})"
    return Making(why, template, Template(ready.vmid, ready.hypervisor) if ready else None)


def template_shape(fleet: FleetSpec, node: NodeSpec, storage: StorageSeen) -> TemplateShape:
    """Return the template that a node's VM is a clone of."""
    image, roles = fleet.images[node.image], fleet.cluster_of(node).storage
    facts = f"{image.sha256} {storage.name} {node.options.secure_boot}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:8]
    # Names of VMs are DNS names; those of images are freer.
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in node.image).strip("-")[:40]
    return TemplateShape(
        key=key,
        image=plain.lower(),
        disk_storage=storage.name,
        disk_kind=storage.kind,
        image_storage=roles.images,
        image_volume=image.volume_name,
        secure_boot=node.options.secure_boot,
    )


def templates(
    fleet: FleetSpec, cluster: ClusterSnapshot, template: TemplateShape, node: NodeSpec, storage: StorageSeen
) -> tuple[VmSeen, ...]:
    """Return the VMs that are a template, or may be on their way to be it, from which a node's VM can be cloned.

    Clones have their template's tags too, nodes until they get their shape and a person's own for good: those go by
    other names. A name shows seconds later than tags, so one without is closely looked at before anything is done
    to it. The node's own server first, then by VMID, so that all who look choose the same.
    """
    nodes = {each.vmid for each in fleet.nodes.values()}
    found = [
        vm
        for vm in cluster.vms.values()
        if is_template_of_ours(vm)
        and template.tag in vm.tags
        and vm.lock is None
        and vm.vmid not in nodes
        and (vm.name == template.name or (not vm.name and not vm.is_template))
        and (vm.hypervisor == node.hypervisor or (storage.is_shared and bool(cluster.hypervisors.get(vm.hypervisor))))
    ]
    return tuple(sorted(found, key=lambda vm: (vm.hypervisor != node.hypervisor, vm.vmid)))


def free_template_vmid(fleet: FleetSpec, vms: Mapping[Vmid, VmSeen], taken: frozenset[Vmid]) -> Vmid:
    """Return the first VMID for a template that no VM in sight has, no node is to have, and none was found to have."""
    nodes = {node.vmid for node in fleet.nodes.values()}
    vmid = FIRST_TEMPLATE_VMID
    while vmid in vms or vmid in nodes or vmid in taken:
        vmid = Vmid(vmid + 1)
    return vmid


def wanted_keys(fleet: FleetSpec, cluster_name: str, cluster: ClusterSnapshot) -> frozenset[str]:
    """Return the keys of the templates that nodes of the fleet file are, or will be, made from."""
    keys = set()
    for node in fleet.nodes.values():
        if fleet.cluster_of(node).name != cluster_name or node.adopt or node.clone is CloneChoice.NEVER:
            continue
        storage = _disks(fleet, node, cluster)
        insists = node.clone is CloneChoice.ALWAYS
        if storage is not None and (insists or _sharers(fleet, node, storage) >= _LEAST_SHARERS):
            keys.add(template_shape(fleet, node, storage).key)
    return frozenset(keys)


def template_left_behind(fleet: FleetSpec, node: NodeSpec, cluster: ClusterSnapshot) -> VmSeen | None:
    """Return the template that stays when a node's VM, the last one made from it, is gone."""
    making, storage = how_to_make(fleet, node, cluster), _disks(fleet, node, cluster)
    if making.template is None or making.ready is None or storage is None:
        return None
    others = (
        other for other in fleet.nodes.values() if other.name != node.name and _shares(fleet, node, other, storage)
    )
    if any(other.vmid in cluster.vms for other in others):
        return None
    return cluster.vms[making.ready.vmid]


def _disks(fleet: FleetSpec, node: NodeSpec, cluster: ClusterSnapshot) -> StorageSeen | None:
    return cluster.storages.get((node.hypervisor, fleet.cluster_of(node).storage.disks))


def _sharers(fleet: FleetSpec, node: NodeSpec, storage: StorageSeen) -> int:
    """Count the nodes whose VMs one template serves."""
    return sum(_shares(fleet, node, other, storage) for other in fleet.nodes.values())


def _missing(fleet: FleetSpec, node: NodeSpec, cluster: ClusterSnapshot, storage: StorageSeen) -> int:
    """Count those of the nodes that one template serves which have no VM yet."""
    return sum(each.vmid not in cluster.vms and _shares(fleet, node, each, storage) for each in fleet.nodes.values())


def _shares(fleet: FleetSpec, node: NodeSpec, other: NodeSpec, storage: StorageSeen) -> bool:
    """Say whether one template serves both nodes."""
    return (
        not other.adopt
        and other.clone is not CloneChoice.NEVER
        and other.image == node.image
        and other.options.secure_boot == node.options.secure_boot
        and (
            other.hypervisor == node.hypervisor
            or (storage.is_shared and fleet.cluster_of(other).name == fleet.cluster_of(node).name)
        )
    )


def _lacking(permissions: Permissions, node: NodeSpec, source: Vmid) -> list[str]:
    # Asked where a VM is to be made; who only looks has no use for all that comes with it.
    from provisioner.planning.access.rights import is_held

    return [
        f"{privilege} on /vms"
        for privilege in (NATIVE_CLONE_PRIVILEGES if is_native(node) else CLONE_PRIVILEGES)
        if not all(is_held(permissions, f"/vms/{vmid}", privilege) for vmid in (node.vmid, source))
    ]


def _import(node: NodeSpec, why: str) -> Making:
    return Making(why, is_refused=node.clone is CloneChoice.ALWAYS)
