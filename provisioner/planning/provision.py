"""From what is to what the fleet file wants: the named steps of `up`. Pure."""

from __future__ import annotations

from dataclasses import replace

from provisioner.domain.actions import (
    AwaitCreation,
    AwaitGuest,
    ChangeVm,
    GrowDisk,
    GrowFilesystem,
    Plan,
    ProveEngine,
    Refusal,
    RestartVm,
    SealSeed,
    StartVm,
    Step,
    StepKind,
    VmChange,
)
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.notes import read_notes
from provisioner.domain.quantities import size_text
from provisioner.domain.snapshot import NodeSeen, Power, VmConfig
from provisioner.domain.templates import is_half_cloned
from provisioner.domain.vm_traits import Drift, Trait
from provisioner.engines.base import InferenceEngine
from provisioner.planning.card_makers import cards_of_another_maker
from provisioner.planning.compute import compute_of
from provisioner.planning.creation import creation_steps, new_seed_steps, no_clone, shaping_steps
from provisioner.planning.engine_steps import engine_steps
from provisioner.planning.fit.refusal import unfit_modes
from provisioner.planning.guest_software import software_refusal, software_steps
from provisioner.planning.launches import Engines
from provisioner.planning.mode_judgement import engine_refusal
from provisioner.planning.model_disk import model_disk_steps
from provisioner.planning.native_drive import (
    NEW_KEYS,
    anew_step,
    conclusion,
    is_native,
    key_steps,
    made_otherwise,
    makes_new_instance,
    noted_as_anew,
)
from provisioner.planning.ownership import Act, Why, free_vmid, objection
from provisioner.planning.readiness import HypervisorFacts, failures, hypervisor_checks, model_storage_check
from provisioner.planning.spans import unlike_cards
from provisioner.planning.vm_limits import limits
from provisioner.planning.vm_shape import (
    cold_drifts,
    drifts,
    is_renamed,
    known_gpus,
    needs_mappings,
    vm_shape,
    wanted_notes,
)

_CHANGE, _ENSURE = StepKind.CHANGE, StepKind.ENSURE
_ADOPTED = "adopted, so nothing is created, changed or configured"


def plan_node(
    fleet: FleetSpec, node: NodeSpec, seen: NodeSeen, engines: Engines, *, renew_driver: bool = False
) -> Plan:
    """Return the steps that bring one node into being, or the reason why not.

    Args:
        fleet: what is wanted.
        node: the node to bring about.
        seen: its place in the cluster right now.
        engines: the descriptions of all engines.
        renew_driver: upgrade its kernel and driver too.
    """
    # What it is for now is noted on its VM.
    node = fleet.in_mode(node, read_notes(seen.config.notes).mode if seen.config is not None else None)
    if node.adopt and renew_driver:
        its_own = Refusal(
            _ADOPTED, f"renew its kernel and driver in its own way, without --renew-driver for {node.name}"
        )
        return Plan(node, (), its_own, remark=_ADOPTED)
    if node.adopt:
        return _adopted_plan(fleet, node, seen)
    release = fleet.release_of(node)
    if release is not None and (seen.vm is None or seen.vm.power is not Power.RUNNING):
        given = Refusal(
            f'its GPUs are given to VM {release.vmid} (mode "{release.name}")',
            f"provisioner mode {node.name} {fleet.mode_of(node).name} takes them back",
        )
        return Plan(node, (), given, seen.config)
    refusal = _refusal(fleet, node, seen, engines, renew_driver=renew_driver)
    if refusal is not None:
        return Plan(node, (), refusal, seen.config)
    vm_steps = _vm_steps(fleet, node, seen, engines)
    guest_steps = _guest_steps(fleet, node, seen, engines, vm_steps, renew_driver=renew_driver)
    return Plan(node, (*vm_steps, *guest_steps), None, seen.config)


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
    model, head = fleet.mode_of(node).model, fleet.answering(node)
    others = ", ".join(each.name for each in fleet.others_beside(node))
    where = f" at {head.name}" if head.name != node.name else ""
    needed = f"; for that {others} must be up in this mode too" if others else ""
    return Step("prove", _ENSURE, ProveEngine(node.patience.engine_seconds), f"{model} answers a chat{where}{needed}")


