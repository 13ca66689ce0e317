"""Tasks: ids, ends, logs, aborts, and what is left of those that died with the lab."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provisioner.lab.harness import RunningLab
from provisioner.lab.refusals import Refusal
from tests.unit.lab.lab_vms import GPU_VM

Done = Callable[..., str]


def test_a_upid_has_nine_fields_and_may_hold_a_token(lab: RunningLab, gpu_vm: int) -> None:
    upid = lab.call("POST", f"/nodes/pve1/qemu/{gpu_vm}/status/start", who="provisioner@pve!fleet")
    pattern = r"UPID:pve1:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:qmstart:5001:provisioner@pve!fleet:"
    assert re.fullmatch(pattern, upid)
    assert len(upid.split(":")) == 9
    status = lab.call("GET", f"/nodes/pve1/tasks/{upid}/status")
    assert (status["user"], status["tokenid"]) == ("provisioner@pve", "fleet")


def test_a_task_runs_before_it_is_over(tmp_path: Path) -> None:
    with RunningLab(tmp_path, task_seconds=0.2) as lab:
        upid = lab.call("POST", "/nodes/pve1/qemu", vmid="5001")
        status = lab.call("GET", f"/nodes/pve1/tasks/{upid}/status")
        assert status["status"] == "running"
        assert "exitstatus" not in status
        lab.finish(upid)
        assert lab.call("GET", f"/nodes/pve1/tasks/{upid}/status")["exitstatus"] == "OK"


def test_the_log_is_numbered_and_cut(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    upid = lab.call("GET", "/cluster/tasks")[0]["upid"]
    lines = lab.call("GET", f"/nodes/pve1/tasks/{upid}/log", limit="2")
    assert [line["n"] for line in lines] == [1, 2]
    assert lab.call("GET", f"/nodes/pve1/tasks/{upid}/log", limit="0")[-1]["t"] == "TASK OK"
    assert lab.call("GET", f"/nodes/pve1/tasks/{upid}/log", start="1000") == []


@pytest.mark.parametrize(("upid", "text"), [("nonsense", "unable to parse worker upid"), (None, "no such task")])
def test_unknown_tasks_are_parameter_errors(lab: RunningLab, upid: str | None, text: str) -> None:
    upid = upid or "UPID:pve1:00001000:00001000:65000000:qmstart:1:root@pam:"
    with pytest.raises(Refusal) as refusal:
        lab.call("GET", f"/nodes/pve1/tasks/{upid}/status")
    assert refusal.value.errors == {"upid": text}


def test_a_token_sees_its_own_tasks_and_a_user_those_of_its_tokens(lab: RunningLab, gpu_vm: int) -> None:
    upid = lab.call("POST", "/nodes/pve1/qemu/5001/status/start", who="provisioner@pve!fleet")
    lab.call("POST", "/access/users", userid="eve@pve")
    lab.call("GET", f"/nodes/pve1/tasks/{upid}/status", who="provisioner@pve!fleet")
    lab.call("GET", f"/nodes/pve1/tasks/{upid}/status", who="provisioner@pve")
    with pytest.raises(Refusal) as refusal:
        lab.call("GET", f"/nodes/pve1/tasks/{upid}/status", who="eve@pve")
    assert refusal.value.message == "Permission check failed (/nodes/pve1, Sys.Audit)"
    assert lab.call("GET", "/cluster/tasks", who="eve@pve") == []


def test_a_second_operation_waits_for_the_lock_and_gives_up(tmp_path: Path) -> None:
    with RunningLab(tmp_path, lock_seconds=0.1, shutdown_seconds=30) as lab:
        lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid="5001", **GPU_VM))
        lab.finish(lab.call("POST", "/nodes/pve1/qemu/5001/status/start"))
        waiting = lab.call("POST", "/nodes/pve1/qemu/5001/status/shutdown")
        ended = lab.finish(lab.call("POST", "/nodes/pve1/qemu/5001/status/stop"))
        assert ended.exitstatus == "can't lock file '/var/lock/qemu-server/lock-5001.conf' - got timeout"
        overruling = {"overrule-shutdown": "1"}
        assert lab.finish(lab.call("POST", "/nodes/pve1/qemu/5001/status/stop", **overruling)).exitstatus == "OK"
        assert lab.finish(waiting).exitstatus == "interrupted by signal"


def test_an_aborted_create_leaves_nothing_behind(tmp_path: Path) -> None:
    with RunningLab(tmp_path, faults=[{"task": "qmcreate", "hangs": True}]) as lab:
        upid = lab.call("POST", "/nodes/pve1/qemu", vmid="5001", **GPU_VM)
        lab.call("DELETE", f"/nodes/pve1/tasks/{upid}")
        assert lab.finish(upid).exitstatus == "interrupted by signal"
        assert lab.call("GET", "/nodes/pve1/qemu") == []


def test_tasks_that_died_with_the_lab_have_an_unexpected_status(tmp_path: Path) -> None:
    with RunningLab(tmp_path, faults=[{"task": "qmcreate", "hangs": True}]) as lab:
        upid = lab.call("POST", "/nodes/pve1/qemu", vmid="5001")
        lab.run(_a_moment())
    with RunningLab(tmp_path) as lab:
        status = lab.call("GET", f"/nodes/pve1/tasks/{upid}/status")
        assert (status["status"], status["exitstatus"]) == ("stopped", "unexpected status")
        assert lab.call("GET", "/nodes/pve1/qemu/5001/config")["lock"] == "create"
        # Only the superuser gets past that lock.
        ends = [lab.finish(lab.call("DELETE", "/nodes/pve1/qemu/5001", **more)) for more in ({}, {"skiplock": "1"})]
        assert [end.exitstatus for end in ends] == ["VM is locked (create)", "OK"]


def test_lists_are_filtered(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    done("POST", "/nodes/pve1/qemu/5001/status/start")
    done("POST", "/nodes/pve1/qemu/5001/status/start")

    def types(**filters: Any) -> list[str]:
        return [line["type"] for line in lab.call("GET", "/nodes/pve1/tasks", **filters)]

    assert sorted(types()) == ["qmcreate", "qmstart", "qmstart"]
    assert types(typefilter="qmcreate") == ["qmcreate"]
    assert types(errors="1") == ["qmstart"]
    assert types(source="active") == []
    assert types(limit="1", start="1") == ["qmstart"]
    assert types(limit="0") == []


async def _a_moment() -> None:
    await asyncio.sleep(0)
