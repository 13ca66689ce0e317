"""A change is seen through to the fact that it should make, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from provisioner.adapters.proxmox.advice import verdict_on
from provisioner.adapters.proxmox.changes import Change
from provisioner.adapters.proxmox.session import ProxmoxSession, TaskMissing
from provisioner.domain.fleet import ClusterAddress, TlsTrust
from provisioner.domain.names import ClusterName
from provisioner.errors import (
    HypervisorError,
    OutcomeUnknownError,
    TaskOverdueError,
    UnreachableError,
    VmidTakenError,
    VmLockedError,
)
from tests.fakes.clock import FakeClock

RETRY_SECONDS = 10.0


def upid(kind: str = "qmstart", number: int = 1) -> str:
    return f"UPID:pve1:{number:08X}:000F4240:65000000:{kind}:5001:provisioner@pve!fleet:"


def silence() -> UnreachableError:
    return UnreachableError("cannot reach Proxmox: reset", subject="s", next_step="n", retryable=True)


def never_sent() -> UnreachableError:
    error = silence()
    error.may_have_happened = False
    return error


def locked() -> VmLockedError:
    return VmLockedError("cannot start VM 5001: can't lock file", subject="s", next_step="n", retryable=True)


@dataclass
class Script:
    """Proxmox as far as one change sees it: what it answers, in order, and whether the fact is there."""

    answers: list[object]
    ends: list[str] = field(default_factory=lambda: ["OK"])
    is_so: list[bool] = field(default_factory=lambda: [False])
    running: str | None = None
    log: list[str] = field(default_factory=list)
    sent: int = 0

    @property
    def subject(self) -> str:
        return "cluster lab"

    @property
    def cluster(self) -> ClusterAddress:
        return ClusterAddress(ClusterName("lab"), "https://lab", TlsTrust(), retry_seconds=RETRY_SECONDS)

    def send(self) -> object:
        self.sent += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def look(self) -> bool:
        return self.is_so.pop(0) if len(self.is_so) > 1 else self.is_so[0]

    def read(self, path: str, *, purpose: str | None = None) -> Any:
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if end != "running":
            self.running = None
        if end == "gone":
            raise TaskMissing("gone", subject="s", next_step="n")
        return {"status": "running"} if end == "running" else {"status": "stopped", "exitstatus": end}

    def call(self, method: str, path: str, /, **more: Any) -> Any:
        if path.endswith("/log"):
            return [{"n": number, "t": line} for number, line in enumerate(self.log, 1)]
        return self.read(path)


def change(script: Script, clock: FakeClock, **more: Any) -> Change:
    return Change(
        cast("ProxmoxSession", script),
        clock,
        "start VM 5001",
        script.send,
        script.look,
        under_way=lambda: script.running,
        within=3600.0,
        **more,
    )


def test_a_lost_answer_whose_work_was_done_is_not_asked_for_again() -> None:
    script = Script([silence()], is_so=[True])
    warnings = change(script, FakeClock()).in_full()
    assert script.sent == 1
    assert warnings == ("cannot reach Proxmox: reset; looked: it had been done",)


def test_a_lost_answer_whose_work_is_being_done_is_waited_for() -> None:
    script = Script([silence()], is_so=[False, True], running=upid())
    warnings = change(script, FakeClock()).in_full()
    assert script.sent == 1
    assert warnings == ("cannot reach Proxmox: reset; looked: it was being done",)


def test_a_task_found_under_way_that_made_something_else_was_not_ours() -> None:
    """Ours never arrived, and at that moment somebody else created a VM with the same VMID."""
    taken = VmidTakenError("taken", subject="s", next_step="n")
    script = Script([silence(), taken], running=upid("qmcreate"))
    with pytest.raises(VmidTakenError):
        change(script, FakeClock()).in_full()
    assert script.sent == 2


def test_a_lost_answer_whose_work_was_not_done_is_asked_for_again() -> None:
    script = Script([silence(), silence(), upid()])
    assert "so it was asked for again" in change(script, FakeClock()).in_full()[0]
    assert script.sent == 3


def test_silence_that_lasts_is_told_after_the_patience_of_the_fleet_file() -> None:
    script, clock = Script([silence()]), FakeClock()
    with pytest.raises(UnreachableError):
        change(script, clock).in_full()
    assert RETRY_SECONDS <= clock.monotonic() < RETRY_SECONDS + 3


def test_what_comes_through_late_is_recognised_as_our_own() -> None:
    taken = VmidTakenError("taken", subject="s", next_step="n")
    script = Script([silence(), taken], is_so=[False, True])
    change(script, FakeClock()).in_full()
    assert script.sent == 2


def test_a_vmid_that_was_taken_before_we_asked_is_somebody_elses() -> None:
    script = Script([VmidTakenError("taken", subject="s", next_step="n")], is_so=[True])
    with pytest.raises(VmidTakenError):
        change(script, FakeClock()).in_full()


@pytest.mark.parametrize("end", ["gone", "unexpected status", "unable to get last line from task log - x", ""])
def test_a_task_that_ends_without_a_word_is_judged_by_the_fact(end: str) -> None:
    script = Script([upid()], ends=[end], is_so=[True])
    change(script, FakeClock()).in_full()
    assert script.sent == 1


def test_a_task_that_keeps_ending_without_a_word_is_named() -> None:
    with pytest.raises(OutcomeUnknownError, match="cannot tell whether Proxmox did start VM 5001"):
        change(Script([upid()], ends=["unexpected status"]), FakeClock()).in_full()


def looked_at(script: Script) -> list[bool]:
    """Return whether a start may still arrive: once it is sent, and after each look until it is done."""
    clock = FakeClock()
    watched = change(script, clock).begin()
    told = [watched.may_still_arrive]
    while not watched.is_done():
        told.append(watched.may_still_arrive)
        clock.advance(5.0)
    return told


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([upid()], [False]),
        ([locked(), upid()], [True, True, False]),
        ([silence(), upid()], [True, True, True]),
        ([never_sent(), upid()], [True, True, False]),
    ],
    ids=["accepted", "locked at first", "without an answer at first", "not sent at first"],
)
def test_a_change_says_whether_it_may_still_arrive(answers: list[object], told: list[bool]) -> None:
    assert looked_at(Script(answers)) == told


def test_a_change_whose_task_failed_may_arrive_once_more() -> None:
    failed = "can't lock file '/x/lock-5001.conf' - got timeout"
    assert looked_at(Script([upid(), upid(number=2)], ends=[failed, "OK"])) == [False, True, False]


def test_a_short_lock_is_waited_out() -> None:
    script = Script(
        [locked(), upid(), upid(number=2)], ends=["can't lock file '/x/lock-5001.conf' - got timeout", "OK"]
    )
    assert change(script, FakeClock()).in_full() == ()
    assert script.sent == 3


def test_a_lock_that_stays_is_named_after_a_while() -> None:
    clock = FakeClock()
    with pytest.raises(VmLockedError):
        change(Script([locked()]), clock).in_full()
    assert clock.monotonic() < RETRY_SECONDS + 3


def test_a_failure_counts_for_nothing_when_the_fact_is_there() -> None:
    script = Script([upid()], ends=["start failed: got timeout"], is_so=[True])
    (warning,) = change(script, FakeClock(), fact_outranks=True).in_full()
    assert warning.endswith("looked: it is as it should be all the same")
    with pytest.raises(HypervisorError, match="got timeout"):
        change(script, FakeClock()).in_full()


def test_a_failure_that_nobody_can_look_behind_is_still_the_failure() -> None:
    script = Script([upid()], ends=["start failed: QEMU exited with code 1"])

    def look() -> bool:
        raise silence()

    failing = change(script, FakeClock(), fact_outranks=True)
    failing.is_so = look
    with pytest.raises(HypervisorError, match="QEMU exited"):
        failing.in_full()


def test_warnings_are_success_and_told() -> None:
    script = Script([upid()], ends=["WARNINGS: 2"], log=["WARN: no swap", "fine", "WARN: hot", "TASK WARNINGS: 2"])
    assert change(script, FakeClock()).in_full() == ("Proxmox warns: no swap", "Proxmox warns: hot")


def test_high_availability_is_waited_for_beyond_its_task() -> None:
    script, clock = Script([upid("hastart")], is_so=[False, False, False, True]), FakeClock()
    (told,) = change(script, clock).in_full()
    assert "managed by high availability" in told
    assert clock.monotonic() > 0.1


def test_high_availability_that_does_nothing_is_named() -> None:
    with pytest.raises(TaskOverdueError, match="managed by high availability"):
        change(Script([upid("hastop")]), FakeClock()).in_full()


def test_a_task_that_hangs_is_named_with_its_id() -> None:
    with pytest.raises(TaskOverdueError, match="still runs after 1 h") as caught:
        change(Script([upid()], ends=["running"]), FakeClock()).in_full()
    assert upid() in caught.value.subject


def test_an_answer_that_names_no_task_is_in_doubt() -> None:
    script = Script([None], is_so=[True])
    change(script, FakeClock()).in_full()
    assert script.sent == 1


def test_who_waits_for_a_repeated_try_learns_what_the_trouble_is() -> None:
    script = Script([locked()])
    waiting = change(script, FakeClock())
    waiting.begin()
    assert isinstance(waiting.overdue(5.0), VmLockedError)


@pytest.fixture
def reasons() -> Callable[[str], str]:
    from provisioner.lab.faults import REASONS

    return lambda name: REASONS[name].words({"vmid": 5001})


UNADVISED = {"permission", "token_wrong", "token_expired", "token_gone", "no_ticket", "vm_exists", "no_such_task"}
"""Told apart by their status or shape, not by their text."""


def test_every_refusal_of_proxmox_that_the_lab_knows_has_its_own_advice(reasons: Callable[[str], str]) -> None:
    from provisioner.lab.faults import REASONS

    general = verdict_on("something nobody has ever heard of").next_step
    bare = [
        name
        for name, reason in REASONS.items()
        if reason.status < 502 and name not in UNADVISED and verdict_on(reasons(name)).next_step == general
    ]
    assert bare == ["vm_running"], "a start that meets a running VM has succeeded and needs no advice"


def test_advice_speaks_of_what_the_text_names() -> None:
    assert "VM 200" in verdict_on("PCI device '0000:01:00.0' already in use by VMID '200'").next_step
    assert "backup" in verdict_on("VM is locked (backup)").next_step
    assert "storage local-lvm" in verdict_on("storage 'local-lvm' is not online").next_step
    log = "failed to reset PCI device '0000:01:00.0', but trying to continue as not all devices need a reset"
    assert "did not come back" in verdict_on("start failed: QEMU exited with code 1", log).next_step
    assert "log says why" in verdict_on("start failed: QEMU exited with code 1").next_step
