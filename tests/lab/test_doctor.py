"""`doctor` by the API alone, on the embedded Proxmox of both versions: rights, drift, no IOMMU, no server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import InputError, LoginRefusedError
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.planning.doctor import DoctorReport
from provisioner.planning.readiness import Check, CheckStatus
from tests.lab.support import Site, site_for

VERDICT = {"iommu_enabled", "cpu_vendor", "gpus", "problems"}
GPU_FIELDS = {
    "address", "vendor_id", "device_id", "functions", "iommu_group", "group_clean", "foreign_devices", "driver",
    "bound_to_vfio",
}  # fmt: skip


@pytest.fixture(params=["8.4", "9.1"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A lab of either version."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", pve=request.param) as lab:
        yield site_for(lab, tmp_path, images)


def report(site: Site) -> DoctorReport:
    return site.fleet().hypervisor("pve1").report()


def checks(site: Site) -> dict[str, Check]:
    return {check.id: check for check in report(site).checks}


def doctor(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provisioner", "doctor", *arguments],
        env=site.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def devices(site: Site) -> list[dict[str, object]]:
    """The lab's own record of pve1's devices, to be changed."""
    return site.lab.lab.cluster.nodes["pve1"].devices


def withdraw(site: Site, *roles: str) -> None:
    """Take roles from the provisioner's user and token."""
    for entry in site.lab.call("GET", "/access/acl"):
        if entry["roleid"] in roles:
            kind = "users" if entry["type"] == "user" else "tokens"
            site.lab.call(
                "PUT", "/access/acl", path=entry["path"], roles=entry["roleid"], delete="1", **{kind: entry["ugid"]}
            )


def test_a_ready_server_is_judged_in_six_calls(either: Site) -> None:
    either.lab.forget_requests()
    found = report(either)
    assert not found.must_be_mended
    assert found.calls == len(either.lab.requests()) == 6
    assert found.verdict.problems == ("unknown_driver",)
    assert found.verdict.is_iommu_enabled is True
    assert found.verdict.cpu_vendor == "AuthenticAMD"
    assert [gpu.iommu_group for gpu in found.verdict.gpus] == [15, 16]
    assert set(found.uses.values()) == {"rtx3090", "rtx3060"}
    memory = found.host.memory
    assert memory is not None
    assert (memory.available is None) is (either.lab.lab.major == 8)  # version 8 tells only what is free
    assert memory.obtainable is not None
    for check in found.checks:
        assert check.why
        assert "dump" not in check.found + check.next_step  # nobody saved one


def test_the_command_prints_the_verdict_for_programs(either: Site) -> None:
    done = doctor(either, "pve1", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) == VERDICT | {"hypervisor", "checks", "sources", "api_calls"}
    assert (printed["hypervisor"], printed["sources"]) == ("pve1", ["api"])
    assert all(set(gpu) == GPU_FIELDS for gpu in printed["gpus"])
    assert all(set(check) == {"id", "status", "found", "why", "next_step"} for check in printed["checks"])
    assert all(check["next_step"] for check in printed["checks"] if check["status"] != "ok")


def test_a_person_sees_cards_findings_and_the_next_command(site: Site) -> None:
    done = doctor(site)
    assert "NVIDIA GeForce RTX 3090" in done.stdout
    assert "rtx3090" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: provisioner plan"
    devices(site)[0]["iommugroup"] = 17
    done = doctor(site)
    assert done.returncode == 3
    worst = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert worst[0].startswith("[fail] mapping_rtx3090")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("next: mend the above")
    assert "`provisioner prepare pve1`" in last


def test_a_mapping_that_the_hardware_moved_away_from_is_mended_by_the_command_given(either: Site) -> None:
    for device in devices(either):
        if str(device["address"]).startswith("0000:01:"):
            device["iommugroup"] = 21
    check = checks(either)["mapping_rtx3090"]
    assert check.status is CheckStatus.FAIL
    assert "the entry says 15, the device has 21" in check.found
    run(either, check.next_step)
    assert checks(either)["mapping_rtx3090"].status is CheckStatus.OK
    assert either.fleet().up("llm-gpu-01").endpoint.model  # and a VM starts with it


