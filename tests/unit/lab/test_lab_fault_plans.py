"""Fault plans as documents: what is understood, what is refused, and that every word of them does something."""

from __future__ import annotations

import re
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from provisioner.errors import InputError
from provisioner.lab import faults
from provisioner.lab.faults import GUEST_FAULTS, REASONS, FaultPlan
from provisioner.lab.faults.delays import Delay
from provisioner.lab.faults.happenings import HAPPENINGS
from provisioner.lab.faults.reading import KEYS
from provisioner.lab.harness import RunningLab
from provisioner.lab.model import TaskRecord
from tests.unit.lab.lab_vms import GPU_VM

WRONG: list[tuple[object, str, str]] = [
    ("nonsense", "it is no list of rules", "a list of rules"),
    ({"rulez": []}, "the unknown key 'rulez'", "seed and rules"),
    ({"seed": "x", "rules": []}, "its seed is 'x'", "whole number"),
    ([{"drop": "before"}, 7], "rule 2 is no mapping", "{key: value"),
    ([{"paht": "/version", "drop": "before"}], "rule 1 has the unknown key 'paht'", "keys method, path, vmid"),
    ([{"task": "qmstart", "status": 500}], "rule 1 has the unknown key 'status'", "keys task, vmid"),
    ([{"guest": "hangs", "delay": 1}], "rule 1 has the unknown key 'delay'", "keys guest, vmid"),
    ([{"path": "/version"}], "rule 1 says nothing that goes wrong", "one of delay, status"),
    ([{"status": 500, "drop": "after"}], "ends things twice, by status and drop", "one of them"),
    ([{"reason": "x", "delay": 1}], "a reason without a status", "use says"),
    ([{"delay": 1, "work": "done"}], "work without an end", "one of status"),
    ([{"path": "(", "delay": 1}], "rule 1 has path: '('", "a regular expression"),
    ([{"method": "FETCH", "delay": 1}], "rule 1 has method: 'FETCH'", "one of GET, POST"),
    ([{"status": 200}], "rule 1 has status: 200", "from 400"),
    ([{"status": 700}], "rule 1 has status: 700", "400 to 599"),
    ([{"says": "no_idea"}], "rule 1 has says: 'no_idea'", "no_quorum"),
    ([{"drop": "sometimes"}], "rule 1 has drop: 'sometimes'", "one of before, after"),
    ([{"delay": -1}], "rule 1 has delay: -1", "seconds, or a mapping"),
    ([{"delay": {"gauss": 1}}], "rule 1 has delay:", "uniform, exponential"),
    ([{"delay": {"uniform": [1]}}], "rule 1 has delay:", "uniform: [LOW, HIGH]"),
    ([{"delay": {"lognormal": [1, 2]}}], "rule 1 has delay:", "lognormal: {median"),
    ([{"delay": {"one_of": []}}], "rule 1 has delay:", "one_of: [SECONDS"),
    ([{"chance": 2, "delay": 1}], "rule 1 has chance: 2", "from 0 to 1"),
    ([{"times": "twice", "delay": 1}], "rule 1 has times: 'twice'", "whole number from 0"),
    ([{"vmid": 5, "delay": 1}], "rule 1 has vmid: 5", "from 100 on"),
    ([{"guest": "burns"}], "rule 1 has guest: 'burns'", "never_boots"),
    ([{"task": "qmstart", "hangs": "yes"}], "rule 1 has hangs: 'yes'", "true or false"),
    ([{"task": "qmstart", "warns": 3}], "rule 1 has warns: 3", "a list of texts"),
    ([{"happens": "rain"}], "rule 1 has happens: 'rain'", "quorum_lost"),
    ([{"happens": {"vmid_taken": {}}}], "rule 1 has happens:", "vmid_taken with its vmid"),
    ([{"happens": {"vmid_taken": {"vmid": "5001"}}}], "rule 1 has happens:", "vmid is a number"),
    ([{"happens": {"quorum_lost": {"vmid": 1}}}], "rule 1 has happens:", "(none), not 'vmid'"),
]


