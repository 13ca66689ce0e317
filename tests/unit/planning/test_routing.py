"""Which node serves a request, as tables: what is seen in, one decision out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.in_flight import NodeTraffic
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.routing_policy import Away
from provisioner.domain.serving import NodeNow, Phase
from provisioner.planning.routing import Ask, Candidate, Refusal, Way, route

CHAT = ModeName("chat")
ASK = Ask("llama")


def node(
    name: str,
    phase: Phase = Phase.READY,
    *,
    running: int = 0,
    room: int = 1,
    gpu: bool = True,
    stands_in: bool = False,
    trouble: str = "",
    mode: str = "chat",
    left: float | None = None,
    is_open: bool = True,
) -> Candidate:
    return Candidate(
        NodeNow(NodeName(name), phase, f"{phase.value} since noon", ModeName(mode), seconds_left=left),
        CHAT,
        "tiny" if stands_in else "llama",
        has_gpu=gpu,
        room=room,
        stands_in=stands_in,
        traffic=NodeTraffic(running=running, is_open=is_open),
        trouble=trouble,
    )


class TestAmongReadyNodes:
    def test_the_least_loaded_serves(self) -> None:
        found = route(ASK, [node("a", running=2), node("b", running=1), node("c", running=3)])
        assert (found.way, found.node, found.wake) == (Way.SEND, "b", None)
        assert found.reason == "it is ready with 1 request running, the least loaded of 3"

    def test_load_is_counted_for_each_request_that_an_engine_works_on_at_once(self) -> None:
        assert route(ASK, [node("a", running=3, room=8), node("b", running=1, room=1)]).node == "a"

    def test_a_gpu_that_is_awake_anyway_goes_before_a_cpu(self) -> None:
        assert route(ASK, [node("cpu", gpu=False), node("gpu")]).node == "gpu"

    def test_equal_ones_serve_in_the_order_of_the_file(self) -> None:
        assert route(ASK, [node("a"), node("b")]).node == "a"

    @pytest.mark.parametrize(
        "other",
        [
            node("a", Phase.STARTING),
            node("a", trouble="refused"),
            node("a", mode="code"),
            node("a", is_open=False),
            node("a", Phase.UNKNOWN),
        ],
        ids=["starting", "in trouble", "in another mode", "gate closed", "unknown"],
    )
    def test_one_that_is_not_ready_is_passed_over(self, other: Candidate) -> None:
        assert route(ASK, [other, node("b", running=9)]).node == "b"

    def test_one_that_failed_this_request_is_not_asked_again(self) -> None:
        tried = replace(ASK, tried=frozenset({NodeName("a")}))
        assert route(tried, [node("a"), node("b", running=5)]).node == "b"


class TestWaking:
    def test_a_sleeping_node_is_waited_for(self) -> None:
        found = route(ASK, [node("a", Phase.ASLEEP, left=90.0)])
        assert (found.way, found.node) == (Way.WAIT, "a")
        assert found.reason == "it is asleep: asleep since noon, about 1 min 30 s to go"

    def test_one_on_its_way_goes_before_one_that_sleeps(self) -> None:
        assert route(ASK, [node("a", Phase.ASLEEP, left=5.0), node("b", Phase.LOADING)]).node == "b"

    def test_of_two_that_sleep_the_one_without_gpu_is_woken(self) -> None:
        assert route(ASK, [node("gpu", Phase.ASLEEP), node("cpu", Phase.ASLEEP, gpu=False)]).node == "cpu"

    def test_a_running_cpu_node_saves_a_gpu_from_being_woken(self) -> None:
        found = route(ASK, [node("gpu", Phase.ASLEEP), node("cpu", gpu=False)])
        assert (found.way, found.node) == (Way.SEND, "cpu")
        assert "no GPU is woken" in found.reason

    def test_unless_a_gpu_is_preferred(self) -> None:
        found = route(replace(ASK, prefers_gpu=True), [node("gpu", Phase.ASLEEP), node("cpu", gpu=False)])
        assert (found.way, found.node) == (Way.WAIT, "gpu")

    def test_a_preference_for_a_gpu_that_is_given_away_is_none(self) -> None:
        found = route(replace(ASK, prefers_gpu=True), [node("gpu", Phase.WITHHELD), node("cpu", gpu=False)])
        assert (found.way, found.node) == (Way.SEND, "cpu")

    def test_a_node_going_to_sleep_is_waited_for(self) -> None:
        found = route(ASK, [node("a", Phase.READY, is_open=False)])
        assert (found.way, found.node, found.reason) == (Way.WAIT, "a", "it goes to sleep and is woken again")

    def test_the_only_node_is_waited_for_though_it_failed(self) -> None:
        found = route(replace(ASK, tried=frozenset({NodeName("a")})), [node("a", trouble="connection refused")])
        assert (found.way, found.node) == (Way.WAIT, "a")
        assert "connection refused" in found.reason

    @pytest.mark.parametrize("phase", [Phase.ASLEEP, Phase.DRAINING, Phase.UNKNOWN])
    def test_who_may_not_wake_is_told_so(self, phase: Phase) -> None:
        found = route(replace(ASK, may_wake=False), [node("a", phase)])
        assert (found.way, found.refusal) == (Way.REFUSE, Refusal.MAY_NOT_WAKE)
        assert "the request says not to" in found.reason

    def test_who_may_not_wake_may_join_a_wake(self) -> None:
        assert route(replace(ASK, may_wake=False), [node("a", Phase.BOOTING)]).way is Way.WAIT


class TestTheFallback:
    def test_it_stands_back_while_a_node_can_come(self) -> None:
        found = route(ASK, [node("gpu", Phase.ASLEEP), node("cpu", stands_in=True, gpu=False)])
        assert (found.way, found.node) == (Way.WAIT, "gpu")

    def test_it_answers_at_once_where_the_mode_says_so(self) -> None:
        ask = replace(ASK, away=Away.FALLBACK)
        found = route(ask, [node("gpu", Phase.ASLEEP), node("cpu", stands_in=True, gpu=False)])
        assert (found.way, found.node, found.is_fallback, found.wake) == (Way.SEND, "cpu", True, None)
        assert found.reason == 'it answers with "tiny" because gpu is asleep: asleep since noon'

    def test_it_answers_while_the_gpu_is_woken_where_the_mode_says_so(self) -> None:
        ask = replace(ASK, away=Away.FALLBACK_AND_WAKE)
        found = route(ask, [node("gpu", Phase.ASLEEP), node("cpu", stands_in=True, gpu=False)])
        assert (found.way, found.node, found.is_fallback, found.wake) == (Way.SEND, "cpu", True, "gpu")

    def test_a_caller_who_may_not_wake_wakes_nothing_beside_it(self) -> None:
        ask = replace(ASK, away=Away.FALLBACK_AND_WAKE, may_wake=False)
        assert route(ask, [node("gpu", Phase.ASLEEP), node("cpu", stands_in=True, gpu=False)]).wake is None

    @pytest.mark.parametrize("phase", [Phase.WITHHELD, Phase.ABSENT])
    def test_it_answers_when_nobody_else_can_come(self, phase: Phase) -> None:
        found = route(ASK, [node("gpu", phase), node("cpu", stands_in=True, gpu=False)])
        assert (found.way, found.node, found.is_fallback) == (Way.SEND, "cpu", True)

    def test_it_is_woken_when_nobody_else_can_come(self) -> None:
        found = route(ASK, [node("gpu", Phase.WITHHELD), node("cpu", Phase.ASLEEP, stands_in=True, gpu=False)])
        assert (found.way, found.node, found.is_fallback) == (Way.WAIT, "cpu", True)

    def test_a_ready_node_goes_before_it_whatever_the_mode_says(self) -> None:
        ask = replace(ASK, away=Away.FALLBACK)
        assert not route(ask, [node("gpu", running=50), node("cpu", stands_in=True, gpu=False)]).is_fallback


class TestRefusing:
    def test_every_node_is_named_with_its_reason(self) -> None:
        found = route(ASK, [node("a", Phase.WITHHELD), node("b", mode="code"), node("c", Phase.ABSENT)])
        assert (found.way, found.refusal) == (Way.REFUSE, Refusal.NOBODY)
        assert found.reason == (
            'a is withheld: withheld since noon; b is in mode "code" (provisioner mode b chat); c is absent: absent '
            "since noon"
        )

    def test_without_nodes(self) -> None:
        assert route(ASK, []).reason == "no node serves it"
