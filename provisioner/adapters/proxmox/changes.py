"""One change asked of Proxmox and seen through to the fact that it should make.

A change is sent, its task watched. Where the answer, the task or its end got
lost, the fact decides: it is looked for before anything is sent again, so
nothing is done twice. What meets a lock that soon opens is sent again after a
pause. High availability answers before anything has happened: there the fact
is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from provisioner.adapters.proxmox.session import AGAIN, ProxmoxSession
from provisioner.adapters.proxmox.tasks import Task
from provisioner.errors import (
    HypervisorError,
    OutcomeUnknownError,
    TaskOverdueError,
    UnreachableError,
    VmidTakenError,
    VmMissingError,
)
from provisioner.ports.clock import Clock
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# Looks come as far apart as an eighth of what has passed: what is lost at the end of a task stays a small share of it,
# and two seconds of work still cost only fourteen looks.
_FIRST_SECONDS = 0.05
_GROWTH = 1.15
_LONGEST_SECONDS = 2.0
# Where many wait, each looks less often: together no more than a hundred times a second.
_SECONDS_PER_WAITING = 0.01
# These tasks end when the request is queued (PVE/API2/Qemu.pm); the cluster's manager acts on it later, and cuts the
# power of a guest that does not shut down in its time (PVE/HA/Resources/PVEVM.pm).
_MANAGED = "the VM is managed by high availability, whose manager carries it out"
_QUEUED = {"hastart": _MANAGED, "hastop": f"{_MANAGED}, and cuts the power of a guest that takes too long"}


def _nothing_under_way() -> str | None:
    return None


def _never(error: HypervisorError) -> bool:
    return False


class Crowd:
    """Counts those that wait at the same time; entering it returns how many they are now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def __enter__(self) -> int:
        with self._lock:
            self._count += 1
            return self._count

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1


