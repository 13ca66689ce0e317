"""What happens while a plan runs, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.names import NodeName
from provisioner.domain.quantities import duration_text
from provisioner.errors import ProvisionerError
from provisioner.ports.clock import Clock


class Phase(Enum):
    """Where a step is."""

    STARTED = "started"
    PROGRESS = "progress"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `changed` is None until a step is done; `seconds` is how long the step took so far."""

    node: NodeName
    step: str
    phase: Phase
    detail: str = ""
    changed: bool | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return asdict(self) | {"phase": self.phase.value, "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        if self.phase is Phase.DONE:
            mark = "changed" if self.changed else "unchanged"
            return f"{self.node} {self.step} {mark} in {duration_text(self.seconds)}{detail}"
        return f"{self.node} {self.step} {self.phase.value}{detail}"


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watch nothing."""


@dataclass(slots=True)
class RunningStep:
    """A step under way; what it sets here is told when it ends."""

    say: Callable[[str], None]
    detail: str = ""
    changed: bool = True


@contextmanager
def running_step(on_event: OnEvent, node: NodeSpec, step: str, clock: Clock) -> Iterator[RunningStep]:
    """Tell that a step starts, goes on, and is done or has failed."""
    started = clock.monotonic()

    def tell(phase: Phase, detail: str, changed: bool | None = None) -> None:
        on_event(Event(node.name, step, phase, detail, changed, clock.monotonic() - started))

    running = RunningStep(say=lambda detail: tell(Phase.PROGRESS, detail))
    tell(Phase.STARTED, "")
    try:
        yield running
    except ProvisionerError as error:
        tell(Phase.FAILED, error.summary)
        raise
    tell(Phase.DONE, running.detail, running.changed)
