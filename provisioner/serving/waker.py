"""One wake as the service does it: after the drain that may be under way, in sight of all, kept in the journal."""

from __future__ import annotations

from collections.abc import Callable

from provisioner.domain.events import FAILED_BY_GPU, Facts, Kind, NewEntry
from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import NodeName
from provisioner.domain.serving import Phase
from provisioner.errors import GpuUnusableError, OutsideError, ProvisionerError
from provisioner.gateway.wakes import NobodyWantsIt
from provisioner.ports.clock import Clock
from provisioner.services.events import Event, OnEvent
from provisioner.services.events import Phase as StepPhase
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.waking import WakeReport

_BY = "service"
# How soon the end of a drain is noticed; looking at a gate of our own costs nothing.
_GATE_SECONDS = 0.02
_GPU_FAILURES = frozenset({"gpu_fell_off_the_bus", "no_gpu_visible", "gpu_failed", "engine_on_cpu"})


class NodeWaker:
    """What `WakeDesk` calls in a thread: returns when the node's model has answered."""

    def __init__(
        self,
        wake: Callable[[NodeName, OnEvent, Callable[[], None]], WakeReport],
        clock: Clock,
        keeper: Keeper,
        journal: Journal,
        in_flight: InFlight,
    ) -> None:
        self._wake = wake
        self._clock = clock
        self._keeper = keeper
        self._journal = journal
        self._in_flight = in_flight
        self.reports: dict[NodeName, WakeReport] = {}
        """What the last wake of each node did."""

    def __call__(self, node: NodeName, still_wanted: Callable[[], bool]) -> None:
        """Wake a node.

        Raises:
            NobodyWantsIt: the last who wanted it left before anything was started.
            ProvisionerError: it did not come.
        """

        def require_wanted() -> None:
            if not still_wanted():
                raise NobodyWantsIt

        # Who asks while it is being put to sleep joins the drain's end: then it is off, and is started again.
        while not self._in_flight.of(node).is_open:
            require_wanted()
            self._clock.sleep(_GATE_SECONDS)
        keep = self._journal.telling(_BY)

        def tell(event: Event) -> None:
            self._keeper.progress(event)
            keep(event)

        self._tell(node, StepPhase.STARTED.value, "")
        is_ready = self._keeper.seen()[node].phase is Phase.READY
        try:
            if is_ready:
                report = self._wake(node, tell, require_wanted)
                self._keeper.found(node, Phase.READY, "its model has answered", report.endpoint.url, report.mode)
            else:
                with self._keeper.at_work(node, Phase.QUEUED, "it is being woken"):
                    report = self._wake(node, tell, require_wanted)
                    self._keeper.found(node, Phase.READY, "its model has answered", report.endpoint.url, report.mode)
        except NobodyWantsIt:
            self._tell(node, "given up", "nobody wants it any more")
            self._keeper.doubt(node)
            raise
        except ProvisionerError as error:
            facts: Facts = {FAILED_BY_GPU: True} if _is_by_gpu(error) else {}
            self._journal.add(NewEntry(Kind.WAKE, node, StepPhase.FAILED.value, error.summary, _BY, facts))
            self._keeper.doubt(node)
            raise
        self.reports[node] = report
        done: Facts = {
            "seconds": round(report.seconds, 3),
            "added_seconds": round(report.added_seconds, 3),
            "started": report.started,
        }
        self._journal.add(NewEntry(Kind.WAKE, node, StepPhase.DONE.value, report.reason, _BY, done))

    def _tell(self, node: NodeName, phase: str, detail: str) -> None:
        self._journal.add(NewEntry(Kind.WAKE, node, phase, detail, _BY))


def _is_by_gpu(error: ProvisionerError) -> bool:
    """Say whether a wake failed because its card was not there, or not fit to compute."""
    diagnosis = error.diagnosis if isinstance(error, OutsideError) else None
    return isinstance(error, GpuUnusableError) or diagnosis in _GPU_FAILURES
