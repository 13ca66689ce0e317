"""Waiting on a Proxmox task. Success is ``OK`` or ``WARNINGS: n``; everything else is the error itself."""

from __future__ import annotations

import re

from provisioner.adapters.proxmox.advice import next_step_for
from provisioner.adapters.proxmox.session import ProxmoxSession
from provisioner.errors import HypervisorError
from provisioner.ports.clock import Clock
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

_PACE = Pace(first=0.05, growth=1.6, longest=2.0)
# Far beyond any download or start; a task that hangs longer needs a person.
_LONGEST_SECONDS = 4 * 3600.0
_LOG_LINES = 5
# Whoever started it a moment before us did what we wanted.
_ALREADY = re.compile(r"VM \d+ already running")


class TaskTicket:
    """One task under way, by its UPID."""

    def __init__(self, session: ProxmoxSession, clock: Clock, upid: str, what: str) -> None:
        self._session = session
        self._clock = clock
        self._upid = upid
        self._what = what
        self._done = False

    def is_done(self) -> bool:
        """Ask once. Raises HypervisorError when the task has failed."""
        if not self._done:
            status = self._session.call("GET", f"{self._path}/status")
            if status["status"] != "stopped":
                return False
            self._require_success(str(status.get("exitstatus", "")))
            self._done = True
        return True

    def wait(self) -> None:
        """Return when the task has succeeded. Raises HypervisorError."""
        try:
            wait_until(
                lambda: self.is_done() or NotYet("running"), clock=self._clock, seconds=_LONGEST_SECONDS, pace=_PACE
            )
        except WaitedInVain as waited:
            raise HypervisorError(
                f"cannot {self._what}: the task still runs after {waited.seconds / 3600:g} h",
                subject=f"task {self._upid} on {self._session.subject}",
                next_step="look at it, and stop it if it hangs (Proxmox > Tasks)",
            ) from waited

    @property
    def _path(self) -> str:
        return f"nodes/{self._upid.split(':')[1]}/tasks/{self._upid}"

    def _require_success(self, exit_status: str) -> None:
        if exit_status == "OK" or exit_status.startswith("WARNINGS") or _ALREADY.fullmatch(exit_status):
            return
        lines = self._session.call("GET", f"{self._path}/log", limit=500) or []
        tail = [str(line["t"]) for line in lines if str(line.get("t", "")).strip()][-_LOG_LINES:]
        # The last line of a failed task repeats the exit status.
        log = "".join(f"\n  {line}" for line in tail if exit_status not in line)
        raise HypervisorError(
            f"cannot {self._what}: {exit_status}{log}",
            subject=self._session.subject,
            next_step=next_step_for(exit_status + " " + " ".join(tail)),
        )
