"""Is a plan that was shown still the plan? Pure."""

from __future__ import annotations

from provisioner.domain.actions import (
    AddModelDisk,
    AwaitCreation,
    ChangeVm,
    CloneVm,
    CreateVm,
    GrowDisk,
    Plan,
    ShapeClone,
    Step,
    StepKind,
)
from provisioner.domain.model_keeping import VmDisk
from provisioner.domain.notes import read_notes
from provisioner.domain.snapshot import VmConfig


def what_outdates(shown: Plan, now: Plan) -> str | None:
    """Return what makes a shown plan outdated, or None.

    What is left of a plan whose carrying out was cut short is no other plan:
    everything still to be done was shown. But nothing is done that was not,
    and nothing is written to a VM that somebody else has changed since.

    Args:
        shown: the plan as a person has seen it.
        now: the plan of this moment.
    """
    if now.refusal is not None:
        return None
    then, left = _changes(shown), _changes(now)
    unseen = [step for step in left if not _was_shown(step, then)]
    digests = f"digest {shown.digest or 'none'} then, {now.digest or 'none'} now"
    if unseen:
        steps = "; ".join(str(step) for step in unseen)
        changed = f"{what_changed(shown.seen, now.seen)}, " if shown.seen and now.seen else ""
        return f"{changed}now to be done: {steps} ({digests})"
    writes = any(isinstance(step.action, (ChangeVm, GrowDisk, AddModelDisk, ShapeClone)) for step in then)
    is_untouched = [step.name for step in then] == [step.name for step in left]
    if writes and is_untouched and shown.seen and now.seen and shown.digest != now.digest:
        return f"{what_changed(shown.seen, now.seen)} ({digests})"
    return None


def what_changed(before: VmConfig, now: VmConfig) -> str:
    """Return in which of the fields that we read two configurations differ, each with both values."""
    found = [
        f"{trait.value} {before.traits.get(trait, 'nothing')} → {value}"
        for trait, value in now.traits.items()
        if before.traits.get(trait) != value
    ]
    if before.disk_bytes != now.disk_bytes:
        found.append(f"disk {before.disk_bytes} → {now.disk_bytes} bytes")
    if before.model_disk != now.model_disk:
        disks = [str(each.bytes_of(VmDisk.MODELS) or "none") for each in (before, now)]
        found.append(f"model disk {' → '.join(disks)} bytes")
    if before.devices != now.devices:
        devices = [", ".join(map(str, each.devices)) or "none" for each in (before, now)]
        found.append(f"devices {' → '.join(devices)}")
    if read_notes(before.notes) != read_notes(now.notes):
        found.append("our lines in the notes")
    elif before.notes != now.notes:
        found.append("the notes")
    return ", ".join(found) or "something that we do not manage"


def _changes(plan: Plan) -> list[Step]:
    return [step for step in plan.steps if step.kind is StepKind.CHANGE]


def _was_shown(step: Step, shown: list[Step]) -> bool:
    if isinstance(step.action, (AwaitCreation, ShapeClone)):
        return any(isinstance(each.action, (AwaitCreation, CreateVm, CloneVm, ShapeClone)) for each in shown)
    return any(each.name == step.name and set(step.drifts) <= set(each.drifts) for each in shown)
