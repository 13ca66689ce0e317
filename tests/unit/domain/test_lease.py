"""The laws of leases: who may act, who is too late, how long a hold counts."""

from __future__ import annotations

import pytest

from provisioner.domain.lease import (
    GpuSlot,
    Hold,
    LeasePage,
    LeasePhase,
    adopted,
    freed,
    freeing,
    granted,
    held,
    holding,
    issuing,
    released,
)
from provisioner.domain.names import GpuName, HypervisorName, NodeName, Vmid
from provisioner.errors import OvertakenError, RefusedError

SLOT = GpuSlot(HypervisorName("pve1"), GpuName("rtx3090"))
OTHER = GpuSlot(HypervisorName("pve1"), GpuName("a4000"))
NODE = NodeName("llm-gpu-01")
ONE, TWO = Vmid(5001), Vmid(5002)


class TestFencing:
    """The number only grows, and acting with an old one is refused."""

    def test_each_grant_has_a_larger_number_also_after_the_slot_was_free(self) -> None:
        page, first = granted(LeasePage(), [SLOT], ONE, "one", owner="p", now=0)
        page, second = granted(freed(page, first), [SLOT], TWO, "two", owner="p", now=1)
        assert second[0].fence > first[0].fence

    def test_whoever_was_overtaken_is_refused_every_act(self) -> None:
        page, late = granted(LeasePage(), [SLOT], ONE, "one", owner="p", now=0)
        page = adopted(page, [SLOT], TWO, "two", now=1)
        for act in (issuing, held, freed):
            with pytest.raises(OvertakenError, match=r"two \(vm 5002\) has it, with number 2"):
                act(page, late)
        with pytest.raises(OvertakenError):
            freeing(page, late, owner="p")

    def test_whoever_comes_back_to_a_free_slot_is_refused_too(self) -> None:
        page, late = granted(LeasePage(), [SLOT], ONE, "one", owner="p", now=0)
        with pytest.raises(OvertakenError, match="it is free again"):
            held(freed(page, late), late)

    def test_one_who_shuts_down_is_overtaken_by_one_who_keeps_it_on(self) -> None:
        page, leases = granted(LeasePage(), [SLOT], ONE, "one", owner="p", now=0)
        page = freeing(held(page, leases), leases, owner="p")
        shutting = page.leases_of([SLOT])
        page = freeing(page, shutting, owner="q")
        with pytest.raises(OvertakenError):
            freed(page, shutting)

    def test_another_vm_never_gets_a_slot_that_is_taken(self) -> None:
        page, _ = granted(LeasePage(), [SLOT], ONE, "one", owner="p", now=0)
        with pytest.raises(RefusedError, match=r"one \(vm 5001\) has it"):
            granted(page, [OTHER, SLOT], TWO, "two", owner="p", now=0)

    def test_what_is_found_running_with_our_own_lease_keeps_its_number(self) -> None:
        page, leases = granted(LeasePage(), [SLOT], ONE, "one", owner="p", now=0)
        page = adopted(page, [SLOT], ONE, "one", now=5)
        assert page.leases[SLOT].phase is LeasePhase.HELD
        assert held(page, leases) == page


class TestHolds:
    """A person's word, until its time is over."""

    def test_a_second_hold_by_the_same_person_replaces_the_first(self) -> None:
        page = holding(LeasePage(), Hold(NODE, "anna", 0, 100))
        page = holding(page, Hold(NODE, "anna", 10, 50))
        page = holding(page, Hold(NODE, "bert", 10, 200))
        assert [(hold.by, hold.until) for hold in page.holds_on(NODE, 20)] == [("bert", 200), ("anna", 50)]

    def test_a_hold_ends_at_its_time_and_survives_a_clock_that_is_set_back(self) -> None:
        page = holding(LeasePage(), Hold(NODE, "anna", 1000, 2000))
        assert page.holds_on(NODE, 1999.9)
        assert page.holds_on(NODE, 10)
        assert not page.holds_on(NODE, 2000)

    def test_releasing_drops_ones_own_and_what_is_over(self) -> None:
        page = holding(LeasePage(), Hold(NODE, "anna", 0, 100))
        page = holding(page, Hold(NODE, "bert", 0, 100))
        page = holding(page, Hold(NodeName("other"), "carl", 0, 5))
        assert [hold.by for hold in released(page, NODE, "anna", now=10).holds] == ["bert"]
        assert released(page, NODE, None, now=1).holds == (Hold(NodeName("other"), "carl", 0, 5),)
