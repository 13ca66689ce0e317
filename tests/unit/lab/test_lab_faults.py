"""The fault plan: requests, tasks, and plans that make no sense."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
from pathlib import Path

import pytest

from provisioner.errors import InputError
from provisioner.lab.faults import FaultPlan
from provisioner.lab.harness import RunningLab
from tests.unit.lab.lab_vms import GPU_VM


def test_a_request_gets_a_status_as_often_as_told(tmp_path: Path) -> None:
    rule = {"method": "GET", "path": "^/version$", "status": 596, "reason": "Connection timed out", "times": 1}
    with RunningLab(tmp_path, faults=[rule]) as lab:
        with pytest.raises(urllib.error.HTTPError) as error:
            lab.get("/version")
        error.value.close()
        assert (error.value.code, error.value.reason) == (596, "Connection timed out")
        assert lab.get("/version")["release"] == "9.1"
        assert [request["status"] for request in lab.requests()] == [596, 200]


@pytest.mark.parametrize(("when", "claimed"), [("before", False), ("after", True)])
def test_a_dropped_connection_may_have_done_its_work(tmp_path: Path, when: str, claimed: bool) -> None:
    rule = {"method": "POST", "path": "/qemu$", "drop": when}
    with RunningLab(tmp_path, faults=[rule]) as lab:
        context = ssl.create_default_context(cafile=str(lab.certificate_file))
        connection = http.client.HTTPSConnection(lab.host, lab.port, context=context, timeout=10)
        headers = {
            "Authorization": f"PVEAPIToken=provisioner@pve!fleet={lab.token()}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/api2/json/nodes/pve1/qemu", json.dumps({"vmid": 5001}), headers)
        with pytest.raises((http.client.HTTPException, ConnectionError, ssl.SSLError)):
            connection.getresponse()
        connection.close()
        assert bool(lab.call("GET", "/nodes/pve1/qemu")) is claimed


def test_an_answer_can_be_late(tmp_path: Path) -> None:
    with RunningLab(tmp_path, faults=[{"path": "/version", "delay": 0.2}]) as lab:
        begun = time.monotonic()
        lab.get("/version")
        assert time.monotonic() - begun >= 0.2


def test_tasks_fail_warn_or_hang_as_told(tmp_path: Path) -> None:
    rules = [
        {"task": "qmcreate", "vmid": 5002, "fails": "out of luck"},
        {"task": "qmcreate", "vmid": 5001, "warns": True},
        {"task": "qmstart", "hangs": True},
    ]
    with RunningLab(tmp_path, faults=rules) as lab:
        ends = [lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid=str(vmid), **GPU_VM)) for vmid in (5001, 5002)]
        assert [end.exitstatus for end in ends] == ["WARNINGS: 1", "out of luck"]
        assert [vm["vmid"] for vm in lab.call("GET", "/nodes/pve1/qemu")] == [5001]
        upid = lab.call("POST", "/nodes/pve1/qemu/5001/status/start")
        assert lab.call("GET", f"/nodes/pve1/tasks/{upid}/status")["status"] == "running"


def test_rules_can_be_added_while_it_runs(tmp_path: Path) -> None:
    with RunningLab(tmp_path) as lab:
        lab.faults.add(task="qmcreate", fails="not today", times=1)
        ends = [lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid="5001")).exitstatus for _ in range(2)]
        assert ends == ["not today", "OK"]


@pytest.mark.parametrize(
    "document",
    ["nonsense", [1], [{"paht": "/version"}], [{"guest": "burns"}], [{"drop": "sometimes", "path": "/"}]],
)
def test_a_plan_that_makes_no_sense_is_an_input_error(document: object) -> None:
    with pytest.raises(InputError) as error:
        FaultPlan.read(document)
    assert error.value.summary.startswith("cannot use the fault plan")
