"""One contract over the fake and the real way into hypervisors, the latter at the stand-in host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from provisioner.adapters.ssh.hosts import SshHosts
from provisioner.domain.fleet import HypervisorSpec, HypervisorSsh
from provisioner.domain.names import ClusterName, HypervisorName
from provisioner.errors import InputError, UnreachableError
from provisioner.ports.guest_shell import CommandResult
from provisioner.ports.hosts import Hosts
from tests.fakes.hosts import FakeHosts
from tests.pve_host import PveHost, why_not


@dataclass(frozen=True)
class Way:
    """A way in, a hypervisor, and how to turn that off."""

    hosts: Hosts
    hypervisor: HypervisorSpec
    turn_off: Callable[[], object]


@pytest.fixture(params=["fake", "real"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    if request.param == "fake":
        hosts = FakeHosts()
        hosts.sections["pve1"] = {"uname": "6.8.12-4-pve\n", "cpu": "vendor_id: AuthenticAMD\n"}
        hosts.answers["exit 3"] = CommandResult(3, "out\n", "err\n")
        spec = HypervisorSpec(HypervisorName("pve1"), ClusterName("homelab"), {}, HypervisorSsh("10.10.0.2"))
        yield Way(hosts, spec, lambda: hosts.off.add("pve1"))
        return
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with PveHost.typical(tmp_path / "pve1", cpu="amd") as host:
        yield Way(SshHosts(), host.spec(), lambda: host.__exit__(None, None, None))


def test_a_script_gives_its_result(way: Way) -> None:
    with way.hosts.open(way.hypervisor) as shell:
        assert shell.run("echo out; echo err >&2; exit 3", seconds=10) == CommandResult(3, "out\n", "err\n")
        assert shell.run(":", seconds=10, privileged=False) == CommandResult(0, "", "")


def test_gathered_facts_and_sections_belong_together(way: Way) -> None:
    dump = way.hosts.gather(way.hypervisor)
    assert dump.facts.kernel is not None
    assert dump.sections["uname"].strip() == dump.facts.kernel.text == "6.8.12-4-pve"
    assert dump.facts.cpu_vendor == "AuthenticAMD"


def test_without_ssh_in_the_fleet_file_there_is_no_way_in(way: Way) -> None:
    nowhere = replace(way.hypervisor, ssh=None)
    for act in (way.hosts.open, way.hosts.gather):
        with pytest.raises(InputError):
            act(nowhere)


def test_a_host_that_is_off_is_unreachable_before_and_in_the_middle(way: Way) -> None:
    with way.hosts.open(way.hypervisor) as shell:
        way.turn_off()
        with pytest.raises(UnreachableError) as caught:
            shell.run(":", seconds=10)
        assert caught.value.retryable
    for act in (way.hosts.open, way.hosts.gather):
        with pytest.raises(UnreachableError) as caught:
            act(way.hypervisor)
        assert caught.value.retryable
