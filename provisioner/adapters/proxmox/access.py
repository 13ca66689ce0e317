"""The port `AccessDoor`: reads users, roles, rules, mappings and storages, and carries out steps one by one.

Two callers serve it alike: a session with somebody's password or token, and
``pvesh`` in a root shell. Whatever way the door was entered, a saved secret is
tried over the network, because that is how it will be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from provisioner.adapters import secret_files
from provisioner.adapters.proxmox import access_answers as answers
from provisioner.adapters.proxmox.pvesh import PveshCaller
from provisioner.adapters.proxmox.session import PasswordLogin, ProxmoxSession, TokenLogin
from provisioner.adapters.proxmox.token_secret import look_at_secret
from provisioner.adapters.secrets import SecretText
from provisioner.domain.access import AccessSeen, AccessWanted, MappableDevice, PciMapping
from provisioner.domain.access_plan import AccessStep, Secret
from provisioner.domain.fleet import ClusterAddress
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid
from provisioner.errors import HypervisorError, LoginRefusedError, PermissionMissingError
from provisioner.planning.access import needed_rights
from provisioner.ports.access import Permissions
from provisioner.ports.clock import Clock
from provisioner.ports.hosts import HostShell


class ApiCaller(Protocol):
    """Sends requests to one cluster as somebody."""

    @property
    def subject(self) -> str:
        """The cluster, in the words of messages."""
        ...

    def call(self, method: str, path: str, /, **parameters: Any) -> Any:
        """Send one request and return its data. Raises HypervisorError."""
        ...


class ProxmoxAccess:
    """One cluster, entered as an administrator.

    Args:
        caller: sends the requests.
        who: whom the cluster knows the caller by, for messages.
        accepts: says whether a token with this secret may log in.
        clock: time, for what has expired.
    """

    def __init__(
        self, caller: ApiCaller, who: str, accepts: Callable[[AccessWanted, SecretText], bool], clock: Clock
    ) -> None:
        self._caller = caller
        self._who = who
        self._accepts = accepts
        self._clock = clock
        self._major: int | None = None

    @property
    def subject(self) -> str:
        """Who enters where, in the words of messages."""
        return f"{self._who} on {self._caller.subject}"

    def major(self) -> int:
        """Return Proxmox VE's major version."""
        if self._major is None:
            self._major = int(str(self._call("GET", "version")["version"]).partition(".")[0])
        return self._major

    def own_permissions(self) -> Permissions:
        """Return what whoever entered may do."""
        return dict(self._call("GET", "access/permissions"))

    def token_permissions(self, wanted: AccessWanted) -> Permissions:
        """Return what the fleet's token may do on each path that matters."""
        needed = needed_rights(wanted.fleet, wanted.cluster, self.major())
        found: dict[str, Mapping[str, int]] = {}
        for path in dict.fromkeys(path for right in needed for path in right.holds_at):
            found |= self._call("GET", "access/permissions", userid=wanted.cluster.token_id, path=path)
        return found

    def look(self, wanted: AccessWanted, *, undoing: bool = False) -> AccessSeen:
        """Look at everything; with `undoing` also at who uses the mappings."""
        users = answers.users(self._call("GET", "access/users", full=1), now=self._clock.now())
        user = users.get(wanted.user)
        exists = user is not None and wanted.token in user.tokens
        servers = self._servers_with_gpus(wanted)
        mappings = self._mappings(servers)
        if undoing and any(mapping.is_ours for mapping in mappings.values()):
            mappings = self._with_users(mappings)
        return AccessSeen(
            major=self.major(),
            roles=answers.roles(self._call("GET", "access/roles")),
            users=users,
            rules=answers.rules(self._call("GET", "access/acl")),
            mappings=mappings,
            devices={server: self._devices(server) for server in servers},
            storages={
                StorageName(str(row["storage"])): answers.storage(row) for row in self._call("GET", "storage") or ()
            },
            secret=look_at_secret(wanted, (lambda secret: self._accepts(wanted, secret)) if exists else None),
        )

    def carry_out(self, step: AccessStep) -> None:
        """Do one step."""
        if step.secret is Secret.KEEP and step.file is not None:
            # First the file: a secret that has no place is lost, and its token with it.
            secret_files.reserve(step.file)
            answer = self._send(step)
            value = answer.get("value") if isinstance(answer, Mapping) else None
            if not value:
                raise HypervisorError(
                    "cannot keep the token's secret: Proxmox made the token and did not show it",
                    subject=self.subject,
                    next_step="run the same command again: it makes the token anew",
                    retryable=True,
                )
            secret_files.keep(step.file, SecretText(str(value)))
            return
        if step.method:
            self._send(step)
        if step.secret is Secret.FORGET and step.file is not None:
            secret_files.forget(step.file)

    def _send(self, step: AccessStep) -> Any:
        parameters = {
            name: list(value) if isinstance(value, tuple) else value for name, value in step.parameters.items()
        }
        return self._call(step.method, step.path.strip("/"), **parameters)

    def _call(self, method: str, path: str, /, **parameters: Any) -> Any:
        try:
            return self._caller.call(method, path, **parameters)
        except PermissionMissingError as error:
            # Elsewhere it is the fleet's token that lacks something; here it is a person.
            raise PermissionMissingError(
                error.summary,
                subject=self.subject,
                next_step="log in as root@pam, or as an administrator with that privilege",
            ) from error

    def _servers_with_gpus(self, wanted: AccessWanted) -> list[HypervisorName]:
        """Return the fleet's servers that have GPUs and answer."""
        online = {str(row["node"]) for row in self._call("GET", "nodes") if row.get("status") == "online"}
        return [
            server.name
            for server in wanted.fleet.hypervisors.values()
            if server.cluster == wanted.cluster.name and server.gpus and server.name in online
        ]

    def _mappings(self, servers: Iterable[HypervisorName]) -> dict[MappingId, PciMapping]:
        looks = [(server, self._call("GET", "cluster/mapping/pci", **{"check-node": server})) for server in servers]
        if not looks:
            looks = [(HypervisorName(""), self._call("GET", "cluster/mapping/pci"))]
        found: dict[MappingId, PciMapping] = {}
        for server, rows in looks:
            for row in rows:
                name = MappingId(str(row["id"]))
                known = found.get(name) or answers.mapping(row)
                found[name] = replace(known, problems={**known.problems, server: answers.mapping_errors(row)})
        return found

    def _with_users(self, mappings: Mapping[MappingId, PciMapping]) -> dict[MappingId, PciMapping]:
        """Add which VMs name a mapping, running or not."""
        users: dict[MappingId, list[Vmid]] = {}
        for row in self._call("GET", "cluster/resources", type="vm"):
            if row.get("type") == "qemu":
                config = self._call("GET", f"nodes/{row['node']}/qemu/{row['vmid']}/config")
                for name in answers.mappings_of_vm(config):
                    users.setdefault(name, []).append(Vmid(int(row["vmid"])))
        return {name: replace(mapping, used_by=tuple(users.get(name, ()))) for name, mapping in mappings.items()}

    def _devices(self, server: HypervisorName) -> tuple[MappableDevice, ...]:
        return tuple(map(answers.device, self._call("GET", f"nodes/{server}/hardware/pci")))


def entered_with(cluster: ClusterAddress, login: PasswordLogin | TokenLogin, clock: Clock) -> ProxmoxAccess:
    """Return the door to a cluster for somebody's login."""
    return entered_as(ProxmoxSession(cluster, login, clock=clock), login.words, clock)


def entered_as(session: ProxmoxSession, who: str, clock: Clock) -> ProxmoxAccess:
    """Return the door for somebody who is logged in already: a second factor is good for one login."""
    return ProxmoxAccess(session, who, _accepts(clock), clock)


def entered_through(cluster: ClusterAddress, shell: HostShell, clock: Clock) -> ProxmoxAccess:
    """Return the door to a cluster for a root shell on one of its servers."""
    return ProxmoxAccess(PveshCaller(cluster, shell), "user root@pam", _accepts(clock), clock)


def _accepts(clock: Clock) -> Callable[[AccessWanted, SecretText], bool]:
    def accepts(wanted: AccessWanted, secret: SecretText) -> bool:
        cluster = wanted.cluster
        session = ProxmoxSession(cluster.address, TokenLogin(cluster.token_id, secret), clock=clock)
        try:
            session.call("GET", "version")
        except LoginRefusedError:
            return False
        return True

    return accepts
