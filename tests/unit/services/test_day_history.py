"""The last day, read once and then only what is new."""

from __future__ import annotations

from provisioner.domain.day import Stretch
from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.domain.names import NodeName
from provisioner.services.day_history import DAY_SECONDS, DayHistory
from provisioner.services.journaling import Journal
from tests.fakes.clock import FakeClock
from tests.fakes.event_log import MemoryEventLog
from tests.fakes.serving import FakeLedger

ONE = NodeName("llm-gpu-01")
HOUR = 3600.0


class Site:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = MemoryEventLog()
        self.ledger = FakeLedger()
        self.history = DayHistory(Journal(self.log, self.clock), self.ledger, self.clock)

    def state(self, phase: str, *, ago: float = 0.0) -> None:
        self.log.add(NewEntry(Kind.STATE, ONE, phase), self.clock.now() - ago)

    def request(self, *, ago: float, seconds: float, waited: float = 0.0) -> None:
        self.ledger.add(
            LedgerEntry(
                self.clock.now() - ago, "me", "/", "m", Outcome.ANSWERED, 200, seconds, ONE, waited_seconds=waited
            )
        )

    def hours(self) -> dict[str, float]:
        day = self.history.days([ONE])[ONE]
        return {what.value: day.seconds(what) / HOUR for what in Stretch if day.seconds(what)}


def test_the_day_begins_with_what_was_seen_before_it_however_long_ago() -> None:
    site = Site()
    site.state("asleep", ago=5 * DAY_SECONDS)
    site.state("ready", ago=6 * HOUR)
    assert site.hours() == {"asleep": 18.0, "awake": 6.0}


def test_what_happens_later_is_added_and_what_is_older_than_a_day_goes() -> None:
    site = Site()
    site.state("asleep", ago=10 * HOUR)
    assert site.hours() == {"unknown": 14.0, "asleep": 10.0}
    site.clock.advance(20 * HOUR)
    site.state("ready")
    site.clock.advance(2 * HOUR)
    assert site.hours() == {"asleep": 22.0, "awake": 2.0}
    site.clock.advance(30 * HOUR)
    assert site.hours() == {"awake": 24.0}
    assert len(site.history._by_node[ONE]) == 1


def test_a_request_is_served_from_the_end_of_its_wait_on() -> None:
    site = Site()
    site.state("ready", ago=DAY_SECONDS * 2)
    site.request(ago=2 * HOUR, seconds=HOUR, waited=HOUR / 2)
    assert site.hours() == {"awake": 23.5, "serving": 0.5}
    # It came before the one that is known already, and was written down after it.
    site.request(ago=3 * HOUR, seconds=HOUR / 2)
    assert site.hours() == {"awake": 23.0, "serving": 1.0}


def test_the_time_without_a_service_is_unknown() -> None:
    site = Site()
    for ago, phase in ((12 * HOUR, "started"), (9 * HOUR, "ended"), (3 * HOUR, "started")):
        site.log.add(NewEntry(Kind.SERVICE, None, phase), site.clock.now() - ago)
        if phase == "started":
            site.state("ready", ago=ago)
    assert site.hours() == {"unknown": 18.0, "awake": 6.0}


def test_steps_begin_at_round_moments_and_end_with_the_one_that_goes_on() -> None:
    site = Site()
    site.request(ago=0, seconds=1)
    site.request(ago=60, seconds=1)
    found = site.history.steps(count=3, seconds=60)
    assert [each.begins % 60 for each in found] == [0, 0, 0]
    assert [each.requests for each in found] == [0, 1, 1]
    assert [each.requests for each in site.history.steps(count=3, seconds=60, node=NodeName("other"))] == [0, 0, 0]


def test_an_outage_that_began_before_the_day_is_unknown_up_to_its_end() -> None:
    site = Site()
    site.state("ready", ago=40 * HOUR)
    site.log.add(NewEntry(Kind.SERVICE, None, "ended"), site.clock.now() - 30 * HOUR)
    assert site.hours() == {"unknown": 24.0}
    site = Site()
    site.state("ready", ago=40 * HOUR)
    for ago, phase in ((30 * HOUR, "ended"), (6 * HOUR, "started")):
        site.log.add(NewEntry(Kind.SERVICE, None, phase), site.clock.now() - ago)
    site.state("asleep", ago=6 * HOUR)
    assert site.hours() == {"unknown": 18.0, "asleep": 6.0}
