"""What the demonstration did, stage by stage, with seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from provisioner.ports.clock import Clock


class Narrator(Protocol):
    """Tells a person what happens."""

    def begin(self, stage: str) -> None:
        """A stage begins."""
        ...

    def say(self, sentence: str) -> None:
        """Something happened inside a stage."""
        ...

    def end(self, stage: Stage) -> None:
        """A stage is over."""
        ...


@dataclass(slots=True)
class Stage:
    """One stage."""

    name: str
    seconds: float = 0.0
    detail: str = ""


@dataclass(slots=True)
class Report:
    """The whole demonstration. Times in seconds; calls are Proxmox API requests."""

    backend: str = ""
    stages: list[Stage] = field(default_factory=list)
    reply: str = ""
    reply_after_wake: str = ""
    wake_seconds: float = 0.0
    wake_added_seconds: float = 0.0
    up_calls: int = 0
    second_up_calls: int = 0
    second_up_changed: list[str] = field(default_factory=list)
    wake_calls: int = 0
    left_running: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Return the sum over all stages."""
        return sum(stage.seconds for stage in self.stages)

    @contextmanager
    def stage(self, name: str, clock: Clock, narrator: Narrator) -> Iterator[Stage]:
        """Time one stage."""
        stage = Stage(name)
        self.stages.append(stage)
        narrator.begin(name)
        began = clock.monotonic()
        try:
            yield stage
        finally:
            stage.seconds = clock.monotonic() - began
        narrator.end(stage)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "backend": self.backend,
            "seconds": round(self.seconds, 2),
            "stages": [
                {"name": stage.name, "seconds": round(stage.seconds, 2), "detail": stage.detail}
                for stage in self.stages
            ],
            "reply": self.reply,
            "reply_after_wake": self.reply_after_wake,
            "wake_seconds": round(self.wake_seconds, 2),
            "wake_added_seconds": round(self.wake_added_seconds, 3),
            "api_calls": {"up": self.up_calls, "second_up": self.second_up_calls, "wake": self.wake_calls},
            "second_up_changed": self.second_up_changed,
            "left_running": self.left_running,
        }
