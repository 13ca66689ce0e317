"""Who gets a GPU, who waits and why, who gives way: page and scene in, verdict and words out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from provisioner.domain.lease import (
    GpuSlot,
    Hold,
    LeasePage,
    LeasePhase,
    Waiter,
    adopted,
    arrived,
    freeing,
    granted,
    held,
    holding,
    issuing,
    joined,
)
from provisioner.domain.names import GpuName, HypervisorName, NodeName, Vmid
from provisioner.domain.snapshot import Power
from provisioner.planning.arbiter import (
    Answer,
    HolderSeen,
    Scene,
    Use,
    Verdict,
    decided,
    given_up,
    next_in_line,
    reconciled,
)

SLOT = GpuSlot(HypervisorName("pve1"), GpuName("rtx3090"))
OTHER = GpuSlot(HypervisorName("pve1"), GpuName("a4000"))
A, B, C, STRANGER = Vmid(5001), Vmid(5002), Vmid(5003), Vmid(200)
NOW = 10_000.0


def node(vmid: Vmid, power: Power = Power.RUNNING, **changes: object) -> HolderSeen:
    """A node that runs quietly and for long."""
    name = NodeName(f"node-{vmid}")
    seen = HolderSeen(vmid, name, power, (SLOT,), name, 3600.0, Use.QUIET, "nobody uses it", 0, 300.0)
    return replace(seen, **changes)  # type: ignore[arg-type]


def wanting(vmid: Vmid, *, priority: int = 0, since: float = NOW, slots: tuple[GpuSlot, ...] = (SLOT,)) -> Waiter:
    return Waiter(0, f"node-{vmid}", vmid, slots, priority, since, since + 900, f"process-{vmid}")


def with_a_running() -> LeasePage:
    page, leases = granted(LeasePage(), [SLOT], A, "node-5001", owner="process-a", now=0)
    return held(page, leases)


def ask(
    page: LeasePage, waiter: Waiter, seen: Mapping[Vmid, HolderSeen] | None = None, **scene: object
) -> tuple[LeasePage, Answer]:
    page, waiter = joined(page, waiter)
    return decided(page, waiter, Scene(page, seen or {}, **scene), NOW)  # type: ignore[arg-type]


class TestGranting:
    """A free slot goes to whoever is next."""

    def test_a_free_slot_is_granted_with_a_number(self) -> None:
        page, answer = ask(LeasePage(), wanting(B))
        assert answer.verdict is Verdict.GRANT
        assert answer.reason == "rtx3090 on pve1 is free"
        assert page.leases[SLOT].fence == 1
        assert page.waiters == ()

    def test_several_slots_are_granted_all_at_once_or_not_at_all(self) -> None:
        page, answer = ask(with_a_running(), wanting(B, slots=(OTHER, SLOT)), {A: node(A, use=Use.BUSY)})
        assert answer.verdict is Verdict.WAIT
        assert OTHER not in page.leases

    def test_who_came_first_is_next(self) -> None:
        page, first = joined(LeasePage(), wanting(B))
        page, answer = ask(page, wanting(C))
        assert answer.verdict is Verdict.WAIT
        assert answer.reason == "node-5002 is to get rtx3090 on pve1 before it: it came first"
        assert decided(page, first, Scene(page, {}), NOW)[1].verdict is Verdict.GRANT

    def test_a_higher_priority_goes_before(self) -> None:
        page, first = joined(LeasePage(), wanting(B))
        page, _ = joined(page, wanting(C, priority=5))
        assert [waiter.vmid for waiter in next_in_line(page.waiters, NOW)] == [C, B]
        _, answer = decided(page, first, Scene(page, {}), NOW)
        assert answer.reason.endswith("its priority is 5 and not 0")

    def test_who_has_waited_for_half_of_his_time_goes_before_every_priority(self) -> None:
        page, _ = joined(LeasePage(), wanting(C, priority=100))
        page, _ = joined(page, wanting(B, since=NOW - 450))
        page, late = joined(page, wanting(C, priority=100))
        assert next(waiter.vmid for waiter in next_in_line(page.waiters, NOW)) == B
        _, answer = decided(page, late, Scene(page, {}), NOW)
        assert answer.reason.endswith("it has waited for long")

    def test_a_clock_that_is_set_back_makes_nobody_overdue(self) -> None:
        page, _ = joined(LeasePage(), wanting(B, since=NOW + 5000))
        page, _ = joined(page, wanting(C, priority=1))
        assert next_in_line(page.waiters, NOW)[0].vmid == C

    def test_one_whose_process_has_died_is_not_waited_for(self) -> None:
        page, _ = joined(LeasePage(), wanting(B))
        page, answer = ask(page, wanting(C), dead=frozenset({"process-5002"}))
        assert answer.verdict is Verdict.GRANT

    def test_a_vm_that_runs_needs_nothing(self) -> None:
        assert ask(LeasePage(), wanting(A), {A: node(A)})[1].verdict is Verdict.RUNS

    def test_a_start_under_way_is_joined(self) -> None:
        page, _ = granted(LeasePage(), [SLOT], A, "node-5001", owner="process-a", now=0)
        assert ask(page, wanting(A), {A: node(A, Power.STOPPED)})[1].verdict is Verdict.JOIN

    def test_a_start_that_a_dead_process_had_sent_is_not_sent_again_before_it_is_known_how_it_ends(self) -> None:
        page, late = granted(LeasePage(), [SLOT], A, "node-5001", owner="process-a", now=0)
        page, dead = issuing(page, late), frozenset({"process-a"})
        off, on = {A: node(A, Power.STOPPED)}, {A: node(A, Power.STOPPED, is_being_started=True)}
        # Sent twice, and the node put to sleep in between: the first could come after another's.
        _, answer = ask(page, wanting(A), off, dead=dead)
        assert (answer.verdict, answer.reason[:37]) == (Verdict.WAIT, "whoever was starting it is gone; that")
        assert ask(page, wanting(A), on, dead=dead)[1].verdict is Verdict.JOIN
        assert ask(page, wanting(A), {A: node(A)}, dead=dead)[1].verdict is Verdict.RUNS
        settled = frozenset({(SLOT, late[0].fence)})
        assert ask(page, wanting(A), off, dead=dead, settled=settled)[1].verdict is Verdict.GRANT

    def test_a_start_that_proxmox_had_taken_from_a_dead_process_is_waited_for_no_longer_than_it_takes(self) -> None:
        page, late = granted(LeasePage(), [SLOT], A, "node-5001", owner="process-a", now=0)
        page, dead = arrived(issuing(page, late), late), frozenset({"process-a"})
        off, on = {A: node(A, Power.STOPPED)}, {A: node(A, Power.STOPPED, is_being_started=True)}
        for waiter in (wanting(A), wanting(B)):
            assert ask(page, waiter, on, dead=dead)[1].verdict in (Verdict.JOIN, Verdict.WAIT)
            assert ask(page, waiter, off, dead=dead)[1].verdict is Verdict.GRANT


class TestGivingWay:
    """Who has it keeps it for a while, and is never cut off."""

    def test_a_quiet_node_gives_way(self) -> None:
        page, answer = ask(with_a_running(), wanting(B), {A: node(A)})
        assert answer.verdict is Verdict.YIELD
        assert answer.reason == "node-5001 is quiet and gives way to node-5002"
        assert page.leases[SLOT].phase is LeasePhase.FREEING
        assert page.leases[SLOT].wanted_by == "node-5002"

    @pytest.mark.parametrize(
        ("holder", "words"),
        [
            ({"uptime_seconds": 20.0}, "node-5001 keeps rtx3090 on pve1 for at least 5 min"),
            ({"use": Use.BUSY, "use_words": "2 requests running, 0 waiting"}, "in use: 2 requests running, 0 waiting"),
            ({"use": Use.UNKNOWN, "use_words": "it is silent"}, "is not known (it is silent); unknown counts as busy"),
            ({"power": Power.UNKNOWN}, "whether it still runs is not known"),
            ({"priority": 3}, "with priority 3 over 0; it gives way, if quiet, to one who has waited for 7 min 30 s"),
        ],
    )
    def test_otherwise_one_waits_and_is_told_why(self, holder: dict[str, object], words: str) -> None:
        page, answer = ask(with_a_running(), wanting(B), {A: node(A, **holder)})
        assert answer.verdict is Verdict.WAIT
        assert words in answer.reason
        assert page.leases[SLOT].phase is LeasePhase.HELD

    @pytest.mark.parametrize("waiter", [wanting(B, priority=1), wanting(B, since=NOW - 451)])
    def test_a_busy_node_is_drained_for_a_higher_priority_and_for_long_waiting(self, waiter: Waiter) -> None:
        page, answer = ask(with_a_running(), waiter, {A: node(A, use=Use.BUSY, use_words="1 request")})
        assert answer.verdict is Verdict.DRAIN
        assert "node-5001 is drained (1 request), because node-5002 has" in answer.reason
        assert page.leases[SLOT].phase is LeasePhase.FREEING

    @pytest.mark.parametrize("waiter", [wanting(B, priority=1), wanting(B, since=NOW - 899)])
    def test_unknown_use_and_minimum_residence_outweigh_priority_and_waiting(self, waiter: Waiter) -> None:
        for state in ({"use": Use.UNKNOWN}, {"uptime_seconds": 1.0}):
            assert ask(with_a_running(), waiter, {A: node(A, **state)})[1].verdict is Verdict.WAIT

    def test_what_is_drained_is_given_back_when_it_need_not_give_way_any_more(self) -> None:
        page, answer = ask(with_a_running(), wanting(B, priority=1), {A: node(A, use=Use.BUSY)})
        (waiter,) = page.waiters
        own = frozenset((lease.slot, lease.fence) for lease in answer.yielding)
        again, answer = decided(page, waiter, Scene(page, {A: node(A, use=Use.UNKNOWN)}, own=own), NOW)
        assert answer.verdict is Verdict.WAIT
        assert again.leases[SLOT].phase is LeasePhase.HELD
        assert given_up(page, waiter, own).leases[SLOT].phase is LeasePhase.HELD
        assert given_up(page, waiter, own).waiters == ()

    def test_a_vm_gives_up_all_its_slots(self) -> None:
        page, leases = granted(LeasePage(), [SLOT, OTHER], A, "node-5001", owner="a", now=0)
        page, answer = ask(held(page, leases), wanting(B), {A: node(A, slots=(SLOT, OTHER))})
        assert {lease.slot for lease in answer.yielding} == {SLOT, OTHER}

    def test_nobody_gives_way_for_one_who_cannot_have_the_rest(self) -> None:
        page = adopted(with_a_running(), [OTHER], STRANGER, "windows", now=0)
        seen = {A: node(A), STRANGER: HolderSeen(STRANGER, "windows", Power.RUNNING)}
        page, answer = ask(page, wanting(B, slots=(SLOT, OTHER)), seen)
        assert answer.verdict is Verdict.REFUSE
        assert page.leases[SLOT].phase is LeasePhase.HELD

    def test_a_hold_is_waited_for_if_it_ends_in_time_and_told_at_once_if_not(self) -> None:
        name = NodeName("node-5001")
        short = holding(with_a_running(), Hold(name, "anna", NOW, NOW + 600))
        assert ask(short, wanting(B), {A: node(A)})[1].verdict is Verdict.WAIT
        long = holding(with_a_running(), Hold(name, "anna", NOW, NOW + 7200, "training"))
        _, answer = ask(long, wanting(B, priority=100), {A: node(A)})
        assert answer.verdict is Verdict.REFUSE
        assert answer.reason == "anna holds node-5001 for another 2 h (training)"
        assert answer.next_step == "ask anna, or: provisioner release node-5001 --by anna"

    def test_a_card_that_does_not_survive_a_stop_stays_where_it_is(self) -> None:
        _, answer = ask(with_a_running(), wanting(B), {A: node(A, stays="it would be lost", stays_next="reboot")})
        assert (answer.verdict, answer.next_step) == (Verdict.REFUSE, "reboot")


class TestProxmoxsWord:
    """What runs has its slots, whatever the page says."""

    def test_a_vm_that_we_did_not_start_is_adopted(self) -> None:
        page, answer = ask(LeasePage(), wanting(B), {A: node(A, uptime_seconds=10.0)})
        assert answer.verdict is Verdict.WAIT
        assert page.leases[SLOT].adopted
        assert page.leases[SLOT].vmid == A

    def test_a_vm_that_is_no_node_is_not_ours_to_shut_down(self) -> None:
        page = adopted(LeasePage(), [SLOT], STRANGER, "windows", now=0)
        _, answer = ask(page, wanting(B), {STRANGER: HolderSeen(STRANGER, "windows", Power.RUNNING)})
        assert answer.verdict is Verdict.REFUSE
        assert "windows (vm 200) has rtx3090 on pve1, and stays" in answer.reason
        assert "VM 200" in answer.next_step

    def test_a_vm_that_has_gone_off_by_itself_has_freed_its_slots(self) -> None:
        _, answer = ask(with_a_running(), wanting(B), {A: node(A, Power.STOPPED)})
        assert answer.verdict is Verdict.GRANT

    def test_a_vm_whose_power_is_unknown_keeps_its_slots(self) -> None:
        assert ask(with_a_running(), wanting(B), {A: node(A, Power.UNKNOWN)})[0].leases[SLOT].vmid == A

    def test_one_who_was_granted_is_overtaken_by_one_who_runs(self) -> None:
        page, late = granted(LeasePage(), [SLOT], B, "node-5002", owner="process-b", now=0)
        page = reconciled(page, Scene(page, {A: node(A), B: node(B, Power.STOPPED)}), NOW)
        assert page.leases[SLOT].vmid == A
        assert page.leases[SLOT].fence > late[0].fence

    def test_a_look_that_is_older_than_the_lease_says_nothing(self) -> None:
        before = with_a_running()
        page, leases = granted(LeasePage(fences=before.fences), [SLOT], B, "node-5002", owner="b", now=0)
        page = held(page, leases)
        # B was off when the look was made, and A ran; by now it is the other way round.
        old = Scene(before, {A: node(A), B: node(B, Power.STOPPED)})
        assert reconciled(page, old, NOW) == page

    def test_a_start_that_a_dead_process_had_sent_is_waited_for_until_it_cannot_arrive(self) -> None:
        page, leases = granted(LeasePage(), [SLOT], A, "node-5001", owner="process-a", now=0)
        page, dead = issuing(page, leases), frozenset({"process-a"})
        seen = {A: node(A, Power.STOPPED)}
        _, answer = ask(page, wanting(B), seen, dead=dead)
        assert answer.verdict is Verdict.WAIT
        assert "its start may still arrive" in answer.reason
        settled = frozenset({(SLOT, leases[0].fence)})
        starting = {A: node(A, Power.STOPPED, is_being_started=True)}
        assert ask(page, wanting(B), starting, dead=dead, settled=settled)[1].verdict is Verdict.WAIT
        assert ask(page, wanting(B), seen, dead=dead, settled=settled)[1].verdict is Verdict.GRANT

    def test_a_grant_of_a_dead_process_that_had_sent_nothing_is_free_at_once(self) -> None:
        page, _ = granted(LeasePage(), [SLOT], A, "node-5001", owner="process-a", now=0)
        _, answer = ask(page, wanting(B), {A: node(A, Power.STOPPED)}, dead=frozenset({"process-a"}))
        assert answer.verdict is Verdict.GRANT

    def test_a_shutdown_of_a_dead_process_is_taken_over(self) -> None:
        page = with_a_running()
        page = freeing(page, page.leases_of([SLOT]), owner="process-x", wanted_by="node-5003")
        late = page.leases[SLOT]
        assert ask(page, wanting(B), {A: node(A)})[1].verdict is Verdict.WAIT
        page, answer = ask(page, wanting(B), {A: node(A)}, dead=frozenset({"process-x"}))
        assert answer.verdict is Verdict.YIELD
        assert page.leases[SLOT].fence > late.fence

    def test_who_is_being_shut_down_starts_again_after_that(self) -> None:
        page = with_a_running()
        page = freeing(page, page.leases_of([SLOT]), owner="process-x", wanted_by="node-5003")
        _, answer = ask(page, wanting(A), {A: node(A)})
        assert answer.verdict is Verdict.WAIT
        assert answer.reason == "it is being shut down for node-5003, and starts again after that"
