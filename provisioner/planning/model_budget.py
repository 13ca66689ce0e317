"""Which models leave a node's disk when another one needs room. Pure.

Kept are those that `up` lays down, the pinned ones, the one that the node serves now, and whatever is in use. Of the
others those go first that were not used for longest, and none goes in vain: where all of them together would not make
room enough, nothing is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import Pull
from provisioner.domain.model_keeping import ModelsSeen, ModelStore, StoredFiles
from provisioner.domain.quantities import GIB, duration_text

_ENGINE_IS_OFF = "only its engine may delete it, which does not run"


@dataclass(frozen=True, slots=True)
class Eviction:
    """A model that goes, with the reason."""

    model: StoredFiles
    reason: str

    def __str__(self) -> str:
        return f"{self.model.name} ({_size(self.model.bytes)}, {self.reason})"


@dataclass(frozen=True, slots=True)
class Room:
    """What makes room. `short_bytes` more are needed than can be made; then nothing goes, and `kept` says why."""

    evictions: tuple[Eviction, ...] = ()
    short_bytes: int = 0
    kept: tuple[str, ...] = ()
    free_bytes: int = 0
    """What the disk has for a new model once they are gone, within the budget."""
    is_for_disk: bool = False
    """The disk has less for them than the budget leaves."""
    waits_for_engine: bool = False
    """It would be enough if an engine that does not run could be told to delete."""


def hot_models(fleet: FleetSpec, node: NodeSpec) -> dict[str, str]:
    """Return the models that a node always has, each with the reason."""
    kept: dict[str, str] = {}
    current = fleet.mode_of(node)
    for mode in fleet.modes_of(node):
        for model in (*mode.models, *filter(None, (mode.tokenizer,))):
            if model in mode.pinned:
                reason = f'pinned by mode "{mode.name}"'
            elif mode.pull is Pull.UP:
                reason = f'mode "{mode.name}" has it ready at all times'
            elif mode is current and model in (mode.model, mode.tokenizer):
                reason = f'the node serves it now (mode "{mode.name}")'
            else:
                continue
            kept.setdefault(fleet.models[model].stored_name if model in fleet.models else model, reason)
    return kept


def without(seen: ModelsSeen, name: str) -> ModelsSeen:
    """Return what is on the disk beside one model."""
    found = [each for each in seen.models if name in (each.name, each.name.removesuffix(":latest"))]
    gone = sum(each.bytes for each in found)
    rest = tuple(each for each in seen.models if each not in found)
    return replace(seen, models=rest, used_bytes=seen.used_bytes - gone, free_bytes=seen.free_bytes + gone)


def room_for(
    needed_bytes: int,
    seen: ModelsSeen,
    *,
    budget_bytes: int,
    keep: Mapping[str, str],
    unreachable: Iterable[ModelStore],
    now: float,
) -> Room:
    """Return what makes room for so many more bytes, within the budget and on the disk.

    Args:
        needed_bytes: of what is about to come; 0 where only the budget is to be kept.
        seen: what is on the disk.
        budget_bytes: the most that models may take.
        keep: names of models that stay, with reasons.
        unreachable: stores that only their engine may delete from, and which does not run.
        now: UNIX seconds.
    """
    room = min(budget_bytes - seen.used_bytes, seen.free_bytes)
    is_for_disk = seen.free_bytes < budget_bytes - seen.used_bytes
    short = needed_bytes - room
    closed = set(unreachable)
    why_kept = {id(model): _why_kept(model, keep, closed) for model in seen.models}
    may_go = sorted(
        (model for model in seen.models if not why_kept[id(model)]), key=lambda model: (model.used_at, model.name)
    )
    going: list[Eviction] = []
    for model in may_go:
        if short <= 0:
            break
        going.append(Eviction(model, f"last used {duration_text(max(now - model.used_at, 0.0))} ago"))
        short -= model.bytes
    if short > 0:
        stay = sorted(seen.models, key=lambda model: -model.bytes)
        kept = tuple(f"{each.name} ({_size(each.bytes)}): {why_kept[id(each)]}" for each in stay if why_kept[id(each)])
        closed_bytes = sum(each.bytes for each in stay if why_kept[id(each)] == _ENGINE_IS_OFF)
        return Room((), short, kept, max(room, 0), is_for_disk, waits_for_engine=short <= closed_bytes)
    return Room(tuple(going), 0, (), max(room + sum(each.model.bytes for each in going), 0))


def _why_kept(model: StoredFiles, keep: Mapping[str, str], closed: set[ModelStore]) -> str:
    names = {model.name, model.name.removesuffix(":latest")}
    # A revision of a repository is no part of what its folder is called.
    reason = next((why for name, why in keep.items() if {name, name.partition("@")[0]} & names), "")
    if reason:
        return reason
    if model.is_in_use:
        return "it is in use"
    return _ENGINE_IS_OFF if model.store in closed else ""


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f} GiB"
