"""One Proxmox task: how it is doing, and how it ended.

Success is ``OK`` or ``WARNINGS: n``; a task may also end without saying how, when
its worker or its server died; everything else is the error itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from provisioner.adapters.proxmox.advice import verdict_on
from provisioner.adapters.proxmox.session import ProxmoxSession, TaskMissing
from provisioner.errors import HypervisorError, OutcomeUnknownError

_UPID = re.compile(r"UPID:(?P<node>[^:]+):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:[0-9A-Fa-f]{8}:(?P<kind>[^:]+):[^:]*:[^:]+:")
# The last lines hold the reason; the first hundreds of a download are its progress.
_LOG_LINES = 500
_TAIL_LINES = 5
_WARNING = re.compile(r"^WARN(?:ING)?:\s*(.+)$")
# Whoever started it a moment before us did what we wanted.
_ALREADY = re.compile(r"VM \d+ already running")
# What Proxmox says of a task whose worker was killed, or whose log is gone (PVE/UPID.pm).
_NO_WORD = ("unexpected status", "unable to get last line from task log")


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """A success. `warnings` are Proxmox's own lines, marked as such; mostly none."""

    warnings: tuple[str, ...] = ()


class Task:
    """One task, by its UPID."""

    def __init__(self, session: ProxmoxSession, upid: str, what: str) -> None:
        match = _UPID.fullmatch(upid)
        if match is None:
            raise ValueError(upid)
        self.upid = upid
        self.kind = match["kind"]
        self._session = session
        self._what = what
        self._path = f"nodes/{match['node']}/tasks/{upid}"

    @staticmethod
    def is_upid(answer: object) -> bool:
        """Say whether an answer names a task."""
        return isinstance(answer, str) and _UPID.fullmatch(answer) is not None

    @property
    def subject(self) -> str:
        """The task, in the words of messages."""
        return f"task {self.upid} on {self._session.subject}"

    def look(self) -> TaskEnd | None:
        """Ask once; None while it runs.

        Raises:
            OutcomeUnknownError: nobody knows how it ended.
            HypervisorError: it failed; its exit status and last lines are in the summary.
        """
        try:
            status = self._session.read(f"{self._path}/status", purpose=self._what)
        except TaskMissing as missing:
            raise self._unknown("Proxmox no longer knows the task") from missing
        if status["status"] != "stopped":
            return None
        exit_status = str(status.get("exitstatus") or "")
        if exit_status == "OK" or _ALREADY.fullmatch(exit_status):
            return TaskEnd()
        if exit_status.startswith("WARNINGS: "):
            return TaskEnd(self._warnings(exit_status))
        if not exit_status or exit_status.startswith(_NO_WORD):
            raise self._unknown(f"the task ended without saying how ({exit_status or 'no exit status'})")
        raise self._failure(exit_status)

    def _warnings(self, exit_status: str) -> tuple[str, ...]:
        found = tuple(f"Proxmox warns: {match[1]}" for line in self._log() if (match := _WARNING.match(line)))
        return found or (f"Proxmox warns: {exit_status}",)

    def _failure(self, exit_status: str) -> HypervisorError:
        try:
            tail = [line for line in self._log() if line.strip()][-_TAIL_LINES:]
        except HypervisorError:
            # The log only explains; the failure stands without it.
            tail = []
        # The last line of a failed task repeats the exit status.
        log = "".join(f"\n  {line}" for line in tail if exit_status not in line)
        verdict = verdict_on(exit_status, "\n".join(tail))
        return verdict.error(f"cannot {self._what}: {exit_status}{log}", self._session.subject)

    def _unknown(self, why: str) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"cannot tell whether Proxmox did {self._what}: {why}",
            subject=self.subject,
            next_step="see whether the server was restarted (Proxmox > node > Syslog), then run the same command "
            "again, it looks first",
            retryable=True,
        )

    def _log(self) -> list[str]:
        lines = self._session.call("GET", f"{self._path}/log", limit=_LOG_LINES, purpose=self._what) or []
        return [str(line.get("t", "")) for line in lines]
