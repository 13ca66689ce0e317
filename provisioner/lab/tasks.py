"""Tasks: work that goes on after the call has answered, named by a UPID.

A worker that returns ends ``OK``; one that raises ends with its text; one cut
short by DELETE ends interrupted. Tasks found unfinished when the lab starts
died with the lab before, and say so the way Proxmox does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from provisioner.lab.cluster import Cluster
from provisioner.lab.guests.base import GuestFailure
from provisioner.lab.model import TaskRecord
from provisioner.lab.refusals import Refusal, bad_parameters

UPID = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9-]+):(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9}):"
    r"(?P<starttime>[0-9A-Fa-f]{8}):(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)
_BOOT_TIME = 1_000_000
_KEPT = 5000
"""Older finished tasks are forgotten, as Proxmox rotates its own."""

log = logging.getLogger(__name__)


Happening = tuple[str, Mapping[str, object]]
"""Something that befalls the cluster, and its arguments."""


@dataclass(frozen=True, slots=True)
class TaskFault:
    """What a fault plan does to a task.

    `ends_with` is an exit status; the work behind it is left undone unless
    `work_is_done`. A task that `vanishes` has no record once it is over.
    """

    delay_seconds: float = 0.0
    ends_with: str | None = None
    hangs: bool = False
    work_is_done: bool = False
    warnings: tuple[str, ...] = ()
    vanishes: bool = False
    happens: tuple[Happening, ...] = ()


_NO_FAULT = TaskFault()


async def _nothing(name: str, arguments: Mapping[str, object]) -> None:
    raise RuntimeError(f"nobody knows how {name} happens")


class Task:
    """The worker's view of its own task."""

    def __init__(self, record: TaskRecord, save: Callable[[TaskRecord], None]) -> None:
        self.record = record
        self.warnings = 0
        self._save = save

    def log(self, line: str) -> None:
        """Append to the log that the API serves."""
        self.record.log.append(line)
        self._save(self.record)

    def warn(self, line: str) -> None:
        """Log a warning; a task with warnings does not end ``OK``."""
        self.warnings += 1
        self.log(f"WARN: {line}")


Worker = Callable[[Task], Awaitable[None]]


