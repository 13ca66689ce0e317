"""Random schedules around shared GPUs: nothing overlaps, nobody waits for ever, and the simulation would notice."""

from __future__ import annotations

import pytest

from provisioner.planning import arbiter
from provisioner.services import arbitration, slot_taking
from tests.simulation import gpu_schedules
from tests.simulation.cluster import SimTicket
from tests.simulation.gpu_schedules import run

FIRST = 1_000_000


@pytest.mark.parametrize("first", range(FIRST, FIRST + 300, 60))
def test_no_schedule_goes_wrong(first: int) -> None:
    wrong = {seed: outcome.wrongs for seed in range(first, first + 60) if (outcome := run(seed)).wrongs}
    assert not wrong, f"replay with: python -m tests.simulation.gpu_schedules {next(iter(wrong))}"


def test_a_seed_is_one_schedule() -> None:
    assert run(7, trace=True).trace == run(7, trace=True).trace


def test_much_happens_in_the_schedules() -> None:
    outcomes = [run(seed) for seed in range(40)]
    for count in ("granted", "joined", "told", "killed", "starts", "news"):
        assert sum(getattr(outcome, count) for outcome in outcomes) > 0, count


class TestTheSimulationNotices:
    """With one of the rules taken away, schedules go wrong."""

    def finds(self, words: str, seeds: range) -> bool:
        return any(words in wrong for seed in seeds for wrong in run(seed).wrongs)

    def test_a_start_without_a_look_at_its_fencing_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arbitration, "issuing", lambda page, leases: page)
        assert self.finds("was started while we ran", range(130, 200))

    def test_a_slot_that_is_given_on_while_a_dead_process_has_a_start_on_its_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slot_taking, "IN_FLIGHT_SECONDS", 0.0)
        assert self.finds("was started while we ran", range(130, 200))

    def test_a_start_that_passes_for_arrived_when_its_answer_got_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SimTicket, "may_still_arrive", False)
        assert self.finds("was started while we ran", range(700, 720))

    def test_a_look_that_is_older_than_the_lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arbiter, "_unchanged", lambda page, before, slot: True)
        assert self.finds("which we run, to", range(250))

    def test_slots_that_the_dead_never_give_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_schedules.SimBook, "is_alive", lambda book, owner: True)
        assert self.finds("at the end", range(20))