@dataclass(slots=True)
class Change:
    """One change. Also the port's `Ticket`.

    Args:
        session: where to send it.
        clock: time.
        what: the change in words that follow "cannot", such as ``start VM 5001``.
        send: sends it once and returns what Proxmox answers.
        is_so: says whether the world is as the change should leave it; one look.
        has_task: whether Proxmox answers with a task; else the answer itself is the end.
        under_way: finds the UPID of a task of this kind that works on the same thing right now; it may be another's.
        passes: says of a failure that it will pass, beyond those that Proxmox's texts tell.
        fact_outranks: a failure counts for nothing when the fact is there: a start may run out of time though
            the VM runs. The failure becomes a warning.
        within: seconds after which `wait` gives up.
        crowd: those that wait for changes of the same cluster; many of them look less often.
    """

    session: ProxmoxSession
    clock: Clock
    what: str
    send: Callable[[], object]
    is_so: Callable[[], bool]
    has_task: bool = True
    under_way: Callable[[], str | None] = _nothing_under_way
    passes: Callable[[HypervisorError], bool] = _never
    fact_outranks: bool = False
    within: float = 4 * 3600.0
    crowd: Crowd = field(default_factory=lambda: Crowd())
    warnings: tuple[str, ...] = ()
    _task: Task | None = None
    _found_in_doubt: HypervisorError | None = None
    _is_done: bool = False
    _is_queued: bool = False
    _was_in_doubt: bool = False
    _is_astray: bool = False
    _is_put_off: bool = False
    _doubt: HypervisorError | None = None
    _trouble: HypervisorError | None = None
    _not_before: float = 0.0
    _until: float | None = None
    _pause: float = field(default=AGAIN.first)

    @property
    def may_still_arrive(self) -> bool:
        """Proxmox may get a request for it from now on.

        A request without an answer stays out for good: what is done or under way meanwhile may be another's doing.
        """
        return self._is_astray or self._is_put_off

    def begin(self) -> Change:
        """Send it; return itself. Raises HypervisorError when Proxmox refuses."""
        self._send()
        return self

    def is_done(self) -> bool:
        """Look once. Raises HypervisorError when it has failed."""
        if self._is_done or self.clock.monotonic() < self._not_before:
            return self._is_done
        self._is_put_off = False
        if self._doubt is not None:
            self._resolve(self._doubt)
        elif self._task is not None:
            self._watch(self._task)
        elif self._is_queued:
            self._is_done = self.is_so()
        else:
            self._send()
        return self._is_done

    def wait(self) -> None:
        """Return when it is done. Raises HypervisorError, also when that takes too long."""
        if self._is_done:
            return
        with self.crowd as waiting:
            pace = Pace(max(_FIRST_SECONDS, waiting * _SECONDS_PER_WAITING), _GROWTH, _LONGEST_SECONDS)
            # Nothing that takes a task is over when Proxmox has just answered.
            self.clock.sleep(min(pace.first, self.within))
            try:
                wait_until(
                    lambda: self.is_done() or NotYet("under way"), clock=self.clock, seconds=self.within, pace=pace
                )
            except WaitedInVain as waited:
                raise self.overdue(waited.seconds) from waited

    def in_full(self) -> tuple[str, ...]:
        """Send it and wait for its end; return what a reader should know of it. Raises HypervisorError."""
        self._send()
        self.wait()
        return self.warnings

    def _send(self) -> None:
        try:
            answer = self.send()
        except UnreachableError as silence:
            self._is_astray |= silence.may_have_happened
            self._doubted(silence)
        except VmidTakenError:
            # The first try may have come through after we had looked.
            if not self._was_in_doubt or not self.is_so():
                raise
            self._is_done = True
        except HypervisorError as error:
            self._later(error)
        else:
            if not self.has_task:
                self._is_done = True
            elif isinstance(answer, str) and Task.is_upid(answer):
                self._found_in_doubt = None
                self._task = Task(self.session, answer, self.what)
            else:
                self._doubted(self._no_upid())

    def _watch(self, task: Task) -> None:
        try:
            end = task.look()
        except OutcomeUnknownError as unknown:
            self._task = None
            self._doubted(unknown)
        except UnreachableError:
            # Only the look failed; the task goes on without us, and the session has been patient already.
            raise
        except HypervisorError as error:
            self._task = None
            self._later(error)
        else:
            if end is None:
                return
            self._task = None
            self.warnings += end.warnings
            self._is_queued = task.kind in _QUEUED
            if self._is_queued:
                self.warnings += (_QUEUED[task.kind],)
            if self._found_in_doubt is not None and not self._is_queued and not self.is_so():
                # It was somebody else's, and has made something else.
                self._doubted(self._found_in_doubt)
            else:
                self._is_done = not self._is_queued or self.is_so()

    def _resolve(self, doubt: HypervisorError) -> None:
        """Find out whether it happened; if it has not, and nobody is at it, send it again."""
        self._doubt = None
        try:
            is_so = self.is_so()
        except UnreachableError as silence:
            # What is in doubt says more than that it cannot be looked up.
            raise doubt from silence
        if is_so:
            self._is_done = True
            self._remark(doubt, "it had been done")
            return
        upid = self.under_way()
        if upid is not None:
            self._remark(doubt, "it was being done")
            self._task = Task(self.session, upid, self.what)
            self._found_in_doubt = doubt
        elif self._is_time_up():
            raise doubt
        else:
            self._remark(doubt, "it had not been done, so it was asked for again")
            self._send()

    def _remark(self, trouble: HypervisorError, found: str) -> None:
        remark = f"{trouble.summary.partition(chr(10))[0]}; looked: {found}"
        if remark not in self.warnings:
            self.warnings += (remark,)

    def _doubted(self, doubt: HypervisorError) -> None:
        self._was_in_doubt = True
        self._doubt = doubt
        self._put_off(doubt)

    def _later(self, error: HypervisorError) -> None:
        """Let it be tried again after a pause, if that is of any use."""
        # A VM that is missing does not come back by itself.
        is_passing = (error.retryable and not isinstance(error, VmMissingError)) or self.passes(error)
        if is_passing and not self._is_time_up():
            self._put_off(error)
        elif self.fact_outranks and self._is_so_after_all():
            self._is_done = True
            self._remark(error, "it is as it should be all the same")
        else:
            raise error

    def _is_so_after_all(self) -> bool:
        try:
            return self.is_so()
        except HypervisorError:
            # The failure itself says more than that nobody can look.
            return False

    def _is_time_up(self) -> bool:
        return self._until is not None and self.clock.monotonic() >= self._until

    def _put_off(self, trouble: HypervisorError) -> None:
        self._trouble, self._is_put_off = trouble, True
        now = self.clock.monotonic()
        if self._until is None:
            self._until = now + self.session.cluster.retry_seconds
        self._not_before = now + self._pause
        self._pause = min(self._pause * AGAIN.growth, AGAIN.longest)

    def _no_upid(self) -> UnreachableError:
        return UnreachableError(
            f"cannot {self.what}: Proxmox answered without naming the task",
            subject=self.session.subject,
            next_step="it may have happened all the same; run the same command again, it looks first",
            retryable=True,
        )

    def overdue(self, seconds: float) -> HypervisorError:
        """Return the error of a caller who has waited that long and gives up."""
        span = f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"
        if self._is_queued:
            return TaskOverdueError(
                f"cannot {self.what}: it is managed by high availability, which took the request but has not "
                f"carried it out after {span}",
                subject=self.session.subject,
                next_step="see what its manager waits for (Datacenter > HA), or take the VM out of HA: "
                "a node that sleeps and wakes on demand needs none",
                retryable=True,
            )
        if self._task is None and self._trouble is not None:
            # Nothing is under way: it was about to be tried again.
            return self._trouble
        return TaskOverdueError(
            f"cannot {self.what}: the task still runs after {span}",
            subject=self._task.subject if self._task else self.session.subject,
            next_step="look at it, and stop it if it hangs (Proxmox > Tasks), then run the same command again",
        )