def _refusal(
    fleet: FleetSpec, node: NodeSpec, seen: NodeSeen, engines: Engines, *, renew_driver: bool
) -> Refusal | None:
    # A running VM holds its GPUs already; mappings matter to the next start.
    starts = needs_mappings(fleet, node, seen.vm, seen.config)
    needed = {"hypervisor_online", "storage_disks"}
    needed |= {f"mapping_{gpu}" for gpu in node.gpus} if starts else set()
    needed |= _storages_still_needed(node, seen)
    needed |= _model_storage_still_needed(fleet, node, seen)
    for check in failures(hypervisor_checks(_facts(fleet, node, seen))):
        if check.id in needed:
            return Refusal(check.found, check.next_step)
    vm = seen.vm or seen.cluster.vms.get(node.vmid)
    if vm is not None and is_renamed(fleet, node, seen):
        # Judged by the name it is about to get.
        vm = replace(vm, name=node.name)
    found = objection(node, vm, Act.PROVISION)
    if found is None:
        if vm is not None and vm.is_being_made:
            return None
        return (
            made_otherwise(node, seen.config)
            or limits(fleet, node, seen)
            or software_refusal(fleet, node, seen.mappings, renew_driver=renew_driver)
            or cards_of_another_maker(fleet, node, engines, seen.mappings)
            or engine_refusal(fleet, node, engines, compute_of(fleet, node, seen.mappings))
            or unlike_cards(fleet, node, engines, seen.mappings)
            or unfit_modes(fleet, node, seen.models)
            or (no_clone(fleet, node, seen) if vm is None else None)
        )
    wanted = {each.vmid for each in fleet.nodes.values()}
    free = f"; {free_vmid(node, seen.cluster.vms, wanted)} is free" if found.why is Why.FOREIGN else ""
    return Refusal(found.reason, found.next_step + free)


def _storages_still_needed(node: NodeSpec, seen: NodeSeen) -> set[str]:
    """Name the checks of storages that only the making of a VM needs, as far as it is not over."""
    if seen.vm is None or seen.config is None or seen.vm.is_being_made:
        return {"storage_images", "storage_iso"}
    is_over = is_native(node) or (seen.seed_present and read_notes(seen.config.notes).seed_is_sealed)
    return set() if is_over else {"storage_iso"}


