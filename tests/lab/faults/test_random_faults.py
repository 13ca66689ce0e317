"""Whatever goes wrong together, and in whatever order: it ends in an error of ours or well, and one `up` mends it.

Each schedule is made from its seed alone; a failing one prints itself.
PROVISIONER_FAULT_SCHEDULES says how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from provisioner.errors import ProvisionerError
from provisioner.fleet import Fleet
from provisioner.lab.faults import GUEST_FAULTS, REASONS
from provisioner.services.fleet_view import NodeState
from tests.lab.faults.bench import SEED, VMID, Yard
from tests.lab.faults.conftest import Yards
from tests.lab.faults.mending import Order
from tests.lab.support import NODE

SCHEDULES = int(os.environ.get("PROVISIONER_FAULT_SCHEDULES", "100"))
PER_TEST = 10
IMPATIENT = {
    "boot_within": "2s",
    "engine_within": "2s",
    "shutdown_within": "1s",
    "retry_for": "1s",
    "task_within": "3s",
    "answer_within": "0.5s",
}
VERBS = ("up", "up", "wake", "sleep", "sleep --force", "destroy", "idle", "status", "plan")
PATHS = ("^/nodes/pve1/qemu$", "/status/start$", "/status/shutdown$", "/upload$", "/resize$", "/config$", "/tasks/",
         "/status/current$", "/cluster/resources", "/agent/", "/pending$", "/qemu/5001$")  # fmt: skip
TASKS = ("qmcreate", "qmstart", "qmshutdown", "qmstop", "qmdestroy", "resize", "imgcopy", "qmconfig")
HAPPENINGS: tuple[Mapping[str, Mapping[str, Any]], ...] = (
    {"quorum_lost": {}},
    {"node_offline": {}},
    {"storage_offline": {"storage": "local"}},
    {"storage_offline": {"storage": "local-lvm"}},
    {"storage_full": {"storage": "local"}},
    {"storage_full": {"storage": "local-lvm"}},
    {"gpu_taken": {}},
    {"gpu_reserved": {}},
    {"gpu_stuck": {}},
    {"iommu_group_moved": {"group": 17}},
    {"mapping_deleted": {}},
    {"vm_changed": {"vmid": VMID, "key": "lock", "value": "backup"}},
    {"vm_changed": {"vmid": VMID, "key": "tags", "value": "mine"}},
    {"vm_changed": {"vmid": VMID, "key": "protection", "value": "1"}},
    {"vm_paused": {"vmid": VMID}},
    {"vm_stopped": {"vmid": VMID}},
    {"vm_started": {"vmid": VMID}},
    {"vm_deleted": {"vmid": VMID}},
    {"vmid_taken": {"vmid": VMID, "kind": "vm"}},
    {"vmid_taken": {"vmid": VMID, "kind": "container"}},
    {"ha_managed": {"vmid": VMID}},
    {"ha_managed": {"vmid": VMID, "acts": 0}},
    {"volume_deleted": {"volume": f"local:iso/{SEED}"}},
    {"token_rotated": {}},
    {"privilege_lost": {"privilege": "VM.PowerMgmt"}},
    {"privilege_lost": {"privilege": "VM.Config.Options"}},
    {"workers_killed": {}},
    {"api_restarts": {"seconds": 0.05}},
    {"clock_jumps": {"seconds": 86400.0}},
)


def a_fault(dice: Random) -> dict[str, Any]:
    """Make one rule."""
    often: dict[str, Any] = {"skip": dice.choice((0, 0, 0, 1, 2)), "times": dice.choice((1, 1, 2, 5))}
    match dice.randrange(5):
        case 0:
            return {"path": dice.choice(PATHS), **often, **a_bad_answer(dice)}
        case 1:
            return {"chance": 0.15, **a_bad_answer(dice)}
        case 2:
            return {"task": dice.choice(TASKS), **often, **a_bad_end(dice)}
        case 3:
            return {"guest": dice.choice(tuple(GUEST_FAULTS)), "times": 1}
        case _:
            return {"path": dice.choice(PATHS), **often, "happens": dice.choice(HAPPENINGS)}


def a_bad_answer(dice: Random) -> dict[str, Any]:
    spoilt: tuple[dict[str, Any], ...] = (
        {"drop": "before"},
        {"drop": "after"},
        {"says": dice.choice(tuple(REASONS))},
        {"says": dice.choice(("out_of_time", "connection_lost", "bad_gateway")), "work": "done"},
        {"answers": dice.choice(("html", "garbage", "nothing", "truncated"))},
        {"delay": {"exponential": 0.02}},
    )
    return dice.choice(spoilt)


def a_bad_end(dice: Random) -> dict[str, Any]:
    spoilt: tuple[dict[str, Any], ...] = (
        {"says": dice.choice(tuple(REASONS))},
        {"ends": "unexpected status"},
        {"ends": "unexpected status", "work": "done"},
        {"vanishes": True},
        {"warns": True},
        {"hangs": True},
        {"delay": {"exponential": 0.05}, "happens": dice.choice(HAPPENINGS)},
    )
    return dice.choice(spoilt)


def outcome(verb: str, yard: Yard, fleet: Fleet) -> str:
    """Run a verb that may go wrong; anything but an error of ours is a mistake of ours."""
    try:
        return yard.run(verb, fleet)
    except ProvisionerError as error:
        caught = error
    assert caught.summary.startswith("cannot "), caught.summary
    assert caught.next_step
    return f"{type(caught).__name__}: {caught}"


def run_schedule(seed: int, yard: Yard, log: list[str]) -> None:
    """Run one schedule; `log` tells what it was and what happened."""
    dice = Random(seed)
    given = dice.choice(("absent", "asleep", "awake"))
    rules = [a_fault(dice) for _ in range(dice.randint(1, 3))]
    verbs = [dice.choice(VERBS) for _ in range(dice.randint(1, 3))]
    log += [f"seed {seed}: {given}, then {', '.join(verbs)}", *map(repr, rules)]
    yard.bring(given)
    order = Order.of(yard)
    fleet = yard.fleet(**IMPATIENT)
    fleet.status()
    yard.mark()
    for rule in rules:
        yard.lab.faults.add(**rule)
    for verb in verbs:
        log.append(f"{verb}: {outcome(verb, yard, fleet)}")
    order.restore(yard)
    yard.assert_safe(makes_several=True)
    yard.mark()
    assert yard.patient.up(NODE).reply
    assert yard.state() is NodeState.SERVING
    yard.rest()
    yard.assert_safe()


@pytest.mark.parametrize("first", range(0, SCHEDULES, PER_TEST))
def test_random_faults_end_well_once_they_are_over(first: int, yards: Yards) -> None:
    for seed in range(first, min(first + PER_TEST, SCHEDULES)):
        yard = yards.take()
        log: list[str] = []
        try:
            run_schedule(seed, yard, log)
        except BaseException as error:
            error.add_note("\n".join(log))
            raise
        yards.give_back(yard)
