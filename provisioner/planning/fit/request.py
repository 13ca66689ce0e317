"""What is asked of `fit`, and the places a model may be put. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.domain.models.cards import find_card, usable_of
from provisioner.domain.models.model import Subject
from provisioner.domain.quantities import GIB
from provisioner.planning.fit.engines import MemoryUse


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card: what programs can have of it, and what is written on it."""

    name: str
    usable_bytes: int
    nominal_bytes: int


def gpu_of(name: str, vram_bytes: int) -> Gpu:
    """Return a GPU of the fleet; one whose name and size are those of a known card has what that really has."""
    card = find_card(name)
    known = card is not None and card.nominal_gib * GIB == vram_bytes
    return Gpu(name, card.usable_bytes if card is not None and known else usable_of(vram_bytes), vram_bytes)


@dataclass(frozen=True, slots=True)
class FitRequest:
    """A model, the engine that serves it, and how.

    Attributes:
        subject: the model and its weights.
        engine: the engine's use of memory.
        context: tokens for each request.
        parallel: requests at once, each with the whole context.
        cache_type: what the cache is kept in.
        gpus: the cards of the node; none for a node without.
        share: of each card, what the engine may take.
        ram_bytes: the memory of the node's VM, or None where nobody said.
        context_is_given: the context was asked for, not taken from the engine's defaults.
        nodes: how many serve it together, with as many of the cards each.
    """

    subject: Subject
    engine: MemoryUse
    context: int
    parallel: int = 1
    cache_type: str = "f16"
    gpus: tuple[Gpu, ...] = ()
    share: float = 1.0
    ram_bytes: int | None = None
    context_is_given: bool = True
    nodes: int = 1
