"""The library's front door: one object for a fleet file, one method for each thing one does with a fleet.

What a method needs is imported when it is first called: most commands need little of it, and importing all of it takes
longer than most of them run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from provisioner.adapters.files.fleet_file import load_fleet
from provisioner.bootstrap import RealWorld, access_door
from provisioner.domain.fleet import ClusterSpec, FleetSpec, NodeSpec
from provisioner.domain.names import GpuName, HypervisorName
from provisioner.engines.registry import ENGINE_TRAITS
from provisioner.errors import InputError, NotReadyError, ProvisionerError, RefusedError
from provisioner.ports.clock import Clock
from provisioner.services.events import OnEvent, ignore
from provisioner.settings import Settings, read_settings

if TYPE_CHECKING:
    from provisioner.adapters.proxmox.session import PasswordLogin, TokenLogin
    from provisioner.adapters.ssh.command_line import SshCommand
    from provisioner.adapters.ssh.tunnel import Tunnel
    from provisioner.domain.access_plan import AccessPlan
    from provisioner.domain.actions import Plan
    from provisioner.domain.fleet import GpuSpec
    from provisioner.domain.host_files import RunningGuest
    from provisioner.domain.journal import JournalLine
    from provisioner.domain.lease import Hold, LeasePage
    from provisioner.domain.node_plays import AnsibleExport
    from provisioner.domain.node_sample import NodeSample
    from provisioner.domain.orchestrator import Registration
    from provisioner.domain.savings import Savings
    from provisioner.domain.service import ListenAddress
    from provisioner.planning.doctor import DoctorReport
    from provisioner.planning.idle import IdleDecision
    from provisioner.planning.readiness import Check
    from provisioner.ports.access import AccessDoor
    from provisioner.ports.hosts import HostShell
    from provisioner.ports.playbooks import OnTaskEvent
    from provisioner.services.arbitration import Arbitration
    from provisioner.services.benchmarking import BenchReport
    from provisioner.services.fleet_view import NodeStatus
    from provisioner.services.granting import GrantReport, OnGrantEvent
    from provisioner.services.mode_switching import ModeReport, ModeSwitching
    from provisioner.services.node_testing import NodeTesting, NodeTestReport, SurvivalReport
    from provisioner.services.preparing import Arrival, PrepareChoices, PreparePreview, PrepareReport, Preparing
    from provisioner.services.proving import Endpoint
    from provisioner.services.provisioning import Provisioning, UpReport
    from provisioner.services.readiness import OnDump, Readiness
    from provisioner.services.registering import Registering, RegistrationReport
    from provisioner.services.sleeping import Sleeping, SleepReport
    from provisioner.services.templates import TemplateFate
    from provisioner.services.waking import WakeReport, Waking

# Most of the time a node's thread waits: for Proxmox, for a boot, for a playbook. What must not happen too often at
# once is bounded where it happens.
_MOST_NODES_AT_ONCE = 64


class Hypervisor:
    """One server running Proxmox VE, as the fleet file names it."""

    def __init__(self, name: str, spec: FleetSpec, readiness: Readiness, world: RealWorld) -> None:
        self.name = name
        self._spec = spec
        self._readiness = readiness
        self._world = world

    @property
    def gpus(self) -> Mapping[GpuName, GpuSpec]:
        """Its GPUs, as the fleet file names them."""
        return self._spec.hypervisor(self.name).gpus

    @property
    def api_url(self) -> str:
        """Where its cluster's API answers."""
        return self._cluster.api_url

    def doctor(self) -> tuple[Check, ...]:
        """Return findings about its fitness for the fleet's nodes; printing one says what to do. Raises as `report`."""
        return self.report().checks

    def report(self) -> DoctorReport:
        """Return the findings with a verdict that programs read and the facts behind both.

        Asks the API and, where the fleet file says ``ssh``, the hypervisor itself; one that does not answer is a
        finding.

        Raises:
            HypervisorError: the API is the only source and could not be asked.
        """
        return self._readiness.report(self.name)

    def preparation(self, choices: PrepareChoices | None = None, *, undo: bool = False) -> PreparePreview:
        """Return what `prepare`, or with `undo` the way back, would change on the server itself; nothing is changed.

        Raises:
            InputError: the fleet file says no ``ssh`` for it.
            HypervisorError: it cannot be logged in to.
        """
        from provisioner.services.preparing import PrepareChoices

        hypervisor = self._spec.hypervisor(self.name)
        if undo:
            return self._preparing.preview_undo(hypervisor)
        return self._preparing.preview(hypervisor, choices or PrepareChoices())

    def prepare(self, preview: PreparePreview | None = None, on_event: OnTaskEvent | None = None) -> PrepareReport:
        """Make the changes that a preview shows (one that is made now, if none is given); never reboots.

        Raises:
            RefusedError: the preview refuses; its words say what to do.
            HypervisorError: the server changed since the preview, or a step failed; the next run continues.
        """
        return self._preparing.apply(preview or self.preparation(), on_event)

    def undo(self, on_event: OnTaskEvent | None = None) -> PrepareReport:
        """Take back what `prepare` changed, but for files that somebody edited since; raises as `prepare`."""
        return self._preparing.apply(self.preparation(undo=True), on_event)

    def running_guests(self) -> tuple[RunningGuest, ...] | None:
        """Return the VMs and containers that a reboot would shut down; None where Proxmox does not say."""
        return self._preparing.running_guests(self._spec.hypervisor(self.name))

    def reboot(self, preview: PreparePreview, *, seconds: float = 600, on_event: OnTaskEvent | None = None) -> Arrival:
        """Reboot the server, wait `seconds` at most, and verify that it brought what the preview was for.

        Raises:
            NotReadyError: it did not come back in time.
            RefusedError: what boots is not yet made from the changed files.
        """
        return self._preparing.reboot(preview, seconds=seconds, on_event=on_event)

    def save_variables(self, path: Path, preview: PreparePreview) -> None:
        """Write what `prepare` would hand to its playbook into a new file. Raises InputError."""
        self._preparing.save_variables(path, preview)

    def shell(self) -> HostShell:
        """Log in to the server itself.

        Raises:
            InputError: the fleet file says no ``ssh`` for it.
            UntrustedError, HypervisorError: it cannot be logged in to.
        """
        return self._world.hosts.open(self._spec.hypervisor(self.name))

    def enter(self, way: PasswordLogin | TokenLogin | HostShell) -> AccessDoor:
        """Return a way to the users and rights of its cluster: an administrator's login, or a root shell on a server.

        Nothing is asked of anybody yet. A second factor is good for one login, so keep what this returns.
        """
        return access_door(self._cluster, way)

    def access_plan(
        self,
        door: AccessDoor,
        *,
        undo: bool = False,
        secret_file: Path | None = None,
        may_delete_seeds: bool = False,
        gpu_slots: Mapping[tuple[HypervisorName, GpuName], tuple[str, ...]] = MappingProxyType({}),
    ) -> AccessPlan:
        """Return the steps that give the fleet's token its rights in this server's cluster; nothing is changed.

        Args:
            door: from `enter`.
            undo: plan the way back instead; what the fleet's other servers in the cluster need stays.
            secret_file: where a new token's secret goes, when the fleet file takes it from the environment.
            may_delete_seeds: grant the broad privilege to delete ISOs too.
            gpu_slots: which device is which GPU, where that cannot be told (see `AccessWanted`).

        Raises:
            PermissionMissingError: whoever entered may not see all that the plan rests on.
            HypervisorError: Proxmox could not be asked.
            InputError: the place for the secret is contradictory.
        """
        from provisioner.domain.access import AccessWanted
        from provisioner.services.granting import Granting

        leaving = HypervisorName(self.name) if undo else None
        wanted = AccessWanted(self._spec, self._cluster, secret_file, may_delete_seeds, gpu_slots, leaving)
        granting = Granting(door)
        return granting.preview_undo(wanted) if undo else granting.preview(wanted)

    def grant(self, plan: AccessPlan, door: AccessDoor, on_event: OnGrantEvent | None = None) -> GrantReport:
        """Carry out an access plan that somebody has agreed to; raises as `Granting.apply`."""
        from provisioner.services.granting import Granting, watch_nothing

        return Granting(door).apply(plan, on_event or watch_nothing)

    @cached_property
    def _preparing(self) -> Preparing:
        from provisioner.services.preparing import Preparing

        return Preparing(self._world.hosts, self._world.host_preparation, self._world.locks)

    @property
    def _cluster(self) -> ClusterSpec:
        return self._spec.clusters[self._spec.hypervisor(self.name).cluster]


