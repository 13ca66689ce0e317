"""What is wrong with the cluster right now. Made by happenings, mended by their opposites, gone with the process."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Adversity:
    """The state that only misfortune has; everything else is in the cluster's own tables, storages and devices."""

    has_quorum: bool = True
    clock_offset_seconds: float = 0.0
    ha: dict[int, HaResource] = field(default_factory=dict)


@dataclass
class HaResource:
    """A VM under high availability: `state` is what its manager says, `acts` whether it does anything."""

    state: str = "started"
    acts: bool = True