class Tasks:
    """Starts, watches, aborts and remembers tasks."""

    def __init__(self, cluster: Cluster, *, least_seconds: float = 0.0) -> None:
        self._cluster = cluster
        self._least_seconds = least_seconds
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pid = 4096
        self.now: Callable[[], float] = time.time
        self.fault_for: Callable[[TaskRecord], TaskFault | None] = lambda record: None
        self.befall: Callable[[str, Mapping[str, object]], Awaitable[None]] = _nothing
        self.lock_for: Callable[[TaskRecord], AbstractAsyncContextManager[object]] = lambda record: nullcontext()
        for record in cluster.tasks.values():
            self._pid = max(self._pid, record.pid)
            if record.exitstatus is None:
                record.exitstatus = "unexpected status"
                record.endtime = int(self.now())
                self._save(record)

    def start(
        self, node: str, kind: str, subject: str, user: str, worker: Worker, *, undo: Callable[[], None] | None = None
    ) -> str:
        """Begin a task and return its UPID.

        A worker cleans up behind itself; `undo` is for what was done before it,
        when a fault keeps it from ever starting.
        """
        self._pid += 1
        now = int(self.now())
        pstart = _BOOT_TIME + int(time.monotonic() * 100) % 0x7FFFFFFF
        upid = f"UPID:{node}:{self._pid:08X}:{pstart:08X}:{now:08X}:{kind}:{subject}:{user}:"
        record = TaskRecord(upid, node, self._pid, pstart, now, kind, subject, user)
        self._save(record)
        self._running[upid] = asyncio.get_running_loop().create_task(self._run(record, worker, undo), name=upid)
        self._forget_old()
        return upid

    def find(self, upid: str) -> TaskRecord:
        """Return a task. Raises Refusal for malformed and for unknown ids."""
        if UPID.fullmatch(upid) is None:
            raise bad_parameters({"upid": "unable to parse worker upid"})
        found = self._cluster.tasks.get(upid)
        if found is None:
            raise bad_parameters({"upid": "no such task"})
        return found

    def is_running(self, upid: str) -> bool:
        """Say whether a task has work left."""
        return upid in self._running

    async def abort(self, upid: str) -> None:
        """Cut a task short and return once it has cleaned up behind itself."""
        running = self._running.get(upid)
        if running is not None:
            running.cancel()
            await asyncio.wait({running})

    async def finished(self, upid: str) -> TaskRecord:
        """Return a task once it is over."""
        running = self._running.get(upid)
        if running is not None:
            await asyncio.wait({running})
        return self._cluster.tasks[upid]

    def active_for(self, kind: str, subject: str) -> list[str]:
        """Return the running tasks of a kind about something."""
        return [
            upid
            for upid in self._running
            if self._cluster.tasks[upid].type == kind and self._cluster.tasks[upid].id == subject
        ]

    async def close(self) -> None:
        """Let tasks die the way they would if the lab were killed: without a word in their record."""
        running = list(self._running.values())
        for task in running:
            task.cancel("closing")
        if running:
            await asyncio.wait(running)

    async def die(self, node: str) -> None:
        """End every task of a node the way a restart of its server does: without a word.

        When one of them asks for it, this does not return to it.
        """
        own = asyncio.current_task()
        dying = {upid: task for upid, task in self._running.items() if self._cluster.tasks[upid].node == node}
        others = [task for task in dying.values() if task is not own]
        for task in others:
            task.cancel("closing")
        if others:
            await asyncio.wait(others)
        for upid in dying:
            record = self._cluster.tasks[upid]
            record.exitstatus, record.endtime = "unexpected status", int(self.now())
            self._save(record)
        if own in dying.values():
            raise asyncio.CancelledError("closing")

    async def _run(self, record: TaskRecord, worker: Worker, undo: Callable[[], None] | None) -> None:
        task = Task(record, self._save)
        begun = time.monotonic()
        fault = self.fault_for(record) or _NO_FAULT
        try:
            await self._suffer(task, fault, undo)
            await worker(task)
            rest = self._least_seconds - (time.monotonic() - begun)
            if rest > 0:
                await asyncio.sleep(rest)
            for warning in fault.warnings:
                task.warn(warning)
            status = f"WARNINGS: {task.warnings}" if task.warnings else "OK"
            status = fault.ends_with or status
        except asyncio.CancelledError as cancelled:
            if "closing" in cancelled.args:
                self._running.pop(record.upid, None)
                raise
            status = "interrupted by signal"
        except (Refusal, GuestFailure) as error:
            status = error.message if isinstance(error, Refusal) else str(error)
            if isinstance(error, Refusal) and error.errors:
                status = "; ".join(f"{key}: {text}" for key, text in error.errors.items())
        except Exception as error:
            log.exception("task %s broke", record.upid)
            status = f"{type(error).__name__}: {error}"
        self._finish(task, " ".join(status.split("\n")).strip() or "unknown error")
        if fault.vanishes:
            self._cluster.tasks.remove(record.upid)

    async def _suffer(self, task: Task, fault: TaskFault, undo: Callable[[], None] | None) -> None:
        """Let befall a task what befalls it before its work."""
        try:
            if fault.delay_seconds:
                await asyncio.sleep(fault.delay_seconds)
            for name, arguments in fault.happens:
                await self.befall(name, arguments)
            if fault.hangs:
                async with self.lock_for(task.record):
                    await asyncio.Event().wait()
            if fault.ends_with is not None and not fault.work_is_done:
                raise GuestFailure(fault.ends_with)
        except BaseException as end:
            if undo is not None and "closing" not in end.args:
                undo()
            raise

    def _finish(self, task: Task, status: str) -> None:
        record = task.record
        record.exitstatus = status
        record.endtime = int(self.now())
        record.log.append(
            "TASK OK" if status == "OK" else f"TASK {status}" if task.warnings else f"TASK ERROR: {status}"
        )
        self._running.pop(record.upid, None)
        self._save(record)

    def _save(self, record: TaskRecord) -> None:
        self._cluster.tasks.save(record.upid, record)

    def _forget_old(self) -> None:
        surplus = len(self._cluster.tasks) - _KEPT
        if surplus > 500:
            over = sorted((r for r in self._cluster.tasks.values() if r.endtime is not None), key=lambda r: r.starttime)
            for record in over[:surplus]:
                self._cluster.tasks.remove(record.upid)
