"""Tasks of a node: lists, status, log, abort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.lab.model import TaskRecord
from provisioner.lab.refusals import denied_privilege, failed
from provisioner.lab.routes import views
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema.formats import split_list

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_TASKS = "/nodes/{node}/tasks"
_TASK = _TASKS + "/{upid}"


@serves("GET", _TASKS)
async def list_tasks(lab: Lab, call: Call) -> object:
    """List tasks, newest first."""
    source = call.text("source", "archive")
    records = [
        record
        for record in lab.cluster.tasks.values()
        if record.node == call.node and views.sees_task(lab, call.who, record) and _fits(call, record, source)
    ]
    records.sort(key=lambda record: (record.starttime, record.pid), reverse=True)
    start, limit = call.number("start"), call.number("limit", 50)
    # A limit of nothing is nothing here, and everything for a log.
    return [views.task_line(record) for record in records[start : start + limit]]


@serves("GET", _TASK)
async def task_index(lab: Lab, call: Call) -> object:
    """List what can be asked of a task."""
    return [{"name": "log"}, {"name": "status"}]


@serves("GET", _TASK + "/status")
async def task_status(lab: Lab, call: Call) -> object:
    """Return whether a task runs, and how it ended."""
    record = _visible(lab, call)
    status = views.task_facts(record)
    if record.exitstatus is None:
        status["status"] = "running"
    else:
        status |= {"status": "stopped", "exitstatus": record.exitstatus}
    return status


@serves("GET", _TASK + "/log")
async def task_log(lab: Lab, call: Call) -> object:
    """Return part of a task's log, numbered from one."""
    record = _visible(lab, call)
    start, limit = call.number("start"), call.number("limit", 50)
    lines = list(enumerate(record.log, 1))[start : start + limit if limit else None]
    return [{"n": number, "t": line} for number, line in lines] if record.log else [{"n": 1, "t": "no content"}]


@serves("DELETE", _TASK)
async def abort_task(lab: Lab, call: Call) -> object:
    """Cut a task short."""
    record = lab.tasks.find(call.text("upid"))
    own = record.user == call.who or record.user.partition("!")[0] == call.who
    if not own:
        lab.access.require(call.who, f"/nodes/{record.node}", "Sys.Modify")
    await lab.tasks.abort(record.upid)
    return None


def _visible(lab: Lab, call: Call) -> TaskRecord:
    record = lab.tasks.find(call.text("upid"))
    if record.node != call.node:
        raise failed(f"invalid task id - wrong node '{record.node}'")
    if not views.sees_task(lab, call.who, record):
        raise denied_privilege(f"/nodes/{record.node}", ("Sys.Audit",))
    return record


def _fits(call: Call, record: TaskRecord, source: str) -> bool:
    running = record.exitstatus is None
    if (source == "archive" and running) or (source == "active" and not running):
        return False
    if "vmid" in call.params and record.id != str(call.vmid):
        return False
    if "typefilter" in call.params and record.type != call.text("typefilter"):
        return False
    if "userfilter" in call.params and call.text("userfilter") not in record.user:
        return False
    if call.on("errors") and record.exitstatus in (None, "OK"):
        return False
    if "since" in call.params and record.starttime < call.number("since"):
        return False
    if "until" in call.params and record.starttime > call.number("until"):
        return False
    wanted = split_list(call.text("statusfilter"))
    return not wanted or _status_kind(record) in wanted


def _status_kind(record: TaskRecord) -> str:
    status = record.exitstatus or "unknown"
    if status == "OK":
        return "ok"
    return "warning" if status.startswith("WARNINGS") else "unknown" if status.startswith("un") else "error"
