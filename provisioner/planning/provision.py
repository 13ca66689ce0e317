"""From what is to what the fleet file wants: the named steps of `up`. Pure."""

from __future__ import annotations

from provisioner.domain.actions import (
    AwaitCreation,
    AwaitGuest,
    CreateVm,
    DownloadImage,
    GrowDisk,
    Plan,
    ProveEngine,
    Refusal,
    RenewNotes,
    RunPlaybook,
    SealSeed,
    StartVm,
    Step,
    StepKind,
    UploadSeed,
    VmShape,
)
from provisioner.domain.conventions import mac_address
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.notes import read_notes
from provisioner.domain.quantities import size_text
from provisioner.domain.snapshot import NodeSeen, Power
from provisioner.engines.base import Deployment, InferenceEngine
from provisioner.planning.ownership import Act, Why, free_vmid, objection
from provisioner.planning.readiness import HypervisorFacts, failures, hypervisor_checks

_CHANGE, _ENSURE = StepKind.CHANGE, StepKind.ENSURE
_ADOPTED = "adopted, so nothing is created, changed or configured"


def seed_volume(node: NodeSpec) -> str:
    """Return the name of a node's seed ISO. The VMID is in it: renamed nodes must not meet each other's seed."""
    return f"{node.name}-{node.vmid}-seed.iso"


def plan_node(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen, engine: InferenceEngine) -> Plan:
    """Return the steps that bring one node into being, or the reason why not.

    Args:
        fleet: what is wanted.
        node: the node to bring about.
        seen: its place in the cluster right now.
        engine: the description of its first mode's engine.
    """
    if node.adopt:
        return _adopted_plan(fleet, node, seen)
    refusal = _refusal(fleet, node, seen)
    steps = () if refusal else (*_vm_steps(fleet, node, seen), *_guest_steps(fleet, node, seen, engine))
    notes = seen.config.notes if seen.config else ""
    return Plan(node, steps, refusal, notes)