def _model_storage_still_needed(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> set[str]:
    is_there = seen.config is not None and seen.config.model_disk is not None
    storage = fleet.model_storage(node)
    return set() if storage is None or is_there else {model_storage_check(fleet, node.hypervisor, storage)}


def _vm_steps(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen, engines: Engines) -> tuple[Step, ...]:
    if seen.vm is None or seen.config is None:
        return creation_steps(fleet, node, seen)
    if seen.vm.is_being_made:
        # The rest is planned again once it is known how the creation ended.
        return (Step("await creation", _CHANGE, AwaitCreation(node.vmid), "the VM is being created right now"),)
    if is_half_cloned(seen.config.tags):
        return shaping_steps(fleet, node, seen, seen.config)
    runs = seen.vm.power is Power.RUNNING
    cold = cold_drifts(fleet, node, seen.config) if runs else ()
    steps: list[Step] = []
    engine = engines[fleet.mode_of(node).engine]
    drift = drifts(fleet, node, engine, seen.config)
    if drift:
        steps.append(_change_step(fleet, node, engine, seen.config, drift, cold))
    if seen.config.disk_bytes is not None and seen.config.disk_bytes < node.disk_bytes:
        reason = f"the disk has {size_text(seen.config.disk_bytes)}, wanted are {size_text(node.disk_bytes)}"
        steps.append(Step("grow disk", _CHANGE, GrowDisk(node.vmid, node.disk_bytes), reason))
    steps += model_disk_steps(fleet, node, seen.config)
    if not runs:
        if not seen.seed_present:
            steps += _reseeding_steps(node, seen.config)
        steps.append(Step("start", _CHANGE, StartVm(node.vmid), "the VM is off"))
        return tuple(steps)
    if cold:
        steps.append(_restart_step(node, cold))
    elif makes_new_instance(node, seen.config, drift) or read_notes(seen.config.notes).boots_anew:
        steps.append(anew_step(node))
    return tuple(steps)


def _change_step(
    fleet: FleetSpec,
    node: NodeSpec,
    engine: InferenceEngine,
    config: VmConfig,
    drift: tuple[Drift, ...],
    cold: tuple[Drift, ...],
) -> Step:
    text = wanted_notes(node, engine, fleet.mode_of(node).model, config.notes)
    traits = frozenset(each.trait for each in drift)
    anew = makes_new_instance(node, config, drift)
    if anew:
        # Noted in the same write, so that nobody finds the one without the other.
        text, traits = noted_as_anew(node, text), traits | {Trait.NOTES}
    change = VmChange(
        shape=vm_shape(fleet, node),
        traits=traits,
        notes=text if Trait.NOTES in traits else None,
        known_gpus=known_gpus(fleet, node),
    )
    waits = frozenset(each.trait for each in cold)
    at_once = [str(each) for each in drift if each.trait not in waits]
    later = [str(each) for each in drift if each.trait in waits]
    reason = "; ".join(
        [*at_once, *([f"for the next cold start: {', '.join(later)}"] if later else []), *([NEW_KEYS] if anew else [])]
    )
    return Step("change", _CHANGE, ChangeVm(change), reason, drift, waits & change.traits)


def _restart_step(node: NodeSpec, cold: tuple[Drift, ...]) -> Step:
    what = ", ".join(dict.fromkeys(each.trait.value for each in cold))
    return Step(
        "restart",
        _CHANGE,
        RestartVm(node.vmid),
        f"the node is running, and {what} changes at a cold start: it is shut down cleanly and started, "
        "unless it is busy; then this waits for its next start",
        cold,
        frozenset(each.trait for each in cold),
    )


def _reseeding_steps(node: NodeSpec, config: VmConfig) -> list[Step]:
    """A VM does not start without the ISO it names, so a lost seed is made again."""
    if config.seed is None:
        # Somebody took the drive's medium out; a guest whose first boot is over does not miss it.
        return []
    storage, volume = config.seed
    if read_notes(config.notes).seed_is_sealed:
        return [Step("seal seed", _CHANGE, SealSeed(storage, volume), f"the seed ISO {volume} is gone")]
    return new_seed_steps(node, storage, volume)


def _guest_steps(
    fleet: FleetSpec,
    node: NodeSpec,
    seen: NodeSeen,
    engines: Engines,
    vm_steps: tuple[Step, ...],
    *,
    renew_driver: bool,
) -> tuple[Step, ...]:
    grows = any(isinstance(step.action, GrowDisk) for step in vm_steps)
    changes = (step.action.change for step in vm_steps if isinstance(step.action, ChangeVm))
    renewed = any(change.notes is not None and read_notes(change.notes).boots_anew for change in changes)
    sealed = seen.config is not None and read_notes(seen.config.notes).seed_is_sealed and not renewed
    seal = Step(
        "seal seed",
        _CHANGE,
        # Where no drive names it yet, the key may be another one by the time it is sealed.
        SealSeed(*(seen.config and seen.config.seed) or (fleet.cluster_of(node).storage.iso, None)),
        "after the first boot the host key leaves the ISO storage",
    )
    if is_native(node):
        seal = conclusion()
    settled = _ENSURE if sealed else _CHANGE
    fill = Step(
        "grow filesystem",
        _CHANGE if grows else _ENSURE,
        GrowFilesystem(),
        "it fills the disk" if node.models.disk_bytes is None else "they fill the disks",
    )
    return (
        *key_steps(node, seen.config, renewed=renewed),
        Step("guest", settled, AwaitGuest(node.patience.boot_seconds), "cloud-init has finished"),
        # On its first boot cloud-init grows it, and is switched off then.
        fill if sealed else seal,
        *software_steps(fleet, node, seen.mappings, engines, settled, renew_driver=renew_driver),
        *engine_steps(fleet, node, engines, settled, compute_of(fleet, node, seen.mappings)),
        _proof(fleet, node),
    )
