"""One look at one node while it works: what `top` shows and keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from provisioner.domain.gpu_reading import GpuReading

COLUMNS = (
    "time",
    "node",
    "state",
    "model",
    "running",
    "waiting",
    "tokens_per_second",
    "load",
    "memory_used_bytes",
    "memory_bytes",
    "gpu_index",
    "gpu_uuid",
    "gpu_name",
    "gpu_percent",
    "gpu_memory_used_bytes",
    "gpu_memory_bytes",
    "gpu_celsius",
    "gpu_watts",
)
"""Of `NodeSample.rows`; files of earlier runs are continued, so what stands here stays."""


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """A filesystem of a guest, by where it is mounted."""

    mounted_at: str
    bytes: int
    free_bytes: int
    """Of those, what a program that is not root may still take."""


@dataclass(frozen=True, slots=True)
class GuestNumbers:
    """How busy a guest is: its load over the last minute, its memory, and the disks that fill."""

    load: float | None = None
    memory_used_bytes: int | None = None
    memory_bytes: int | None = None
    disks: tuple[DiskRoom, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeSample:
    """A node at one moment (`at`, UNIX seconds). None is for what nobody told.

    `state` is one word: ``serving``, ``silent`` where its engine does not
    answer, ``off`` or ``unknown``; `reason` says why where that is not plain.
    `tokens_per_second` is since the look before.
    """

    at: float
    node: str
    state: str
    reason: str = ""
    model: str = ""
    running: int | None = None
    waiting: int | None = None
    tokens_per_second: float | None = None
    numbers: GuestNumbers = GuestNumbers()
    gpus: tuple[GpuReading, ...] = ()

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Yield a row of `COLUMNS` for every GPU, or one where there is none; empty cells are empty strings."""
        own = (
            datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            self.node,
            self.state,
            self.model,
            self.running,
            self.waiting,
            None if self.tokens_per_second is None else round(self.tokens_per_second, 2),
            self.numbers.load,
            self.numbers.memory_used_bytes,
            self.numbers.memory_bytes,
        )
        for gpu in self.gpus or (GpuReading(),):
            card = (
                gpu.index,
                gpu.uuid,
                gpu.name,
                gpu.utilization_percent,
                gpu.memory_used_bytes,
                gpu.memory_bytes,
                gpu.temperature_celsius,
                gpu.power_watts,
            )
            yield tuple("" if cell is None else cell for cell in (*own, *card))

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "time": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            "node": self.node,
            "state": self.state,
            "reason": self.reason,
            "model": self.model,
            "running": self.running,
            "waiting": self.waiting,
            "tokens_per_second": self.tokens_per_second,
            "load": self.numbers.load,
            "memory_used_bytes": self.numbers.memory_used_bytes,
            "memory_bytes": self.numbers.memory_bytes,
            "gpus": [
                {
                    "index": gpu.index,
                    "uuid": gpu.uuid,
                    "name": gpu.name,
                    "percent": gpu.utilization_percent,
                    "memory_used_bytes": gpu.memory_used_bytes,
                    "memory_bytes": gpu.memory_bytes,
                    "celsius": gpu.temperature_celsius,
                    "watts": gpu.power_watts,
                }
                for gpu in self.gpus
            ],
        }