def _adopted_plan(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> Plan:
    """Whoever made the VM answers for its hardware and software; here is only power and the proof."""
    if not seen.cluster.hypervisors.get(node.hypervisor):
        return Plan(node, (), _offline(fleet, node, seen), remark=_ADOPTED)
    found = objection(node, seen.vm or seen.cluster.vms.get(node.vmid), Act.PROVISION)
    if found is not None:
        return Plan(node, (), Refusal(found.reason, found.next_step), remark=_ADOPTED)
    start = Step("start", _CHANGE, StartVm(node.vmid), "the VM is off")
    runs = seen.vm is not None and seen.vm.power is Power.RUNNING
    return Plan(node, (*(() if runs else (start,)), _proof(fleet, node)), remark=_ADOPTED)


def _offline(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> Refusal:
    check = hypervisor_checks(_facts(fleet, node, seen))[0]
    return Refusal(check.found, check.next_step)


def _facts(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> HypervisorFacts:
    return HypervisorFacts(
        fleet, fleet.cluster_of(node), fleet.hypervisors[node.hypervisor], seen.cluster, seen.mappings
    )


def _proof(fleet: FleetSpec, node: NodeSpec) -> Step:
    model = fleet.mode_of(node).model
    return Step("prove", _ENSURE, ProveEngine(node.patience.engine_seconds), f"{model} answers a chat")


def _refusal(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> Refusal | None:
    # A running VM holds its GPUs already; mappings matter to the next start.
    starts = seen.vm is None or seen.vm.power is not Power.RUNNING
    needed = {f"mapping_{gpu}" for gpu in node.gpus} if starts else set()
    for check in failures(hypervisor_checks(_facts(fleet, node, seen))):
        if not check.id.startswith("mapping_") or check.id in needed:
            return Refusal(check.found, check.next_step)
    found = objection(node, seen.vm or seen.cluster.vms.get(node.vmid), Act.PROVISION)
    if found is None:
        return None
    free = f"; {free_vmid(node, seen.cluster.vms)} is free" if found.why is Why.FOREIGN else ""
    return Refusal(found.reason, found.next_step + free)


def _vm_steps(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> tuple[Step, ...]:
    if seen.vm is None or seen.config is None:
        return _creation_steps(fleet, node, seen)
    if seen.vm.lock == "create":
        # The rest is planned again once it is known how the creation ended.
        return (Step("await creation", _CHANGE, AwaitCreation(node.vmid), "the VM is being created right now"),)
    steps: list[Step] = []
    if seen.config.disk_bytes is not None and seen.config.disk_bytes < node.disk_bytes:
        reason = f"the disk has {size_text(seen.config.disk_bytes)}, wanted are {size_text(node.disk_bytes)}"
        steps.append(Step("grow disk", _CHANGE, GrowDisk(node.vmid, node.disk_bytes), reason))
    if seen.vm.power is not Power.RUNNING:
        if not seen.seed_present:
            steps += _reseeding_steps(fleet, node, seen)
        steps.append(Step("start", _CHANGE, StartVm(node.vmid), "the VM is off"))
    return tuple(steps)


def _creation_steps(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> tuple[Step, ...]:
    roles = fleet.cluster_of(node).storage
    image = fleet.images[node.image]
    shape = VmShape(
        vmid=node.vmid,
        name=node.name,
        cores=node.cores,
        memory_bytes=node.memory_bytes,
        disk_storage=roles.disks,
        image_storage=roles.images,
        image_volume=image.volume_name,
        iso_storage=roles.iso,
        seed_volume=seed_volume(node),
        bridge=fleet.cluster_of(node).bridge,
        mac=mac_address(node.vmid),
        gpu_mappings=tuple(gpu.mapping for gpu in fleet.gpus_of(node)),
    )
    download = Step(
        "image", _CHANGE, DownloadImage(image, roles.images), f'"{image.name}" is not on storage "{roles.images}" yet'
    )
    gpus = f" with {', '.join(shape.gpu_mappings)}" if shape.gpu_mappings else ""
    return (
        *(() if seen.image_present else (download,)),
        Step("seed", _CHANGE, UploadSeed(roles.iso, shape.seed_volume), "the guest gets its name, address and keys"),
        Step("create", _CHANGE, CreateVm(shape), f"there is no VM {node.vmid} yet: {_size(node)}{gpus}"),
        Step("grow disk", _CHANGE, GrowDisk(node.vmid, node.disk_bytes), f"to {size_text(node.disk_bytes)}"),
        Step("start", _CHANGE, StartVm(node.vmid), "a new VM is off"),
    )


def _size(node: NodeSpec) -> str:
    return f"{node.cores} cores, {size_text(node.memory_bytes)} memory"


def _reseeding_steps(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> list[Step]:
    """A VM does not start without the ISO it names, so a lost seed is made again."""
    storage, volume = fleet.cluster_of(node).storage.iso, seed_volume(node)
    assert seen.config is not None  # noqa: S101 - the caller has looked
    if read_notes(seen.config.notes).seed_is_sealed:
        return [Step("seal seed", _CHANGE, SealSeed(storage, volume), f"the seed ISO {volume} is gone")]
    # The guest has not finished its first boot: a new seed is a new instance to cloud-init, so new keys are right.
    return [
        # The notes first: killed in between, the seed is still missing and the next run begins anew.
        Step("renew notes", _CHANGE, RenewNotes(node.vmid), "the new seed will have a new host key"),
        Step("seed", _CHANGE, UploadSeed(storage, volume), f"the seed ISO {volume} is gone"),
    ]


def _guest_steps(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen, engine: InferenceEngine) -> tuple[Step, ...]:
    mode = fleet.mode_of(node)
    deployment = Deployment(node, mode, fleet.engines[mode.engine], fleet.models[mode.model])
    sealed = seen.config is not None and read_notes(seen.config.notes).seed_is_sealed
    seal = Step(
        "seal seed",
        _CHANGE,
        SealSeed(fleet.cluster_of(node).storage.iso, seed_volume(node)),
        "after the first boot the host key leaves the ISO storage",
    )
    settled = _ENSURE if sealed else _CHANGE
    return (
        Step("guest", settled, AwaitGuest(node.patience.boot_seconds), "cloud-init has finished"),
        *(() if sealed else (seal,)),
        Step(
            "configure",
            settled,
            RunPlaybook(engine.playbook, engine.variables(deployment)),
            f"{engine.name} serves {mode.model}",
        ),
        _proof(fleet, node),
    )
