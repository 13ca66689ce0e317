"""`doctor` over fakes: which sources are asked, what happens when one fails, and what is saved first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, HypervisorSpec, HypervisorSsh
from provisioner.domain.host import Source
from provisioner.domain.host_extras import HostExtras
from provisioner.domain.names import HypervisorName, MappingId
from provisioner.errors import HypervisorError, InputError, UntrustedError
from provisioner.planning.doctor import DoctorReport
from provisioner.planning.readiness import CheckStatus
from provisioner.ports.hosts import HostDump
from provisioner.services.readiness import Readiness
from tests.fakes.host_facts import GPU, PORT
from tests.fakes.hypervisors import refusal
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")
LSPCI = (
    f"{PORT} PCI bridge [0604]: Advanced Micro Devices, Inc. [AMD] GPP Bridge [1022:1483]\n"
    f"{GPU} VGA compatible controller [0300]: NVIDIA Corporation GA102 [GeForce RTX 3090] [10de:2204]\n"
    "\tSubsystem: NVIDIA Corporation GA102 [GeForce RTX 3090] [10de:3095]\n\tKernel driver in use: vfio-pci\n"
)
WRONG_KEY = UntrustedError(
    "cannot log in: its host key is SHA256:found, known is SHA256:known", subject="pve1", next_step="compare them"
)


@pytest.fixture
def with_ssh(fleet: FleetSpec, world: FakeWorld) -> FleetSpec:
    """The fleet, with a way in to pve1, which shows its GPU bound to vfio-pci."""
    world.hosts.sections["pve1"] = {"uname": "6.8.12-4-pve\n", "lspci": LSPCI}
    world.hosts.extras["pve1"] = HostExtras(reset_methods={GPU: ()})
    spec = replace(fleet.hypervisors[PVE1], ssh=HypervisorSsh("10.10.0.2"))
    return replace(fleet, hypervisors={PVE1: spec})


def test_the_api_alone_is_asked_where_there_is_no_way_in(fleet: FleetSpec, world: FakeWorld) -> None:
    report = Readiness(fleet, world).report("pve1")
    assert report.sources == (Source.API,)
    assert report.verdict.gpus[0].is_bound_to_vfio is None
    assert not report.must_be_mended
    assert report.calls == 5  # snapshot, permissions, version, mappings, host facts
    assert world.hosts.runs == []


def test_both_sources_are_one_picture(with_ssh: FleetSpec, world: FakeWorld) -> None:
    report = Readiness(with_ssh, world).report("pve1")
    assert report.sources == (Source.API, Source.SSH)
    gpu = report.verdict.gpus[0]
    assert (gpu.driver, gpu.iommu_group, gpu.is_group_clean) == ("vfio-pci", 15, True)
    assert report.host.kernel is not None
    assert report.host.kernel.text == "6.8.12-4-pve"  # the hypervisor's own word
    checks = {check.id: check for check in report.checks}
    assert "knows no way to reset" in checks[f"reset_{GPU}"].found
    assert checks["ssh"].status is CheckStatus.OK
    assert checks["mapping_rtx3090"].status is CheckStatus.OK


def test_a_way_in_that_fails_is_a_finding(with_ssh: FleetSpec, world: FakeWorld) -> None:
    world.hosts.refusals["pve1"] = WRONG_KEY
    report = Readiness(with_ssh, world).report("pve1")
    checks = {check.id: check for check in report.checks}
    assert report.must_be_mended
    assert checks["ssh"].status is CheckStatus.FAIL
    assert "SHA256:found" in checks["ssh"].found
    assert "SHA256:known" in checks["ssh"].found
    assert report.sources == (Source.API,)
    assert report.verdict.gpus


def test_a_twin_of_another_name_is_another_machine(with_ssh: FleetSpec, world: FakeWorld) -> None:
    world.hosts.extras["pve1"] = HostExtras(node="pve2")
    report = Readiness(with_ssh, world).report("pve1")
    (check,) = (check for check in report.checks if check.id == "ssh")
    assert check.status is CheckStatus.FAIL
    assert 'its cluster calls it "pve2"' in check.found
    assert report.verdict.gpus[0].is_bound_to_vfio is None  # the API's word alone


def test_a_way_in_that_leads_to_another_machine_is_a_finding(with_ssh: FleetSpec, world: FakeWorld) -> None:
    world.hosts.sections["pve1"]["lspci"] = LSPCI.replace("01:00.0", "0a:00.0")
    report = Readiness(with_ssh, world).report("pve1")
    checks = {check.id: check for check in report.checks}
    assert checks["ssh"].status is CheckStatus.FAIL
    assert "are not those that the API shows of pve1" in checks["ssh"].found
    assert checks["ssh"].next_step.startswith("mend hypervisors.pve1.ssh.address")
    assert report.sources == (Source.API,)
    assert [gpu.address for gpu in report.verdict.gpus] == [GPU]


def test_an_api_that_fails_is_a_finding_where_there_is_another_source(with_ssh: FleetSpec, world: FakeWorld) -> None:
    world.cluster.fails["snapshot"] = refusal("cannot reach Proxmox")
    report = Readiness(with_ssh, world).report("pve1")
    assert [check.id for check in report.checks][:2] == ["api", "ssh"]
    assert report.sources == (Source.SSH,)
    assert report.verdict.gpus[0].driver == "vfio-pci"
    assert report.must_be_mended


def test_when_everything_fails_everything_is_said(with_ssh: FleetSpec, world: FakeWorld) -> None:
    world.cluster.fails["snapshot"] = refusal("cannot reach Proxmox")
    world.hosts.off.add("pve1")
    report = Readiness(with_ssh, world).report("pve1")
    failed = [check.id for check in report.checks if check.status is CheckStatus.FAIL]
    assert failed == ["api", "ssh"]
    assert report.sources == ()


def test_without_any_source_the_error_is_raised(fleet: FleetSpec, world: FakeWorld) -> None:
    world.cluster.fails["snapshot"] = refusal("cannot reach Proxmox")
    with pytest.raises(HypervisorError, match="cannot reach Proxmox"):
        Readiness(fleet, world).report("pve1")


@pytest.mark.parametrize("call", ["mappings", "host_facts"])
def test_a_server_that_falls_silent_is_a_finding(fleet: FleetSpec, world: FakeWorld, call: str) -> None:
    world.cluster.fails[call] = refusal("hypervisor pve1 did not answer")
    report = Readiness(fleet, world).report("pve1")
    checks = {check.id: check for check in report.checks}
    assert checks["api"].status is CheckStatus.FAIL
    assert checks["rights"].status is CheckStatus.OK
    assert checks["iommu"].status is CheckStatus.UNKNOWN
    assert "section" not in checks["iommu"].next_step  # nobody saved a dump


def test_a_dump_is_handed_over_before_anything_is_judged(with_ssh: FleetSpec, world: FakeWorld) -> None:
    world.cluster.fails["snapshot"] = refusal("cannot reach Proxmox")
    dumps: list[HostDump] = []
    Readiness(with_ssh, world).report("pve1", dumps.append)
    assert [set(dump.sections) for dump in dumps] == [{"uname", "lspci"}]


def test_a_dump_of_a_hypervisor_without_a_way_in_is_refused_with_the_lines_to_add(
    fleet: FleetSpec, world: FakeWorld
) -> None:
    with pytest.raises(InputError) as caught:
        Readiness(fleet, world).report("pve1", lambda dump: None)
    assert "    ssh: {address: 10.10.0.2, user: root}" in caught.value.next_step
    assert world.cluster.calls == 0


def test_several_hypervisors_ask_their_cluster_once_and_do_not_stop_each_other(
    with_ssh: FleetSpec, world: FakeWorld
) -> None:
    second = HypervisorSpec(HypervisorName("pve2"), with_ssh.hypervisors[PVE1].cluster)
    found = Readiness(replace(with_ssh, hypervisors={**with_ssh.hypervisors, second.name: second}), world).reports()
    assert list(found) == ["pve1", "pve2"]
    other = found[second.name]
    assert isinstance(other, DoctorReport)
    assert [check.id for check in other.checks if check.status is CheckStatus.FAIL] == ["hypervisor_online"]
    assert world.cluster.calls == 5


def test_an_unknown_hypervisor_is_named_with_the_known_ones(fleet: FleetSpec, world: FakeWorld) -> None:
    with pytest.raises(InputError, match="use one of: pve1"):
        Readiness(fleet, world).report("pve9")


def test_a_mapping_that_proxmox_finds_wrong_must_be_mended(fleet: FleetSpec, world: FakeWorld) -> None:
    world.cluster.mapping_errors[MappingId("rtx3090")] = ("Invalid configuration: 'id' does not match",)
    assert Readiness(fleet, world).report("pve1").must_be_mended
