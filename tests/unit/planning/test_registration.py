"""When an orchestrator is told again, and in which words people hear of it."""

from __future__ import annotations

import pytest

from provisioner.domain.orchestrator import OrchestratorName, Registration
from provisioner.planning.registration import (
    LONGEST_PAUSE_SECONDS,
    LOOK_AGAIN_SECONDS,
    failed,
    is_due,
    pause_seconds,
    words,
)

NAME = OrchestratorName("n8n")
NOW = 1_800_000_000.0
NEVER = Registration(NAME)
KNOWN = Registration(NAME, ("a", "b"), NOW)
FAILING = failed(KNOWN, "connection refused", NOW)


@pytest.mark.parametrize(
    ("registration", "nodes", "now", "due"),
    [
        (NEVER, (), NOW, False),
        (NEVER, ("a",), NOW, True),
        (KNOWN, ("b", "a"), NOW + 1, False),
        (KNOWN, ("a",), NOW + 1, True),
        (KNOWN, (), NOW + 1, True),
        (KNOWN, ("a", "b"), NOW + LOOK_AGAIN_SECONDS, True),
        (KNOWN, ("a", "b"), NOW - 3600, True),
        (FAILING, ("a",), NOW + 1, False),
        (FAILING, ("a", "b"), NOW + 5, True),
        (FAILING, ("a",), NOW - 3600, True),
    ],
)
def test_it_is_told_when_nodes_changed_after_a_pause_and_now_and_then(
    registration: Registration, nodes: tuple[str, ...], now: float, due: bool
) -> None:
    assert is_due(registration, nodes, now) is due


def test_pauses_grow_and_have_an_end() -> None:
    pauses = [pause_seconds(tries) for tries in range(1, 200)]
    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_a_day_of_failures_is_no_storm() -> None:
    registration, now, tries = KNOWN, NOW, 0
    while now < NOW + 86_400:
        if is_due(registration, ("a", "b", "c"), now):
            registration, tries = failed(registration, "down", now), tries + 1
        now += 1
    assert tries < 160
    assert registration.failing_since == NOW


def test_words_name_the_nodes_since_when_and_why() -> None:
    assert words(KNOWN, "n8n", ["a", "b"]) == ""
    assert words(NEVER, "n8n", []) == ""
    assert words(KNOWN, "n8n", ["a", "c"]) == "c not registered at n8n yet; next: provisioner register"
    said = words(FAILING, "n8n", ["a", "c"])
    assert said.startswith("c not registered at n8n since 20")
    assert said.endswith("(1 try): connection refused")