def run(site: Site, step: str) -> None:
    """Carry out the `pvesh` command of a next step as root."""
    match = re.search(r"`pvesh (set|create) (/\S+)((?: --\S+ (?:'[^']*'|\S+))+)`", step)
    assert match is not None, step
    options: dict[str, list[str]] = {}
    for name, quoted, plain in re.findall(r"--(\S+) (?:'([^']*)'|(\S+))", match[3]):
        options.setdefault(name, []).append(quoted or plain)
    params = {name: values if name == "map" else values[0] for name, values in options.items()}
    site.lab.call({"set": "PUT", "create": "POST"}[match[1]], match[2], **params)


def test_a_mapping_without_its_subsystem_is_found_before_the_start_that_it_would_fail(either: Site) -> None:
    entry = "node=pve1,path=0000:01:00,id=10de:2204,iommugroup=15"
    either.lab.call("PUT", "/cluster/mapping/pci/rtx3090", map=[entry])
    check = checks(either)["mapping_rtx3090"]
    assert check.status is CheckStatus.FAIL
    assert "subsystem-id: the entry says nothing, the device has 10de:3095" in check.found
    run(either, check.next_step)
    assert checks(either)["mapping_rtx3090"].status is CheckStatus.OK


def test_a_deleted_mapping_is_made_again_by_the_command_given(either: Site) -> None:
    either.lab.call("DELETE", "/cluster/mapping/pci/rtx3090")
    check = checks(either)["mapping_rtx3090"]
    assert check.status is CheckStatus.FAIL
    run(either, check.next_step)
    assert checks(either)["mapping_rtx3090"].status is CheckStatus.OK


def test_an_iommu_that_is_off_is_the_first_thing_to_mend(either: Site) -> None:
    for device in devices(either):
        device["iommugroup"] = -1
    found = report(either)
    assert "iommu_disabled" in found.verdict.problems
    failed = [check.id for check in found.checks if check.status is CheckStatus.FAIL]
    assert failed == ["iommu", "mapping_rtx3090", "mapping_rtx3060"]
    assert doctor(either, "--json").returncode == 3


def test_without_the_right_to_see_the_hardware_it_is_unknown_and_nothing_fails(either: Site) -> None:
    withdraw(either, "ProvisionerHost")
    found = report(either)
    assert not found.must_be_mended
    assert found.verdict.problems == ("unknown_iommu", "unknown_gpus")
    steps = {check.id: check.next_step for check in found.checks}
    assert steps["iommu"] == steps["gpus"] == "give the token, and its user, Sys.Audit on /"
    mapping = {check.id: check for check in found.checks}["mapping_rtx3090"]
    assert mapping.status is CheckStatus.OK  # Proxmox itself has nothing against it


def test_a_server_that_may_not_be_looked_at_still_shows_rights_and_storages(either: Site) -> None:
    withdraw(either, "ProvisionerHost", "ProvisionerNode")
    found = checks(either)
    assert found["rights"].status is CheckStatus.FAIL
    assert "Sys.AccessNetwork on /nodes/pve1" in found["rights"].found
    assert found["memory"].next_step == "give the token, and its user, Sys.Audit on /nodes/pve1"
    assert found["storage_disks"].status is CheckStatus.OK
    assert found["pve_version"].status is CheckStatus.OK  # everybody may ask for the version