@pytest.mark.parametrize(("document", "found", "allowed"), WRONG, ids=[repr(row[0])[:60] for row in WRONG])
def test_a_mistake_names_its_rule_and_what_is_allowed(document: object, found: str, allowed: str) -> None:
    with pytest.raises(InputError) as error:
        FaultPlan.read(document)
    assert found in error.value.summary
    assert allowed in error.value.next_step


def record(kind: str = "qmstart", subject: str = "5001", node: str = "pve1") -> TaskRecord:
    return TaskRecord("UPID", node, 1, 1, 1, kind, subject, "root@pam")


def test_a_rule_spares_the_first_and_acts_as_often_as_told() -> None:
    plan = FaultPlan.read([{"path": "/version", "status": 500, "skip": 2, "times": 2}])
    acted = [plan.for_request("GET", "/version") is not None for _ in range(6)]
    assert acted == [False, False, True, True, False, False]


def test_a_rule_is_about_one_server_and_one_vm() -> None:
    plan = FaultPlan.read([{"vmid": 5001, "node": "pve1", "drop": "before"}])
    assert plan.for_request("GET", "/nodes/pve1/qemu/5001/config")
    for path in ("/nodes/pve2/qemu/5001/config", "/nodes/pve1/qemu/50012/config", "/cluster/resources"):
        assert plan.for_request("GET", path) is None
    tasks = FaultPlan.read([{"task": "qm.*", "vmid": 5001, "node": "pve1", "fails": "no"}])
    assert tasks.for_task(record())
    for other in (record(node="pve2"), record(subject="5002"), record(kind="imgcopy", subject="")):
        assert tasks.for_task(other) is None


def test_chances_follow_the_seed() -> None:
    def acts(seed: int) -> list[bool]:
        plan = FaultPlan.read({"seed": seed, "rules": [{"path": "/", "status": 500, "chance": 0.5}]})
        return [plan.for_request("GET", "/version") is not None for _ in range(200)]

    assert acts(1) == acts(1) != acts(2)
    assert 60 < sum(acts(1)) < 140


def test_several_rules_add_up_and_the_first_end_counts() -> None:
    plan = FaultPlan.read(
        [
            {"delay": 0.5},
            {"path": "/version", "status": 596, "delay": 1.0},
            {"drop": "before"},
            {"happens": "quorum_lost"},
        ]
    )
    fault = plan.for_request("GET", "/version")
    assert fault is not None
    assert fault.delay_seconds == 1.5
    assert fault.ending is not None
    assert fault.ending.status == 596
    assert [happening.name for happening in fault.happens] == ["quorum_lost"]


@pytest.mark.parametrize(
    ("delay", "low", "high", "middle"),
    [
        (0.25, 0.25, 0.25, 0.25),
        ({"uniform": [0.1, 0.4]}, 0.1, 0.4, 0.25),
        ({"exponential": 0.2}, 0.0, 10.0, 0.14),
        ({"lognormal": {"median": 0.05, "sigma": 1.0}}, 0.0, 50.0, 0.05),
        ({"one_of": [1, 2, 3]}, 1, 3, 2),
    ],
    ids=str,
)
def test_delays_are_drawn_from_their_distribution(delay: object, low: float, high: float, middle: float) -> None:
    dice = Random(7)
    drawn = sorted(Delay.read(delay).draw(dice) for _ in range(2001))
    assert low <= drawn[0] <= drawn[-1] <= high
    assert drawn[1000] == pytest.approx(middle, rel=0.15)


