"""A whole world of fakes around one fleet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from provisioner.domain.activity import ActivityRecord, HoursServed
from provisioner.domain.fleet import SecretReference
from provisioner.domain.in_flight import InFlight
from provisioner.domain.models.model import Subject
from provisioner.domain.names import ClusterName, EngineName, ModeName, NodeName
from provisioner.domain.orchestrator import OrchestratorName, Registration
from provisioner.engines.base import InferenceEngine
from provisioner.engines.registry import ENGINES
from provisioner.errors import RefusedError
from provisioner.ports.switch_log import SwitchRecord
from provisioner.ports.text_files import FileTrouble
from tests.fakes.clock import FakeClock
from tests.fakes.event_log import MemoryEventLog
from tests.fakes.guests import FakeGuests, FakeSeeds
from tests.fakes.hosts import FakeHosts
from tests.fakes.hypervisors import FakeHypervisors
from tests.fakes.leases import MemoryLeaseBook
from tests.fakes.measuring import FakeStreams, MemoryMeasurements
from tests.fakes.times import MemoryTimeBook


class MemoryActivityLog:
    """Last activity in a dictionary."""

    def __init__(self) -> None:
        self.records: dict[NodeName, ActivityRecord] = {}
        self.hours: dict[NodeName, HoursServed] = {}

    def last(self, node: NodeName) -> ActivityRecord | None:
        return self.records.get(node)

    def record(self, node: NodeName, record: ActivityRecord) -> None:
        self.records[node] = record

    def forget(self, node: NodeName) -> None:
        self.records.pop(node, None)

    def hours_served(self, node: NodeName) -> HoursServed | None:
        return self.hours.get(node)

    def serve_hours(self, node: NodeName, served: HoursServed) -> None:
        self.hours[node] = served


class MemorySwitchLog:
    """Changes of mode in a list."""

    def __init__(self) -> None:
        self.records: list[SwitchRecord] = []

    def add(self, record: SwitchRecord) -> None:
        self.records.append(record)

    def last(self, node: NodeName, mode: ModeName) -> SwitchRecord | None:
        return next((each for each in reversed(self.records) if (each.node, each.mode) == (node, mode)), None)


class MemoryRegistrations:
    """Registrations in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[OrchestratorName, Registration] = {}

    def of(self, orchestrator: OrchestratorName) -> Registration:
        return self.kept.get(orchestrator, Registration(orchestrator))

    def put(self, registration: Registration) -> None:
        self.kept[registration.orchestrator] = registration


class MemoryTextFiles:
    """Files in a dictionary; `trouble` is what the disk says to all who write."""

    def __init__(self) -> None:
        self.texts: dict[Path, str] = {}
        self.trouble = ""
        self.writes = 0

    def read(self, path: Path) -> str | None:
        return self.texts.get(path)

    def write(self, path: Path, text: str) -> None:
        if self.trouble:
            raise FileTrouble(self.trouble)
        self.texts[path] = text
        self.writes += 1


class MemoryModelFiles:
    """What the files of models tell, by path."""

    def __init__(self) -> None:
        self.subjects: dict[Path, Subject] = {}

    def subject(self, path: Path) -> Subject | None:
        return self.subjects.get(path)


class MemoryNodeLocks:
    """Locks in a set."""

    def __init__(self) -> None:
        self.taken: set[NodeName] = set()

    @contextmanager
    def held(self, node: NodeName) -> Iterator[None]:
        if node in self.taken:
            raise RefusedError("another provisioner works on it", subject=node, next_step="wait", retryable=True)
        self.taken.add(node)
        try:
            yield
        finally:
            self.taken.discard(node)


class FakeWorld:
    """The port `World` made of fakes; `cluster` and `guests` are there to be looked at and broken."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cluster = FakeHypervisors(self.clock)
        self.guests = FakeGuests(self.cluster)
        name = ClusterName("homelab")
        self.clusters = {name: self.cluster}
        self.shells = {name: self.guests}
        self.hosts = FakeHosts()
        self.playbooks = {name: self.guests}
        self.engines: Mapping[EngineName, InferenceEngine] = ENGINES
        self.seeds = FakeSeeds()
        self.web = self.guests
        self.activity = MemoryActivityLog()
        self.switches = MemorySwitchLog()
        self.events = MemoryEventLog()
        self.times = MemoryTimeBook()
        self.leases = MemoryLeaseBook()
        self.in_flight = InFlight()
        self.secrets: dict[str, str] = {}
        self.streams = FakeStreams(self.guests, self.clock)
        self.measurements = MemoryMeasurements()
        self.locks = MemoryNodeLocks()
        self.registrations = MemoryRegistrations()
        self.text_files = MemoryTextFiles()
        self.model_files = MemoryModelFiles()

    def secret(self, reference: SecretReference, *, subject: str) -> str:
        """Look it up among those that a test has put there."""
        return self.secrets[str(reference)]
