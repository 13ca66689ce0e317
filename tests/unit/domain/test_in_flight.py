"""Gate and counters exclude each other."""

from __future__ import annotations

import threading

from provisioner.domain.in_flight import NO_TRAFFIC, InFlight, NodeTraffic
from provisioner.domain.names import NodeName

NODE = NodeName("llm-gpu-01")


class TestInFlight:
    def test_a_node_that_nobody_asked_has_no_traffic_and_an_open_gate(self) -> None:
        assert InFlight().of(NODE) == NO_TRAFFIC
        assert InFlight().all() == {}

    def test_requests_are_counted_while_they_run(self) -> None:
        flight = InFlight()
        assert flight.enter(NODE, 10.0)
        assert flight.enter(NODE, 11.0)
        flight.leave(NODE, 12.0)
        assert flight.of(NODE) == NodeTraffic(running=1, waiting=0, last_request_at=12.0)

    def test_a_closed_gate_lets_nobody_in_and_those_inside_go_on(self) -> None:
        flight = InFlight()
        assert flight.enter(NODE, 10.0)
        flight.close(NODE)
        assert not flight.enter(NODE, 11.0)
        assert flight.of(NODE) == NodeTraffic(running=1, last_request_at=10.0, is_open=False)
        flight.leave(NODE, 12.0)
        flight.open(NODE)
        assert flight.enter(NODE, 13.0)

    def test_a_gate_that_two_have_closed_is_opened_by_both(self) -> None:
        flight = InFlight()
        flight.close(NODE)
        flight.close(NODE)
        flight.open(NODE)
        assert not flight.enter(NODE, 10.0)
        flight.open(NODE)
        assert flight.enter(NODE, 11.0)

    def test_no_more_wait_than_may(self) -> None:
        flight = InFlight()
        assert [flight.start_waiting(NODE, 1.0, most=2) for _ in range(3)] == [True, True, False]
        flight.stop_waiting(NODE)
        assert flight.start_waiting(NODE, 2.0, most=2)
        assert flight.of(NODE).is_busy

    def test_after_the_gate_is_closed_the_count_never_grows(self) -> None:
        flight = InFlight()
        entered = [0] * 4
        closed = threading.Event()

        def knock(place: int) -> None:
            while not closed.is_set() or flight.enter(NODE, 0.0):
                entered[place] += flight.enter(NODE, 0.0)

        threads = [threading.Thread(target=knock, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        flight.close(NODE)
        inside = flight.of(NODE).running
        closed.set()
        for thread in threads:
            thread.join()
        assert flight.of(NODE).running == inside
