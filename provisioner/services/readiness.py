"""Judges hypervisors: gathers what the API and, where we may log in, the hypervisor itself tell.

Both are asked at once, and several hypervisors side by side. A source that
fails is a finding; its error is raised only where the API was the one source
and gave nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from provisioner.domain.fleet import FleetSpec, HypervisorSpec
from provisioner.domain.host import HostFacts, Release, Source
from provisioner.domain.names import ClusterName, HypervisorName
from provisioner.domain.snapshot import ClusterSnapshot
from provisioner.errors import InputError, ProvisionerError
from provisioner.planning.access import Permissions, is_held
from provisioner.planning.doctor import ApiSeen, DoctorFacts, DoctorReport, Trouble, doctor_report
from provisioner.planning.host.merge import are_one_machine, merged, with_extras
from provisioner.ports.hosts import HostDump
from provisioner.services.world import World

# Each hypervisor is asked by the API and by SSH at once, so this is half as many hypervisors.
_MOST_AT_ONCE = 8

_NOTHING = HostFacts(sources=())

OnDump = Callable[[HostDump], None]


@dataclass(frozen=True, slots=True)
class _ClusterSeen:
    """What is asked of a cluster once, however many of its hypervisors are examined; `calls` is what that took."""

    snapshot: ClusterSnapshot
    permissions: Permissions
    release: Release | None
    calls: int


@dataclass(frozen=True, slots=True)
class _ApiLook:
    """What the API gave of one hypervisor, and the error that ended the look early."""

    seen: ApiSeen | None = None
    host: HostFacts = _NOTHING
    error: ProvisionerError | None = None
    calls: int = 0


class Readiness:
    """`doctor`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def report(self, hypervisor: str, on_dump: OnDump | None = None) -> DoctorReport:
        """Examine one hypervisor.

        Args:
            hypervisor: its name in the fleet file.
            on_dump: told what the hypervisor itself said, before anything is judged by it.

        Raises:
            InputError: there is no such hypervisor, or `on_dump` is wanted of one without ``ssh``.
            HypervisorError: the API is the only source and could not be asked.
        """
        name = self._fleet.hypervisor(hypervisor).name
        found = self.reports([name], on_dump)[name]
        if isinstance(found, ProvisionerError):
            raise found
        return found

    def reports(
        self, names: Iterable[str] = (), on_dump: OnDump | None = None
    ) -> dict[HypervisorName, DoctorReport | ProvisionerError]:
        """Examine several hypervisors side by side (all of them when none is named); one's failure stops no other."""
        specs = [self._fleet.hypervisor(name) for name in names] or list(self._fleet.hypervisors.values())
        if on_dump is not None:
            for spec in specs:
                require_ssh(spec, self._fleet)
        with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
            try:
                # The clusters first: the looks at their hypervisors wait for them in the same pool.
                clusters = {name: pool.submit(self._cluster, name) for name in dict.fromkeys(s.cluster for s in specs)}
                dumps = {spec.name: pool.submit(self._world.hosts.gather, spec) for spec in specs if spec.ssh}
                looks = {spec.name: pool.submit(self._api_look, spec, clusters[spec.cluster]) for spec in specs}
                return {
                    spec.name: self._judged(spec, looks[spec.name].result(), dumps.get(spec.name), on_dump)
                    for spec in specs
                }
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _judged(
        self, spec: HypervisorSpec, look: _ApiLook, gathered: Future[HostDump] | None, on_dump: OnDump | None
    ) -> DoctorReport | ProvisionerError:
        troubles = [Trouble(Source.API, look.error)] if look.error is not None else []
        host = look.host
        if gathered is not None:
            try:
                dump = gathered.result()
            except ProvisionerError as error:
                troubles.append(Trouble(Source.SSH, error))
            else:
                if on_dump is not None:
                    on_dump(dump)
                told = with_extras(replace(dump.facts, sources=(Source.SSH,)), dump.extras)
                if dump.extras.node not in (None, spec.name):
                    troubles.append(
                        Trouble(Source.SSH, _another_machine(spec, f'its cluster calls it "{dump.extras.node}"'))
                    )
                elif not are_one_machine(told, host):
                    found = f"its PCI devices are not those that the API shows of {spec.name}"
                    troubles.append(Trouble(Source.SSH, _another_machine(spec, found)))
                else:
                    host = merged(told, host)
        elif look.seen is None and look.error is not None:
            return look.error
        return doctor_report(DoctorFacts(self._fleet, spec, host, look.seen, tuple(troubles)), look.calls)

    def _cluster(self, name: ClusterName) -> _ClusterSeen:
        api = self._world.clusters[name]
        before = api.calls
        snapshot, permissions, release = api.snapshot(), api.permissions(), api.version()
        return _ClusterSeen(snapshot, permissions, release, api.calls - before)

    def _api_look(self, spec: HypervisorSpec, cluster: Future[_ClusterSeen]) -> _ApiLook:
        try:
            common = cluster.result()
        except ProvisionerError as error:
            return _ApiLook(error=error)
        api = self._world.clusters[spec.cluster]
        before = api.calls
        seen = ApiSeen(common.snapshot, common.permissions, common.release, None)
        host: HostFacts = replace(_NOTHING, sources=(Source.API,))
        trouble: ProvisionerError | None = None
        if common.snapshot.hypervisors.get(spec.name):
            try:
                seen = replace(seen, mappings=api.mappings(spec.name) if spec.gpus else {})
                may_read_journal = is_held(common.permissions, f"/nodes/{spec.name}", "Sys.Syslog")
                host = api.host_facts(spec.name, may_read_journal=may_read_journal)
                # Anybody may ask for the version; it is that of the server that the address leads to.
                host = replace(host, pve=host.pve or common.release)
            except ProvisionerError as error:
                trouble = error
        return _ApiLook(seen, host, trouble, common.calls + api.calls - before)


def require_ssh(spec: HypervisorSpec, fleet: FleetSpec) -> None:
    """Refuse to look at a hypervisor itself when the fleet file says no way in. Raises InputError with the lines."""
    if spec.ssh is None:
        raise InputError(
            "cannot save a dump: the fleet file says no way to log in to the hypervisor",
            subject=f'hypervisor "{spec.name}" in {fleet.path}',
            next_step=f"add `ssh: {{address: ADDRESS, user: root}}` below hypervisors.{spec.name}, for instance:\n"
            f"  {spec.name}:\n    cluster: {spec.cluster}\n    ssh: {{address: {_guess(spec, fleet)}, user: root}}",
        )


def _another_machine(spec: HypervisorSpec, found: str) -> InputError:
    address = spec.ssh.address if spec.ssh is not None else ""
    return InputError(
        f"cannot use what {address} says: {found}",
        subject=f'hypervisor "{spec.name}"',
        next_step=f"mend hypervisors.{spec.name}.ssh.address: it leads to another machine",
    )


def _guess(spec: HypervisorSpec, fleet: FleetSpec) -> str:
    """Return a likely address: a lone server answers SSH where its API answers."""
    alone = [other for other in fleet.hypervisors.values() if other.cluster == spec.cluster] == [spec]
    host = fleet.clusters[spec.cluster].api_url.partition("://")[2].partition("/")[0].rpartition(":")[0]
    return host.strip("[]") if alone and host else "10.10.0.2"
