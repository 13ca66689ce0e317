"""All that `test` learns of a node in one look. None means that nobody told, with the reason beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.domain.gpu_reading import GpuFacts


@dataclass(frozen=True, slots=True)
class UnitEvidence:
    """What systemd says of the engine's unit.

    `pids` are those of all its processes, wherever in the guest they run; none
    means that they are not known.
    """

    state: str
    restarts: int
    pids: frozenset[int]


@dataclass(frozen=True, slots=True)
class EngineEvidence:
    """What the engine answered.

    `trouble` is why it did not, and `next_step` what helps, where that is
    known. `model_bytes` of the models in memory are held
    in all, `gpu_bytes` of them on GPUs, where the engine tells. Times are
    seconds; `probe_history` is newest first.
    """

    trouble: str = ""
    next_step: str = ""
    models: tuple[str, ...] = ()
    model_bytes: int | None = None
    gpu_bytes: int | None = None
    probe_seconds: float | None = None
    probe_history: tuple[float, ...] = ()
    tokens_per_second: float | None = None
    bench: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class NodeEvidence:
    """One look at one node. `inside` says why nobody could look inside the guest; empty when somebody did."""

    engine: EngineEvidence
    facts: GpuFacts | None = None
    unit: UnitEvidence | None = None
    inside: str = ""
