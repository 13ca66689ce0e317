"""The ports `Hosts` and `HostShell` without a network."""

from __future__ import annotations

from types import TracebackType

from provisioner.adapters.files.host_dump import facts_from_dump, render_dump
from provisioner.domain.fleet import HypervisorSpec
from provisioner.domain.host_extras import HostExtras
from provisioner.errors import InputError, ProvisionerError, UnreachableError
from provisioner.ports.guest_shell import CommandResult
from provisioner.ports.hosts import HostDump


class FakeHosts:
    """Hypervisors by name: each shows `sections`, answers scripts from `answers`, and may refuse or be off.

    `runs` keeps every script that was run, as (hypervisor, script, privileged).
    """

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, str]] = {}
        self.extras: dict[str, HostExtras] = {}
        self.answers: dict[str, CommandResult] = {}
        self.refusals: dict[str, ProvisionerError] = {}
        self.off: set[str] = set()
        self.runs: list[tuple[str, str, bool]] = []

    def open(self, hypervisor: HypervisorSpec) -> FakeHostShell:
        if hypervisor.ssh is None:
            raise InputError("cannot log in: no ssh", subject=hypervisor.name, next_step="add ssh to the fleet file")
        if hypervisor.name in self.refusals:
            raise self.refusals[hypervisor.name]
        self.check_on(hypervisor.name)
        return FakeHostShell(self, hypervisor.name)

    def gather(self, hypervisor: HypervisorSpec) -> HostDump:
        with self.open(hypervisor):
            sections = self.sections.get(hypervisor.name, {"uname": "6.8.12-4-pve\n"})
            facts = facts_from_dump(render_dump(sections))
            return HostDump(sections, facts, self.extras.get(hypervisor.name, HostExtras()))

    def check_on(self, name: str) -> None:
        if name in self.off:
            raise UnreachableError("cannot log in: it is off", subject=name, next_step="turn it on", retryable=True)


class FakeHostShell:
    """Answers a script by the first entry of `answers` whose key it contains; else it succeeds silently."""

    def __init__(self, hosts: FakeHosts, name: str) -> None:
        self._hosts = hosts
        self._name = name

    def run(self, script: str, *, seconds: float, privileged: bool = True) -> CommandResult:
        self._hosts.check_on(self._name)
        self._hosts.runs.append((self._name, script, privileged))
        found = (answer for words, answer in self._hosts.answers.items() if words in script)
        return next(found, CommandResult(0, "", ""))

    def __enter__(self) -> FakeHostShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
