"""Dumps of real hosts, each with an expert's verdict: every field must agree, and the command must say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from provisioner.adapters.files.host_dump import facts_from_dump, read_host_dump
from provisioner.cli.app import root
from provisioner.planning.host import host_checks, host_verdict

HOSTS = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "hosts"
NAMES = sorted(path.stem for path in HOSTS.glob("*.yaml"))

pytestmark = pytest.mark.skipif(not NAMES, reason="the host dumps (shared/fixtures/hosts) are not beside this checkout")


def expected(name: str) -> dict[str, Any]:
    verdict: dict[str, Any] = yaml.safe_load((HOSTS / f"{name}.yaml").read_text())["expect"]
    return {**verdict, "problems": set(verdict["problems"])}


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_is_the_experts(name: str) -> None:
    verdict = host_verdict(read_host_dump(HOSTS / f"{name}.txt")).as_dict()
    assert len(verdict["problems"]) == len(set(verdict["problems"]))  # type: ignore[arg-type,call-overload]
    assert {**verdict, "problems": set(verdict["problems"])} == expected(name)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_prints_the_verdict_and_the_checks(name: str) -> None:
    result = CliRunner().invoke(root, ["doctor", "--from-file", str(HOSTS / f"{name}.txt"), "--json"])
    printed = json.loads(result.output)
    checks = printed.pop("checks")
    assert {**printed, "problems": set(printed["problems"])} == expected(name)
    assert all(set(check) == {"id", "status", "found", "why", "next_step"} for check in checks)
    assert len({check["id"] for check in checks}) == len(checks)
    assert all(check["next_step"] for check in checks if check["status"] != "ok")
    is_troubled = bool(printed["problems"]) or any(check["status"] == "fail" for check in checks)
    assert result.exit_code == (3 if is_troubled else 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_person_sees_every_gpu_and_what_to_do_next(name: str) -> None:
    result = CliRunner().invoke(root, ["doctor", "--from-file", str(HOSTS / f"{name}.txt")])
    for gpu in expected(name)["gpus"]:
        assert f"{gpu['vendor_id']}:{gpu['device_id']}" in result.output
    assert result.output.splitlines()[-1].startswith("next: ")


# What each part of a verdict may lose when a section is taken away: it may only become unknown.
TO_UNKNOWN = {"unknown_iommu", "unknown_gpus", "unknown_iommu_group", "unknown_driver"}


@pytest.mark.parametrize("name", NAMES)
def test_a_section_taken_away_makes_things_unknown_and_nothing_else(name: str) -> None:
    text = (HOSTS / f"{name}.txt").read_text()
    parts = ["=== " + part for part in text.split("=== ")[1:]]
    whole = host_verdict(facts_from_dump(text)).as_dict()
    for index in range(len(parts)):
        rest = "".join(parts[:index] + parts[index + 1 :])
        if not rest:
            continue
        facts = facts_from_dump(rest)
        verdict = host_verdict(facts).as_dict()
        host_checks(facts)
        assert set(verdict["problems"]) <= set(whole["problems"]) | TO_UNKNOWN  # type: ignore[call-overload]
        assert verdict["iommu_enabled"] in (whole["iommu_enabled"], "unknown")
        assert verdict["cpu_vendor"] in (whole["cpu_vendor"], "unknown")
        before = {gpu["address"]: gpu for gpu in whole["gpus"]}  # type: ignore[attr-defined]
        for gpu in verdict["gpus"]:  # type: ignore[attr-defined]
            was = before[gpu["address"]]
            assert gpu["group_clean"] in (was["group_clean"], "unknown")
            assert gpu["bound_to_vfio"] in (was["bound_to_vfio"], "unknown")
            assert gpu["driver"] in (was["driver"], None)
            assert gpu["iommu_group"] in (was["iommu_group"], None)
            assert set(gpu["foreign_devices"]) <= set(was["foreign_devices"])