@pytest.mark.parametrize("name", REASONS)
def test_every_reason_is_told_as_proxmox_would(name: str, spoiled_lab: RunningLab) -> None:
    spoiled_lab.faults.clear()
    spoiled_lab.faults.add(path="/qemu/5001/", says=name)
    with pytest.raises(urllib.error.HTTPError) as error:
        spoiled_lab.get("/nodes/pve1/qemu/5001/config")
    error.value.close()
    assert error.value.code == REASONS[name].status
    assert "{" not in error.value.reason.replace("{}", "")
    assert "5001" in error.value.reason or "{vmid}" not in REASONS[name].text


ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "vmid_taken": {"vmid": 5002},
    "vm_deleted": {"vmid": 5001},
    "vm_stopped": {"vmid": 5001},
    "vm_started": {"vmid": 5001},
    "vm_paused": {"vmid": 5001},
    "vm_resumed": {"vmid": 5001},
    "vm_changed": {"vmid": 5001, "key": "lock", "value": "backup"},
    "vm_option_removed": {"vmid": 5001, "key": "tags"},
    "vm_moved": {"vmid": 5001, "node": "pve2"},
    "ha_managed": {"vmid": 5001},
    "ha_released": {"vmid": 5001},
    "iommu_group_moved": {"group": 99},
    "privilege_lost": {"privilege": "VM.PowerMgmt"},
    "clock_jumps": {"seconds": 3600},
    "storage_offline": {"storage": "local"},
    "storage_online": {"storage": "local"},
    "storage_full": {"storage": "local"},
    "storage_emptied": {"storage": "local"},
    "volume_deleted": {"volume": "local-lvm:vm-5001-disk-1"},
}


@pytest.mark.parametrize("name", HAPPENINGS)
def test_everything_that_may_happen_can_be_told_to(lab: RunningLab, gpu_vm: int, name: str) -> None:
    assert HAPPENINGS[name].__doc__
    rule = {"path": "^/version$", "happens": {name: dict(ARGUMENTS.get(name, {}))}}
    lab.faults.rules.extend(FaultPlan.read([rule]).rules)
    arguments = lab.faults.rules[-1].happens
    assert arguments is not None
    lab.befall(name, **arguments.arguments)


@pytest.mark.parametrize("fault", GUEST_FAULTS)
def test_every_guest_fault_is_looked_up_at_power_on(tmp_path: Path, fault: str) -> None:
    with RunningLab(tmp_path, faults=[{"guest": fault, "vmid": 5001, "times": 1}]) as lab:
        lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid="5001", **GPU_VM))
        lab.finish(lab.call("POST", "/nodes/pve1/qemu/5001/status/start"))
        assert lab.faults.rules[0].acted == 1


@pytest.fixture(scope="module")
def spoiled_lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with RunningLab(tmp_path_factory.mktemp("spoiled")) as lab:
        yield lab


def documented() -> list[dict[str, Any]]:
    """Every rule that the documentation shows, made whole where it shows only a part."""
    text = faults.__doc__ or ""
    rules: list[dict[str, Any]] = []
    for line in re.findall(r"^    (\{.*\}|\w+: [^#]*?)\s*(?:#.*)?$", text, re.MULTILINE):
        shown = yaml.safe_load(line if line.startswith("{") else f"{{{line}}}")
        assert isinstance(shown, dict), line
        rules.append(shown)
    return rules


def completed(shown: dict[str, Any]) -> dict[str, Any]:
    if "guest" in shown:
        return shown
    of_tasks = {"fails", "ends", "hangs", "warns", "vanishes", "task"}
    base: dict[str, Any] = {"task": "qmstart"} if of_tasks & set(shown) else {"path": "/"}
    effects = {"delay", "status", "says", "drop", "answers", "fails", "ends", "hangs", "warns", "vanishes", "happens"}
    if "work" in shown:
        base["says"] = "no_quorum"
    elif not effects & set(shown):
        base["delay"] = 0.1
    return base | shown


def test_everything_that_the_documentation_shows_is_understood() -> None:
    shown = documented()
    assert len(shown) >= 25
    FaultPlan.read([completed(rule) for rule in shown])
    said = (faults.__doc__ or "") + " ".join(HAPPENINGS)
    assert all(key in said for keys in KEYS.values() for key in keys), "a key that nobody tells of"