def test_the_journal_is_read_where_it_may_be(either: Site) -> None:
    role = site_role(either)
    for who in ("users", "tokens"):
        name = "provisioner@pve" if who == "users" else "provisioner@pve!fleet"
        either.lab.call("PUT", "/access/acl", path="/nodes/pve1", roles=role, **{who: name})
    found = report(either)
    assert found.calls == 7
    assert found.host.command_line is not None
    statuses = {check.id: check.status for check in found.checks}
    assert statuses["interrupt_remapping"] is CheckStatus.OK
    assert statuses["acs_override"] is CheckStatus.OK


def site_role(site: Site) -> str:
    site.lab.call("POST", "/access/roles", roleid="Reader", privs="Sys.Syslog,Sys.Audit,Sys.AccessNetwork")
    return "Reader"


def test_a_server_that_is_off_is_one_finding(either: Site) -> None:
    either.lab.lab.cluster.nodes["pve1"].online = False
    found = report(either)
    assert [check.id for check in found.checks if check.status is CheckStatus.FAIL] == ["hypervisor_online"]
    assert found.calls == 3
    assert doctor(either).returncode == 3


def test_too_little_memory_and_too_few_threads_are_found(site: Site) -> None:
    node = site.lab.lab.cluster.nodes["pve1"]
    node.memory_bytes, node.threads = 2 << 30, 1
    site.fleet(lambda text: re.sub(r"cores: \d+", "cores: 4", text))
    found = checks(site)
    assert found["memory_llm-gpu-01"].status is CheckStatus.FAIL
    assert found["cores"].status is CheckStatus.FAIL


def test_a_storage_without_content_import_and_one_that_is_gone(either: Site) -> None:
    either.lab.call("PUT", "/storage/local", content="iso,vztmpl")
    found = checks(either)
    assert found["storage_images"].status is CheckStatus.FAIL
    site = either.fleet(lambda text: text.replace("disks: local-lvm", "disks: nowhere"))
    gone = {check.id: check for check in site.hypervisor("pve1").doctor()}
    assert gone["storage_disks"].status is CheckStatus.FAIL


def test_a_token_that_is_not_accepted_is_an_error_not_a_finding(site: Site) -> None:
    (site.folder / "wrong").write_text("not-the-secret\n")
    (site.folder / "wrong").chmod(0o600)
    fleet = site.fleet(lambda text: re.sub(r"secret: \S+?\}", f"secret: file:{site.folder}/wrong}}", text))
    with pytest.raises(LoginRefusedError):
        fleet.hypervisor("pve1").report()
    done = doctor(site)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_one_of_two_hypervisors_that_cannot_be_asked_does_not_hide_the_other(site: Site) -> None:
    second = (
        "  away:\n    api: https://127.0.0.1:9\n    answer_within: 1s\n"
        "    token: {id: provisioner@pve!fleet, secret: env:AWAY_SECRET}\n"
        "    storage: {disks: far, images: far, iso: far}\n    bridge: vmbr0\nhypervisors:\n  pve9: {cluster: away}\n"
    )
    site.fleet(lambda text: text.replace("hypervisors:\n", second, 1))
    done = doctor(site, "--json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["hypervisor"] for line in lines} == {"pve1", "pve9"}
    assert "AWAY_SECRET" in next(line for line in lines if line["hypervisor"] == "pve9")["summary"]
    assert "error: " in done.stderr


def test_saving_without_a_way_in_shows_the_lines_to_add(site: Site) -> None:
    with pytest.raises(InputError, match="no way to log in"):
        site.fleet().doctor(["pve1"], save=site.folder / "dump")
    done = doctor(site, "pve1", "--save", str(site.folder / "dump"))
    assert done.returncode == 1
    assert "ssh: {address: 127.0.0.1, user: root}" in done.stderr
    assert not (site.folder / "dump").exists()


@pytest.mark.parametrize("arguments", [("pve1", "--from-file", "x"), ("--from-file", "x", "--save", "y")])
def test_options_that_contradict_each_other_are_wrong_usage(site: Site, arguments: tuple[str, ...]) -> None:
    assert doctor(site, *arguments).returncode == 2