class Fleet:
    """A fleet file and the world it speaks of.

    Every method raises `ProvisionerError` (see its branches) with what
    happened, on what, and what to do next.
    """

    def __init__(self, spec: FleetSpec, settings: Settings, *, clock: Clock | None = None) -> None:
        self.spec = spec
        self._settings = settings
        self._world = RealWorld(spec, settings, clock)

    @classmethod
    def load(
        cls, path: str | Path | None = None, *, settings: Settings | None = None, clock: Clock | None = None
    ) -> Fleet:
        """Read and check a fleet file; nothing else is touched.

        Args:
            path: the file; by default ``$PROVISIONER_FLEET`` or ``inventory/fleet.yml``.
            settings: where state is kept; by default read from the environment.
            clock: by what all waiting is measured; by default this machine's time.

        Raises:
            InputError: with file, line, what was found and what is allowed.
        """
        settings = settings or read_settings()
        return cls(load_fleet(Path(path or settings.fleet_file), engines=ENGINE_TRAITS), settings, clock=clock)

    @property
    def world(self) -> RealWorld:
        """The outside that this fleet acts through, for whoever wires more on top."""
        return self._world

    @property
    def settings(self) -> Settings:
        """Where our own state is kept."""
        return self._settings

    def hypervisor(self, name: str) -> Hypervisor:
        """Return a hypervisor of the fleet. Raises InputError that lists the known ones."""
        return Hypervisor(self.spec.hypervisor(name).name, self.spec, self._readiness, self._world)

    def doctor(
        self, hypervisors: Iterable[str] = (), *, save: Path | None = None
    ) -> Mapping[HypervisorName, DoctorReport | ProvisionerError]:
        """Examine hypervisors side by side (all of them when none is named); one's failure stops no other.

        Args:
            hypervisors: their names in the fleet file.
            save: a new file for what the one hypervisor itself says; written, for its owner alone, before it is judged.

        Raises:
            InputError: the file exists or cannot be written, or the fleet file says no ``ssh`` for the hypervisor.
        """
        names = list(hypervisors) or list(self.spec.hypervisors)
        if save is not None and len(names) != 1:
            raise InputError(
                f"cannot save {len(names)} hypervisors in one dump",
                subject=f"host dump {save}",
                next_step=f"name one of: {', '.join(names)}",
            )
        return self._readiness.reports(names, self._saver(save) if save is not None else None)

    def plan(self, node: str, *, renew_driver: bool = False) -> Plan:
        """Return what `up` would do for a node: a value; making and printing it moves nothing."""
        return self._provisioning.plan(self.spec.node(node), renew_driver=renew_driver)

    def plans(self, nodes: Iterable[str] = ()) -> dict[str, Plan | ProvisionerError]:
        """Return the plans of several nodes (all of them when none is named), asking once for what they share.

        A node whose plan cannot be made has the reason instead. Power is what the cluster last reported, some
        seconds old; `plan` and `apply` look closely.
        """
        chosen = [self.spec.node(name) for name in nodes] or list(self.spec.nodes.values())
        return {str(name): plan for name, plan in self._provisioning.plans(chosen).items()}

    def apply(self, plan: Plan, on_event: OnEvent = ignore) -> UpReport:
        """Carry out a plan as it was shown; a run that was killed is continued by the next one.

        What the plan did not show is not done: when the VM has changed since in a way that matters, it is refused
        with both states and a new plan is needed. What is left of a plan that was cut short may be applied again.

        Args:
            plan: from `plan`.
            on_event: told about each step as it starts, goes on, is done or fails.
        """
        return self._provisioning.apply(plan, on_event)

    def up(self, node: str, on_event: OnEvent = ignore, *, renew_driver: bool = False) -> UpReport:
        """Converge a node: look, plan, carry out. A second run changes nothing.

        Args:
            node: which.
            on_event: told about each step.
            renew_driver: upgrade its kernel and NVIDIA driver, which are held otherwise; refused while it is busy.
        """
        report = self._provisioning.up(self.spec.node(node), on_event, renew_driver=renew_driver)
        self._tell_orchestrators([report.node], on_event)
        return report

    def up_all(
        self, nodes: Iterable[str] = (), on_event: OnEvent = ignore, *, renew_driver: bool = False
    ) -> dict[str, UpReport | ProvisionerError]:
        """Converge several nodes side by side (all of them when none is named); one's failure stops no other.

        Nodes that serve a mode together come up together: naming one of them names the others.
        """
        chosen = [self.spec.node(name) for name in nodes]
        names: list[str] = list(self._provisioning.with_others(chosen)) or list(self.spec.nodes)

        def one(name: str) -> UpReport | ProvisionerError:
            try:
                return self._provisioning.up(self.spec.node(name), on_event, renew_driver=renew_driver)
            except ProvisionerError as error:
                return error

        if len(names) < 2:
            # In the caller's own thread, where Ctrl-C arrives.
            return self._told({name: one(name) for name in names}, on_event)
        # Not as a `with`: its end would wait for every node under way, a Ctrl-C notwithstanding.
        pool = ThreadPoolExecutor(min(len(names), _MOST_NODES_AT_ONCE))
        try:
            outcomes = dict(zip(names, pool.map(one, names), strict=True))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        return self._told(outcomes, on_event)

    def register(
        self, nodes: Iterable[str] = (), *, dry_run: bool = False, force: bool = False
    ) -> tuple[RegistrationReport, ...]:
        """Tell the orchestrators of the nodes that exist, and verify what they then know.

        Args:
            nodes: those that must be among them; all that exist are told of in any case.
            dry_run: only ask what they know, and show the difference.
            force: overwrite also what somebody edited there.

        Raises:
            InputError: the fleet file names no orchestrator.
            NotReadyError: a node that is named does not exist.
        """
        wanted = [self.spec.node(name) for name in nodes]
        if not self.spec.orchestrators:
            raise InputError(
                "cannot register: the fleet file names no orchestrator",
                subject=f"fleet file {self.spec.path}",
                next_step="add one: orchestrators: {n8n: {url: http://ADDRESS:5678, api_key: env:N8N_API_KEY}}",
            )
        present = self._registering.present()
        for node in wanted:
            if node.name not in present:
                raise NotReadyError(
                    "cannot register the node: it has no VM yet",
                    subject=node.subject,
                    next_step=f"provisioner up {node.name}",
                )
        return self._registering.verify(present) if dry_run else self._registering.register(present, force=force)

    def registrations(self) -> tuple[Registration, ...]:
        """Return what became of the last try at each orchestrator; nobody is asked."""
        return tuple(self._world.registrations.of(name) for name in self.spec.orchestrators)

    def export_n8n(self, folder: Path) -> tuple[Path, ...]:
        """Write the workflows for n8n into a folder, for those who import them by hand; return their paths."""
        from provisioner.adapters.files.text_files import write_texts

        return write_texts(folder, self._registering.n8n_workflows())

    def wake(self, node: str | None = None, *, model: str | None = None, on_event: OnEvent = ignore) -> Endpoint:
        """Return an endpoint that answers now, waking a node if need be.

        Args:
            node: which node, or
            model: which model; a node that serves it already is preferred to one that sleeps.
            on_event: told about the steps.
        """
        return self.wake_report(node, model=model, on_event=on_event).endpoint

    def wake_report(
        self,
        node: str | None = None,
        *,
        model: str | None = None,
        on_event: OnEvent = ignore,
        still_wanted: Callable[[], None] = lambda: None,
    ) -> WakeReport:
        """Like `wake`, with what it did and how long that took.

        `still_wanted` is called for as long as nothing is started; what it raises ends the wake.
        """
        return self._waking.wake(self.node_to_wake(node, model), on_event, still_wanted)

    def sleep(self, node: str, *, force: bool = False, on_event: OnEvent = ignore) -> SleepReport:
        """Shut a node down cleanly; refuses while it is busy or does not say, unless `force`."""
        return self._sleeping.sleep(self.spec.node(node), on_event, force=force)

    def mode(self, node: str, mode: str, *, force: bool = False, on_event: OnEvent = ignore) -> ModeReport:
        """Switch what a node's GPUs are for; when this returns, the mode has answered, unless the node is off.

        A mode that does not answer is rolled back: the error says why it did not, and that the one before is back.

        Args:
            node: which node.
            mode: one of its modes.
            force: also while it is busy or does not say; what runs is cut off.
            on_event: told about the steps.
        """
        return self._mode_switching.switch(self.spec.node(node), mode, on_event, force=force)

    def idle(self, *, dry_run: bool = False, on_event: OnEvent = ignore) -> tuple[IdleDecision, ...]:
        """Make one idle pass over all nodes; return every decision with its reason."""
        from provisioner.services.idling import Idling

        idling = Idling(self.spec, self._world)
        try:
            return idling.idle(list(self.spec.nodes.values()), on_event, dry_run=dry_run)
        finally:
            idling.close()

    def hold(self, node: str, *, seconds: float, by: str, why: str = "") -> Hold:
        """Keep a node as it is for a while: it is not put to sleep, gives no GPU away, and is not destroyed.

        Args:
            node: which; it is not woken.
            seconds: how long from now; a second hold by the same person replaces the first.
            by: who says so.
            why: what others are told.

        Raises:
            InputError: the time is none, or too long.
        """
        return self._arbitration.hold(self.spec.node(node), by=by, seconds=seconds, why=why)

    def release(self, node: str, *, by: str) -> tuple[Hold, ...]:
        """End a person's hold; return those of others. Raises RefusedError when that person holds nothing."""
        return self._arbitration.release(self.spec.node(node), by=by)

    def leases(self) -> LeasePage:
        """Return who has which GPU, who waits for one, and who holds which node, as last written down."""
        return self._world.leases.read()

    def savings(self, *, days: int | None = None) -> Savings:
        """Return what sleeping saved, against the same nodes always on; counted while the control service runs.

        Args:
            days: how many days (UTC), today among them; None for as long as anybody has counted.

        Raises:
            InputError: what was counted cannot be read.
        """
        from provisioner.services.savings import fleet_savings

        return fleet_savings(self.spec, self._world.times, now=self._world.clock.now(), days=days)

    def status(self, nodes: Iterable[str] = ()) -> tuple[NodeStatus, ...]:
        """Return what is seen of the nodes (all of them when none is named)."""
        chosen: Sequence[NodeSpec] = [self.spec.node(name) for name in nodes] or list(self.spec.nodes.values())
        from provisioner.services.fleet_view import FleetView

        return FleetView(self.spec, self._world).status(chosen)

    def destroy(self, node: str, on_event: OnEvent = ignore) -> tuple[str, ...]:
        """Delete a node's VM, disks and seed; only a VM with our tag. Returns what was removed."""
        removed = self._provisioning.destroy(self.spec.node(node), on_event)
        self._tell_orchestrators([node], on_event)
        return removed

    def remove_unused_templates(self) -> tuple[TemplateFate, ...]:
        """Delete our templates that no node of the fleet file and no linked disk uses; return what became of each."""
        from provisioner.services.templates import remove_unused_templates

        return remove_unused_templates(self.spec, self._world)

    def ssh(self, node: str) -> SshCommand:
        """Return how to log in to a node's guest with the OpenSSH client, host key included."""
        from provisioner.adapters.ssh.command_line import ssh_command
        from provisioner.services.entering import Entering

        spec = self.spec.node(node)
        host_key = Entering(self.spec, self._world).host_key(spec)
        folder = self._settings.state_folder / "known_hosts"
        return ssh_command(spec, self.spec.ssh, host_key, self._world.login_key.path, folder)

    def export_ansible_inventory(self, folder: Path, nodes: Iterable[str] = ()) -> AnsibleExport:
        """Write what plays the playbooks by hand: inventory, host keys and variables, none of them with a secret in it.

        Args:
            folder: where; made if need be.
            nodes: which; all when none is named. One that cannot be exported is named in the answer with the reason.
        """
        from provisioner.adapters.ansible.exported import INVENTORY, write_export
        from provisioner.domain.node_plays import AnsibleExport
        from provisioner.services.exporting import all_plays

        plays, left_out = all_plays(self.plans(nodes))
        commands = write_export(folder, plays, self.spec.ssh, self._world.login_key.path)
        return AnsibleExport(folder.absolute() / INVENTORY, commands, left_out)

    def export_systemd(
        self, folder: Path, *, user: str = "provisioner", secrets: Path = Path("/etc/provisioner/secrets.env")
    ) -> tuple[Path, ...]:
        """Write units for systemd into a folder; return their paths. Raises InputError.

        Args:
            folder: where; made if need be.
            user: whom they run as.
            secrets: a file of lines NAME=VALUE with what the fleet file takes from the environment.
        """
        import sys

        from provisioner.adapters.files.text_files import write_texts
        from provisioner.exports.systemd import UnitWishes, units

        service = self.spec.service
        wishes = UnitWishes(
            command=(sys.executable, "-m", "provisioner"),
            fleet_file=self.spec.path.resolve(),
            drain_seconds=service.drain_seconds,
            idle_seconds=service.idle_every_seconds,
            user=user,
            secrets=secrets,
            writes=self.folders_written_to(),
        )
        return write_texts(folder, units(wishes))

    def folders_written_to(self) -> tuple[Path, ...]:
        """Return the folders of the files that orchestrators read, which the service writes."""
        return tuple(dict.fromkeys(each.file.parent for each in self.spec.orchestrators.values() if each.file))

    def export_haproxy(self, listen: ListenAddress) -> str:
        """Return a configuration for HAProxy that listens there and has our gateway behind it. Raises RefusedError."""
        from provisioner.exports.haproxy import HaproxyWishes, configuration

        wishes = HaproxyWishes(listen, self.spec.service.listen)
        return configuration(self.spec, self._world.engines, wishes)

    def export_prometheus(
        self,
        folder: Path,
        *,
        service: str = "",
        token_file: Path = Path("/etc/prometheus/provisioner.token"),
    ) -> tuple[Path, ...]:
        """Write Prometheus's configuration, rules and targets, and a table of the metrics; return their paths.

        Args:
            folder: where; made if need be.
            service: the base URL at which Prometheus finds the control service; by default what the fleet file says.
            token_file: from where Prometheus reads its token, if one is needed.

        Raises:
            InputError: a file cannot be written, or nobody says where the service is found.
        """
        from provisioner.adapters.files.text_files import write_texts
        from provisioner.exports import prometheus
        from provisioner.metrics.table import documentation

        url = service or self.spec.service.address_for_others
        if not url:
            raise InputError(
                "cannot say where Prometheus finds the control service: it listens everywhere",
                subject=f"fleet file {self.spec.path}",
                next_step="service: {url: http://ADDRESS:PORT} in it, or --service http://ADDRESS:PORT",
            )
        wishes = prometheus.PrometheusWishes(url.rstrip("/"), token_file)
        texts = {
            prometheus.CONFIGURATION: prometheus.configuration(self.spec, wishes),
            prometheus.RULES: prometheus.rules(),
            prometheus.TARGETS: prometheus.targets(self.spec, self._world.engines),
            prometheus.NAMES: documentation(),
        }
        return write_texts(folder, texts)

    def export_grafana(self, folder: Path) -> tuple[Path, ...]:
        """Write dashboards for Grafana into a folder; return their paths.

        Raises:
            InputError: it cannot be written, or Grafana's library is not installed.
        """
        from provisioner.adapters.files.text_files import write_texts
        from provisioner.exports.grafana import dashboards

        return write_texts(folder, dashboards())

    def logs(
        self, node: str, *, count: int = 50, since: str | None = None, follow: bool = False
    ) -> Generator[JournalLine, None, None]:
        """Yield what the engine of a node that runs said last; raises as `EngineJournals.lines`.

        Args:
            node: whose.
            count: how many lines.
            since: only later ones: a time back such as ``20m``, or a moment.
            follow: then go on with new ones, until the iterator is closed.
        """
        from provisioner.services.engine_journals import EngineJournals

        journals = EngineJournals(self.spec, self._world)
        return journals.lines(self._as_noted(node), count=count, since=since, follow=follow)

    def test(
        self, node: str, *, smoke: bool = False, mode: str | None = None, on_event: OnEvent = ignore
    ) -> NodeTestReport:
        """Look closely at a node that is awake: cards, driver, engine, pace; raises as `NodeTesting.test`.

        Args:
            node: which; it is not woken.
            smoke: only whether it works at all; nothing is timed or remembered.
            mode: test it in this one of its modes, and bring the one before back afterwards.
            on_event: told about the steps.
        """
        spec = self._as_noted(node)
        if mode is None or mode == spec.mode:
            return self._testing.test(spec, on_event, smoke=smoke)
        return self._testing.test_in(spec, mode, on_event, smoke=smoke)

    def watch(
        self, nodes: Iterable[str] = (), *, interval: float = 2.0, rounds: int | None = None
    ) -> Generator[tuple[NodeSample, ...], None, None]:
        """Yield a sample of each node (of all of them when none is named), again and again; nothing is woken.

        Args:
            nodes: their names.
            interval: seconds from one look to the next.
            rounds: how many looks; None for ever.
        """
        from provisioner.services.watching import Watching

        chosen = [self.spec.node(name) for name in nodes] or list(self.spec.nodes.values())
        return Watching(self.spec, self._world).watch(chosen, interval, rounds)

    def survives_stop(self, node: str, on_event: OnEvent = ignore) -> SurvivalReport:
        """Stop and start a node's VM, and say whether its GPUs came back; raises as `NodeTesting.survives_stop`."""
        return self._testing.survives_stop(self._as_noted(node), on_event)

    def write_survival(self, report: SurvivalReport) -> None:
        """Write a verdict into the fleet file, and change nothing else in it. Raises InputError."""
        from provisioner.adapters.files.fleet_edit import write_fact

        for gpu in report.gpus:
            place = ("hypervisors", report.hypervisor, "gpus", gpu, "survives_stop")
            write_fact(self.spec.path, place, "true" if report.survived else "false")

    def bench(
        self, node: str, *, streams: Sequence[int] = (1, 4, 16), seconds: float = 10.0, on_event: OnEvent = ignore
    ) -> BenchReport:
        """Measure how fast a node that is awake answers; raises as `Benchmarking.bench`.

        Args:
            node: which; it is not woken.
            streams: how many clients at once, level by level.
            seconds: how long each level lasts.
            on_event: told about the levels.
        """
        from provisioner.services.benchmarking import Benchmarking

        return Benchmarking(self.spec, self._world).bench(self._as_noted(node), streams, seconds, on_event)

    def forward(self, node: str, port: int | None = None, *, also: Iterable[int] = ()) -> Tunnel:
        """Return a tunnel that brings a node's engine, and its Web UI, to this machine; it is open inside a ``with``.

        Args:
            node: one that runs.
            port: the port here; by default the engine's own number, 0 for any that is free.
            also: further ports of the guest; like the Web UI's, each gets its own number here, any when `port` is 0.

        Raises:
            NotReadyError: the node is off.
            RefusedError: it is adopted.
        """
        from provisioner.adapters.ssh.tunnel import Forward, Tunnel
        from provisioner.services.deployments import engine_of
        from provisioner.services.engine_web import engine_key
        from provisioner.services.entering import Entering

        spec = self._as_noted(node)
        head = self.spec.answering(spec)
        if head.name != spec.name:
            raise RefusedError(
                f'cannot bring its engine here: {head.name} answers for it in mode "{spec.mode}"',
                subject=spec.subject,
                next_step=f"provisioner forward {head.name}",
            )
        command = self.ssh(node)
        Entering(self.spec, self._world).require_running(spec)
        engine = engine_of(self.spec, self._world, spec)
        needs_key = engine_key(self.spec, self._world, spec).is_needed
        wanted = [Forward(engine.name, engine.port, engine.port if port is None else port, needs_key)]
        further = {f"port {each}": each for each in also}
        if spec.web_ui is not None:
            further = {"Open WebUI": spec.web_ui.port, **further}
        wanted += [Forward(name, each, 0 if port == 0 else each) for name, each in further.items()]
        return Tunnel(command, wanted, spec.subject, self._world.clock)

    def _told(
        self, outcomes: dict[str, UpReport | ProvisionerError], on_event: OnEvent
    ) -> dict[str, UpReport | ProvisionerError]:
        self._tell_orchestrators(
            [name for name, outcome in outcomes.items() if not isinstance(outcome, ProvisionerError)], on_event
        )
        return outcomes

    def _tell_orchestrators(self, nodes: Sequence[str], on_event: OnEvent) -> None:
        """Tell orchestrators what has become of nodes; one that is away is told later, and stops nothing."""
        if self.spec.orchestrators and nodes:
            self._registering.tell([self.spec.node(name) for name in nodes], on_event)

    @cached_property
    def _registering(self) -> Registering:
        from provisioner.services.registering import Registering

        return Registering(self.spec, self._world)

    @cached_property
    def _arbitration(self) -> Arbitration:
        from provisioner.services.arbitration import Arbitration

        return Arbitration(self.spec, self._world)

    @cached_property
    def _provisioning(self) -> Provisioning:
        from provisioner.services.provisioning import Provisioning

        return Provisioning(self.spec, self._world)

    @cached_property
    def _readiness(self) -> Readiness:
        from provisioner.services.readiness import Readiness

        return Readiness(self.spec, self._world)

    @cached_property
    def _waking(self) -> Waking:
        from provisioner.services.waking import Waking

        return Waking(self.spec, self._world)

    @cached_property
    def _sleeping(self) -> Sleeping:
        from provisioner.services.sleeping import Sleeping

        return Sleeping(self.spec, self._world)

    @cached_property
    def _mode_switching(self) -> ModeSwitching:
        from provisioner.services.mode_switching import ModeSwitching

        return ModeSwitching(self.spec, self._world)

    @cached_property
    def _testing(self) -> NodeTesting:
        from provisioner.services.node_testing import NodeTesting

        return NodeTesting(self.spec, self._world)

    def _as_noted(self, node: str) -> NodeSpec:
        """Return a node in the mode that it is in."""
        from provisioner.services.deployments import as_noted

        return as_noted(self.spec, self._world, self.spec.node(node))

    @staticmethod
    def _saver(path: Path) -> OnDump:
        from provisioner.adapters.files.host_dump import require_new, write_host_dump

        # Before anybody logs in.
        require_new(path)
        return lambda dump: write_host_dump(path, dump.sections)

    def node_to_wake(self, node: str | None, model: str | None) -> NodeSpec:
        """Return the node that `wake` would wake; the same for both faces of it.

        Raises:
            InputError: not exactly one of the two is given.
            RefusedError: no node is in a mode with that model; the error says how to bring one into it.
        """
        if (node is None) == (model is None):
            raise InputError(
                "cannot tell what to wake", subject="wake", next_step="name either a node or, with --model, a model"
            )
        if node is not None:
            return self.spec.node(node)
        serving = self._in_a_mode_with(model or "", self.spec.nodes_serving(model or ""))
        if len(serving) > 1:
            from provisioner.services.fleet_view import NodeState

            best = (NodeState.SERVING, NodeState.STARTING, NodeState.ASLEEP)
            seen = {status.node.name: status.state for status in self.status(each.name for each in serving)}
            return min(serving, key=lambda each: best.index(seen[each.name]) if seen[each.name] in best else len(best))
        return serving[0]

    def _in_a_mode_with(self, model: str, nodes: Sequence[NodeSpec]) -> Sequence[NodeSpec]:
        """Return the nodes that serve a model in the mode that they are in now."""
        from provisioner.services.noted_modes import noted

        now: list[NodeSpec] = []
        elsewhere: list[NodeSpec] = []
        for node in nodes:
            current = self.spec.in_mode(node, None)
            if len(node.modes) > 1:
                api = self._world.clusters[self.spec.cluster_of(node).name]
                # Without a VM there is no note; whoever wakes it is told so.
                if api.vm(node.hypervisor, node.vmid) is not None:
                    current = noted(self.spec, api, node)[0]
            released = self.spec.release_of(current) is not None
            (now if model in self.spec.mode_of(current).models and not released else elsewhere).append(node)
        if not now:
            ways = "; or ".join(f"provisioner mode {node.name} {node.mode}" for node in elsewhere)
            raise RefusedError(
                f'cannot wake a node for model "{model}": each that may serve it is in another mode',
                subject=", ".join(node.name for node in elsewhere),
                next_step=ways,
            )
        return now
