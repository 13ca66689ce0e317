"""The edges that services act through, as one value: what `bootstrap` wires and tests replace with fakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # Words of promises only; loading all that they speak of would take longer than `status` may.
    from collections.abc import Mapping

    from provisioner.domain.fleet import SecretReference
    from provisioner.domain.in_flight import InFlight
    from provisioner.domain.names import ClusterName, EngineName
    from provisioner.engines.base import InferenceEngine
    from provisioner.ports.activity_log import ActivityLog
    from provisioner.ports.clock import Clock
    from provisioner.ports.event_log import EventLog
    from provisioner.ports.guest_shell import GuestShells
    from provisioner.ports.hosts import Hosts
    from provisioner.ports.hypervisors import Hypervisors
    from provisioner.ports.lease_book import LeaseBook
    from provisioner.ports.measurements import MeasurementLog
    from provisioner.ports.model_files import ModelFiles
    from provisioner.ports.node_locks import NodeLocks
    from provisioner.ports.playbooks import Playbooks
    from provisioner.ports.registrations import Registrations
    from provisioner.ports.seeds import Seeds
    from provisioner.ports.streams import Streams
    from provisioner.ports.switch_log import SwitchLog
    from provisioner.ports.text_files import TextFiles
    from provisioner.ports.time_book import TimeBook
    from provisioner.ports.web import Web


class World(Protocol):
    """Everything outside. Whatever is costly to make is made when first asked for."""

    @property
    def clusters(self) -> Mapping[ClusterName, Hypervisors]:
        """Proxmox, by cluster."""
        ...

    @property
    def shells(self) -> Mapping[ClusterName, GuestShells]:
        """Ways into guests, by cluster."""
        ...

    @property
    def hosts(self) -> Hosts:
        """Ways into hypervisors themselves."""
        ...

    @property
    def playbooks(self) -> Mapping[ClusterName, Playbooks]:
        """Ways to converge guests, by cluster."""
        ...

    @property
    def engines(self) -> Mapping[EngineName, InferenceEngine]:
        """The engines that are known."""
        ...

    @property
    def seeds(self) -> Seeds:
        """What guests get on their first boot."""
        ...

    @property
    def web(self) -> Web:
        """HTTP."""
        ...

    @property
    def activity(self) -> ActivityLog:
        """When nodes were last used."""
        ...

    @property
    def events(self) -> EventLog:
        """The journal of what happened."""
        ...

    @property
    def times(self) -> TimeBook:
        """How long nodes were awake and asleep, and what that took."""
        ...

    @property
    def leases(self) -> LeaseBook:
        """Who has a GPU, who waits for one, and whom a person keeps awake."""
        ...

    @property
    def in_flight(self) -> InFlight:
        """What goes through this process to nodes, with the gates that let it in."""
        ...

    @property
    def switches(self) -> SwitchLog:
        """How long changes of mode took."""
        ...

    @property
    def registrations(self) -> Registrations:
        """What became of telling orchestrators."""
        ...

    @property
    def text_files(self) -> TextFiles:
        """Files here that other programs read."""
        ...

    @property
    def model_files(self) -> ModelFiles:
        """Models in files here."""
        ...

    def secret(self, reference: SecretReference, *, subject: str) -> str:
        """Return a secret for the one act that needs it. Raises InputError that names its source only."""
        ...

    @property
    def streams(self) -> Streams:
        """Answers that come bit by bit."""
        ...

    @property
    def measurements(self) -> MeasurementLog:
        """What was measured before."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def locks(self) -> NodeLocks:
        """One writer per node."""
        ...
