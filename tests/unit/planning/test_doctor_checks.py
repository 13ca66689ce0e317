"""Doctor's checks on rights, storages, memory and cores: facts in, findings out."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest

from provisioner.domain.fleet import FleetSpec, HypervisorSsh, NodeSpec, VmOptions
from provisioner.domain.host import HostFacts, HostMemory, HugePages, Release, Source
from provisioner.domain.names import GpuName, NodeName
from provisioner.domain.quantities import GIB, MIB
from provisioner.errors import UnreachableError
from provisioner.planning.doctor import DoctorFacts, Trouble, doctor_report
from provisioner.planning.doctor.memory import heaviest_together
from provisioner.planning.doctor.words import about
from provisioner.planning.readiness import CheckStatus
from tests.fakes.host_facts import EVERY_RIGHT, ready_host
from tests.unit.planning.doctoring import PVE1, findings, running, storages, well, with_nodes

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN


def host_with(total: int, free: int | None = None, available: int | None = None) -> HostFacts:
    return replace(
        ready_host(),
        memory=HostMemory(
            total * GIB, None if free is None else free * GIB, None if available is None else available * GIB
        ),
    )


def test_a_hypervisor_where_all_is_well_has_nothing_to_mend(fleet: FleetSpec) -> None:
    report = doctor_report(well(fleet), calls=6)
    assert not report.must_be_mended
    assert {check.status for check in report.checks} == {OK, UNKNOWN, WARN}
    # Without a way in, drivers and boot files are nobody's to know; and one card alone has the only screen.
    assert [check.id for check in report.checks if check.status is WARN] == ["console_0000:01:00.0"]
    printed = report.as_dict()
    assert printed["problems"] == ["unknown_driver"]
    assert printed["sources"] == ["api"]
    assert printed["api_calls"] == 6
    assert set(printed) == {
        "hypervisor", "iommu_enabled", "cpu_vendor", "gpus", "problems", "checks", "sources", "api_calls"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("total", "free", "available", "status", "words"),
    [
        (128, 100, 120, OK, "48GiB; 120GiB can be had now"),
        (128, 100, None, OK, "48GiB; 100GiB can be had now"),  # Proxmox VE 8 tells no more
        (128, None, None, OK, "48GiB of 128GiB"),
        (128, 10, 40, WARN, "48GiB at once; 40GiB can be had now"),
        (50, 10, 40, WARN, "at once"),
        (48, 10, 40, FAIL, "of which guests may have 46GiB"),
    ],
)
def test_a_gpus_guest_needs_all_of_its_memory_at_its_start(
    fleet: FleetSpec, total: int, free: int | None, available: int | None, status: CheckStatus, words: str
) -> None:
    check = findings(well(fleet, host=host_with(total, free, available)))["memory_llm-gpu-01"]
    assert check.status is status
    assert words in check.found


def test_memory_that_a_rival_for_the_gpu_has_now_counts_as_obtainable(fleet: FleetSpec) -> None:
    checks = findings(well(fleet, host=host_with(60, 5, 6), vms=running(5002)))
    assert checks["memory_llm-gpu-02"].found == "llm-gpu-02 runs with its 48GiB"
    assert checks["memory_llm-gpu-01"].status is OK
    assert "54GiB can be had now, counting what llm-gpu-02 gives back" in checks["memory_llm-gpu-01"].found


def test_a_node_without_a_gpu_may_wait_for_its_memory(fleet: FleetSpec) -> None:
    bare = with_nodes(fleet, llm_gpu_01={"gpus": ()})
    assert findings(well(bare, host=host_with(64, 1, 2)))["memory_llm-gpu-01"].status is OK


def test_huge_pages_that_were_set_aside_are_not_for_our_guests(fleet: FleetSpec) -> None:
    host = replace(host_with(64, 40, 60), huge_pages=HugePages(32, 32, 1024 * 1024))
    check = findings(well(fleet, host=host))["memory_llm-gpu-01"]
    assert check.status is FAIL
    assert "guests may have 30GiB" in check.found
    assert check.next_step == "lower memory of llm-gpu-01 to 30GiB or less"


@pytest.mark.parametrize(
    ("pages", "status", "words"),
    [
        (HugePages(48, 48, 1024 * 1024), OK, "of the 48GiB set aside as huge pages"),
        (HugePages(32, 32, 1024 * 1024), WARN, "48GiB in huge pages; 32GiB are set aside"),
        (HugePages(0, 0, 2048), WARN, "0 are set aside"),
        (None, OK, "48GiB; 60GiB can be had now"),
    ],
)
def test_a_node_in_huge_pages_takes_what_was_set_aside(
    fleet: FleetSpec, pages: HugePages | None, status: CheckStatus, words: str
) -> None:
    huge = with_nodes(fleet, llm_gpu_01={"options": VmOptions(numa=True, hugepages="1GiB")})
    host = replace(host_with(64, 40, 60), huge_pages=pages)
    check = findings(well(huge, host=host))["memory_llm-gpu-01"]
    assert check.status is status
    assert words in check.found


def test_nodes_that_share_a_gpu_never_run_together(fleet: FleetSpec) -> None:
    assert "memory_together" not in findings(well(fleet, host=host_with(60, 50, 50)))
    apart = with_nodes(fleet, llm_gpu_02={"gpus": ()})
    assert findings(well(apart, host=host_with(128)))["memory_together"].status is OK
    check = findings(well(apart, host=host_with(64)))["memory_together"]
    assert check.status is WARN
    assert "llm-gpu-01, llm-gpu-02 may run at once and want 96GiB; guests may have 62GiB" in check.found


def test_memory_nobody_told_is_unknown_and_says_which_right_tells_it(fleet: FleetSpec) -> None:
    blind = replace(
        ready_host(), memory=None, threads=None, withheld=dict.fromkeys(("memory", "cpu"), "Sys.Audit on x")
    )
    checks = findings(well(fleet, host=blind))
    assert checks["memory"].status is UNKNOWN
    assert checks["cores"].status is UNKNOWN
    assert checks["memory"].next_step == "give the token, and its user, Sys.Audit on x"
    assert checks["vram_llm-gpu-01"].status is OK


@pytest.mark.parametrize(
    ("memory", "vram", "total", "status", "words"),
    [
        (48, 24, 128, OK, "48GiB memory for 24GiB"),
        (24, 24, 128, OK, "24GiB memory for 24GiB"),
        (16, 24, 128, WARN, "raise memory of llm-gpu-01 to 24GiB"),
        (16, 24, 20, WARN, "the server can give 18GiB at most"),
        (48, None, 128, UNKNOWN, "write vram: 24GiB for rtx3090 under hypervisors.pve1.gpus"),
    ],
)
def test_a_model_passes_through_the_guests_memory(
    fleet: FleetSpec, memory: int, vram: int | None, total: int, status: CheckStatus, words: str
) -> None:
    spec = fleet.hypervisors[PVE1]
    gpus = {name: replace(gpu, vram_bytes=None if vram is None else vram * GIB) for name, gpu in spec.gpus.items()}
    changed = replace(
        with_nodes(fleet, llm_gpu_01={"memory_bytes": memory * GIB}), hypervisors={PVE1: replace(spec, gpus=gpus)}
    )
    check = findings(well(changed, host=host_with(total)))["vram_llm-gpu-01"]
    assert check.status is status
    assert words in f"{check.found}\n{check.next_step}"


def test_more_cores_than_threads_never_start(fleet: FleetSpec) -> None:
    assert findings(well(fleet))["cores"].status is OK
    check = findings(well(fleet, host=replace(ready_host(), threads=8)))["cores"]
    assert check.status is FAIL
    assert check.next_step == "lower cores of llm-gpu-01 and llm-gpu-02 to 8 or less"


@pytest.mark.parametrize(
    ("free", "kind", "vms", "status", "words"),
    [
        (500, "lvmthin", (), OK, "400GiB"),
        (300, "lvmthin", (), WARN, "takes what is written"),
        (300, "zfspool", (), WARN, ""),
        (300, "lvm", (), FAIL, "sets the whole size aside"),
        (300, "lvm", (5001,), OK, "200GiB"),
    ],
)
def test_disks_of_nodes_that_are_not_there_yet_need_room(
    fleet: FleetSpec, free: int, kind: str, vms: tuple[int, ...], status: CheckStatus, words: str
) -> None:
    facts = well(fleet, storage=storages(free=free * GIB, kind=kind), vms=running(*vms))
    check = findings(facts)["space_disks"]
    assert check.status is status
    assert words in f"{check.found} {check.why}".replace("take what", "takes what")


def test_images_need_room(fleet: FleetSpec) -> None:
    assert findings(well(fleet))["space_images"].status is OK
    assert findings(well(fleet, storage=storages(free=700 * MIB)))["space_images"].status is WARN


def test_a_storage_that_does_not_say_how_full_it_is_is_not_judged(fleet: FleetSpec) -> None:
    silent = {key: replace(storage, free_bytes=None) for key, storage in storages().items()}
    checks = findings(well(fleet, storage=silent))
    assert "space_disks" not in checks
    assert checks["storage_disks"].status is OK


def test_a_missing_right_is_named_with_its_path_and_who_needs_it(fleet: FleetSpec) -> None:
    rights = {"/": {name: 1 for name in EVERY_RIGHT if name not in ("SDN.Use", "VM.PowerMgmt")}}
    check = findings(well(fleet, permissions=rights))["rights"]
    assert check.status is FAIL
    assert "SDN.Use on /sdn/zones/localnetwork/vmbr0" in check.found
    assert "VM.PowerMgmt on /vms" in check.found
    assert "up, wake, sleep" in check.why
    assert "its user provisioner@pve" in check.next_step


def test_a_right_that_one_can_do_without_is_only_mentioned(fleet: FleetSpec) -> None:
    rights = {"/": {name: 1 for name in EVERY_RIGHT if name != "Datastore.Allocate"}}
    check = findings(well(fleet, permissions=rights))["rights"]
    assert check.status is OK
    assert "can do without VM.Clone VM.Config.CDROM on /vms; Datastore.Allocate on /storage/local" in check.found


def test_rights_to_look_are_no_failure(fleet: FleetSpec) -> None:
    rights = {"/": {name: 1 for name in EVERY_RIGHT if not name.startswith("Sys.Audit")}}
    assert findings(well(fleet, permissions=rights))["rights"].status is OK


def test_without_a_version_nobody_knows_which_rights_are_meant(fleet: FleetSpec) -> None:
    facts = well(fleet, release=None, host=replace(ready_host(), pve=None))
    assert findings(facts)["rights"].status is UNKNOWN


def test_a_server_that_is_off_is_one_finding_not_twenty(fleet: FleetSpec) -> None:
    checks = findings(well(fleet, host=HostFacts(sources=(Source.API,)), is_online=False))
    assert list(checks) == ["hypervisor_online", "rights"]
    assert checks["hypervisor_online"].status is FAIL


def with_ssh(facts: DoctorFacts) -> DoctorFacts:
    return replace(facts, hypervisor=replace(facts.hypervisor, ssh=HypervisorSsh("10.10.0.2")))


def test_a_way_in_that_works_and_one_that_does_not_are_said(fleet: FleetSpec) -> None:
    host = replace(ready_host(), sources=(Source.API, Source.SSH))
    assert findings(with_ssh(well(fleet, host=host)))["ssh"].found == "logged in to 10.10.0.2 as root"
    error = UnreachableError("cannot log in: host key SHA256:a, expected SHA256:b", subject="pve1", next_step="compare")
    facts = replace(with_ssh(well(fleet)), troubles=(Trouble(Source.SSH, error),))
    check = findings(facts)["ssh"]
    assert check.status is FAIL
    assert "SHA256:a" in check.found
    assert "SHA256:b" in check.found
    # The API part is judged all the same.
    assert findings(facts)["mapping_rtx3090"].status is OK


def test_without_the_api_the_hypervisor_itself_is_judged(fleet: FleetSpec) -> None:
    error = UnreachableError("cannot reach Proxmox", subject="cluster homelab", next_step="look")
    host = replace(ready_host(), sources=(Source.SSH,))
    facts = DoctorFacts(fleet, fleet.hypervisors[PVE1], host, None, (Trouble(Source.API, error),))
    checks = findings(facts)
    assert checks["api"].status is FAIL
    assert checks["iommu"].status is OK
    assert checks["memory_llm-gpu-01"].status is OK
    assert not any(id_.startswith(("rights", "storage", "mapping")) for id_ in checks)
    assert doctor_report(facts).sources == (Source.SSH,)


@pytest.mark.parametrize(
    "pve", [Release(7, 4, "7.4"), Release(8, 1, "8.1.3"), Release(8, 4, "8.4.1"), Release(9, 1, "9")]
)
def test_versions_and_what_they_mean(fleet: FleetSpec, pve: Release) -> None:
    check = findings(well(fleet, host=replace(ready_host(), pve=pve), release=pve))["pve_version"]
    assert check.status is {7: FAIL, 9: OK}.get(pve.major, OK if pve.minor >= 4 else WARN)


def nodes_with(fleet: FleetSpec, *shapes: tuple[int, str]) -> list[NodeSpec]:
    node = fleet.nodes[NodeName("llm-gpu-01")]
    return [
        replace(node, name=NodeName(f"n{at}"), memory_bytes=size, gpus=tuple(GpuName(gpu) for gpu in gpus))
        for at, (size, gpus) in enumerate(shapes)
    ]


def test_the_heaviest_nodes_that_may_run_together_are_found_as_by_trying_all(fleet: FleetSpec) -> None:
    chance = random.Random(7)
    for _ in range(60):
        count = chance.randrange(1, 7)
        shapes = [(chance.randrange(1, 9), "".join(chance.sample("abcd", chance.randrange(3)))) for _ in range(count)]
        nodes = nodes_with(fleet, *shapes)
        lawful = (
            chosen
            for size in range(count + 1)
            for chosen in combinations(nodes, size)
            if len([gpu for node in chosen for gpu in node.gpus]) == len({gpu for node in chosen for gpu in node.gpus})
        )
        best = max(sum(node.memory_bytes for node in chosen) for chosen in lawful)
        found = heaviest_together(nodes)
        assert sum(node.memory_bytes for node in found) == best
        assert list(found) == [node for node in nodes if node in found]


def test_many_nodes_that_compete_are_answered_in_time(fleet: FleetSpec) -> None:
    gpus = "abcdefghijklmnopqrstuvwxyz"
    nodes = nodes_with(fleet, *((size, gpus[size % 25] + gpus[size % 25 + 1]) for size in range(1, 60)))
    assert heaviest_together(nodes)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (48 * GIB, "48GiB"),
        (117 * GIB + 300 * MIB, "117.3 GiB"),
        (700 * MIB, "700 MiB"),
        (1536 * GIB, "1536GiB"),
    ],
)
def test_measured_sizes_are_rounded_for_people(size: int, text: str) -> None:
    assert about(size) == text
