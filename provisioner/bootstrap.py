"""Fleet and settings -> wired application. The one file that names concrete adapters.

Imports stand where they are used: Fabric, Ansible, Jinja2 and the ISO writer
take longer to load than most commands run, and most commands need none of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from provisioner.adapters.storage.node_locks import FileNodeLocks
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.fleet import ClusterSpec, FleetSpec, GuestKind
from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import ClusterName, EngineName
from provisioner.domain.timings import Timings
from provisioner.engines.registry import ENGINE_TRAITS, ENGINES

if TYPE_CHECKING:
    from provisioner.adapters.proxmox.session import PasswordLogin, TokenLogin
    from provisioner.domain.fleet import SecretReference
    from provisioner.engines.base import InferenceEngine
    from provisioner.ports.access import AccessDoor
    from provisioner.ports.activity_log import ActivityLog
    from provisioner.ports.clock import Clock
    from provisioner.ports.event_log import EventLog
    from provisioner.ports.guest_shell import GuestShells
    from provisioner.ports.host_preparation import HostPreparation
    from provisioner.ports.hosts import Hosts, HostShell
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
    from provisioner.services.discovering import Discovering
    from provisioner.settings import Settings

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _MadeOnDemand(Mapping[_Key, _Value]):
    """A mapping whose values are made when first looked up."""

    def __init__(self, keys: Mapping[_Key, object], make: Callable[[_Key], _Value]) -> None:
        self._keys = keys
        self._make = make
        self._made: dict[_Key, _Value] = {}
        # Nodes are worked on side by side, and what they share must be one.
        self._lock = threading.RLock()

    def __getitem__(self, key: _Key) -> _Value:
        if key not in self._keys:
            raise KeyError(key)
        with self._lock:
            if key not in self._made:
                self._made[key] = self._make(key)
            return self._made[key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class RealWorld:
    """Real Proxmox, real guests, real time."""

    def __init__(self, fleet: FleetSpec, settings: Settings, clock: Clock | None = None) -> None:
        from provisioner.adapters.proxmox.session import ProxmoxSession, TokenLogin
        from provisioner.adapters.secrets import read_secret
        from provisioner.adapters.ssh.login_key import LoginKey

        self._fleet = fleet
        self._settings = settings
        self.clock: Clock = clock or SystemClock()
        self.locks: NodeLocks = FileNodeLocks(settings.state_folder / "locks")
        self.in_flight = InFlight()
        self.api_calls = Timings()
        """Requests to Proxmox, by cluster, method and how they ended."""
        self.engines: Mapping[EngineName, InferenceEngine] = ENGINES
        self.login_key = LoginKey(fleet.ssh.private_key, settings.state_folder)

        def session(name: ClusterName) -> ProxmoxSession:
            cluster = fleet.clusters[name]

            def login() -> TokenLogin:
                return TokenLogin(cluster.token_id, read_secret(cluster.token_secret, subject=f"cluster {name}"))

            return ProxmoxSession(
                cluster.address, login(), renewed_login=login, clock=self.clock, timings=self.api_calls
            )

        self._sessions: Mapping[ClusterName, ProxmoxSession] = _MadeOnDemand(fleet.clusters, session)
        self.clusters: Mapping[ClusterName, Hypervisors] = _MadeOnDemand(fleet.clusters, self._hypervisors)
        self.shells: Mapping[ClusterName, GuestShells] = _MadeOnDemand(fleet.clusters, self._guest_shells)
        self.playbooks: Mapping[ClusterName, Playbooks] = _MadeOnDemand(fleet.clusters, self._playbook_runner)

    @cached_property
    def seeds(self) -> Seeds:
        """What guests get on their first boot."""
        from provisioner.adapters.cloud_init.seeds import CloudInitSeeds

        return CloudInitSeeds(lambda: (self.login_key.public_line(),))

    @cached_property
    def hosts(self) -> Hosts:
        """Logins to hypervisors."""
        from provisioner.adapters.ssh.hosts import SshHosts

        return SshHosts()

    @cached_property
    def host_preparation(self) -> HostPreparation:
        """Changes to hypervisors' boot configuration."""
        from provisioner.adapters.ansible.host_preparation import AnsibleHostPreparation

        return AnsibleHostPreparation()

    @cached_property
    def web(self) -> Web:
        """HTTP to engines."""
        from provisioner.adapters.web.http_client import HttpClient

        return HttpClient()

    @cached_property
    def activity(self) -> ActivityLog:
        """When nodes were last used."""
        from provisioner.adapters.storage.sqlite import SqliteActivityLog

        return SqliteActivityLog(self._settings.state_folder / "provisioner.sqlite")

    @cached_property
    def events(self) -> EventLog:
        """The journal of what happened."""
        from provisioner.adapters.storage.event_log import SqliteEventLog

        return SqliteEventLog(self._settings.state_folder / "provisioner.sqlite")

    @cached_property
    def times(self) -> TimeBook:
        """How long nodes were awake and asleep, and what that took."""
        from provisioner.adapters.storage.time_book import SqliteTimeBook

        return SqliteTimeBook(self._settings.state_folder / "provisioner.sqlite")

    @cached_property
    def leases(self) -> LeaseBook:
        """Who has a GPU, who waits for one, and whom a person keeps awake."""
        from provisioner.adapters.storage.lease_book import SqliteLeaseBook

        return SqliteLeaseBook(self._settings.state_folder / "provisioner.sqlite")

    @cached_property
    def switches(self) -> SwitchLog:
        """How long changes of mode took."""
        from provisioner.adapters.storage.switch_log import SqliteSwitchLog

        return SqliteSwitchLog(self._settings.state_folder / "provisioner.sqlite")

    @cached_property
    def registrations(self) -> Registrations:
        """What became of telling orchestrators."""
        from provisioner.adapters.storage.registrations import SqliteRegistrations

        return SqliteRegistrations(self._settings.state_folder / "provisioner.sqlite")

    @cached_property
    def text_files(self) -> TextFiles:
        """Files here that other programs read."""
        from provisioner.adapters.files.text_files import LocalTextFiles

        return LocalTextFiles()

    @cached_property
    def model_files(self) -> ModelFiles:
        """Models in files here."""
        from provisioner.adapters.files.models import LocalModelFiles

        return LocalModelFiles()

    def secret(self, reference: SecretReference, *, subject: str) -> str:
        """Return a secret for the one act that needs it."""
        from provisioner.adapters.secrets import read_secret

        return read_secret(reference, subject=subject).reveal()

    @cached_property
    def streams(self) -> Streams:
        """Streamed replies of engines."""
        from provisioner.adapters.web.streaming import HttpStreams

        return HttpStreams()

    @cached_property
    def measurements(self) -> MeasurementLog:
        """What was measured of nodes."""
        from provisioner.adapters.storage.measurements import SqliteMeasurements

        return SqliteMeasurements(self._settings.state_folder / "provisioner.sqlite")

    def _hypervisors(self, name: ClusterName) -> Hypervisors:
        from provisioner.adapters.proxmox.hypervisors import ProxmoxHypervisors

        return ProxmoxHypervisors(self._sessions[name], self.clock)

    def _guest_shells(self, name: ClusterName) -> GuestShells:
        if self._is_simulated(self._fleet.clusters[name]):
            from provisioner.adapters.proxmox.simulated_guests import AgentShells

            return AgentShells(self._sessions[name], self.clock)
        from provisioner.adapters.ssh.fabric_shell import FabricShells

        return FabricShells(self._fleet.ssh, self.login_key)

    def _playbook_runner(self, name: ClusterName) -> Playbooks:
        if self._is_simulated(self._fleet.clusters[name]):
            from provisioner.adapters.proxmox.simulated_guests import SimulatedPlaybooks

            return SimulatedPlaybooks(self._sessions[name], self.clock)
        from provisioner.adapters.ansible.playbook_runner import AnsiblePlaybooks

        return AnsiblePlaybooks(self._fleet.ssh, self.login_key)

    @staticmethod
    def _is_simulated(cluster: ClusterSpec) -> bool:
        return cluster.guests is GuestKind.SIMULATED


def access_door(cluster: ClusterSpec, way: PasswordLogin | TokenLogin | HostShell) -> AccessDoor:
    """Return the way to a cluster's users and rights: somebody's login, or a root shell on one of its servers."""
    from provisioner.adapters.proxmox.access import entered_through, entered_with
    from provisioner.adapters.proxmox.session import PasswordLogin, TokenLogin

    if isinstance(way, PasswordLogin | TokenLogin):
        return entered_with(cluster.address, way, SystemClock())
    return entered_through(cluster.address, way, SystemClock())


def discovering(login: Callable[[], TokenLogin | PasswordLogin]) -> Discovering:
    """Return what makes a first fleet file; `login` is called once the server is trusted."""
    from provisioner.adapters.files.fleet_writer import FleetFileWriter
    from provisioner.adapters.proxmox.door import ProxmoxDoor
    from provisioner.services.discovering import Discovering

    return Discovering(ProxmoxDoor(login), FleetFileWriter(ENGINE_TRAITS))
