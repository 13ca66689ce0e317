"""Engines' journals in, named causes out."""

from __future__ import annotations

import pytest

from provisioner.planning.engine_diagnosis import Silence, causes, diagnose
from tests.unit.planning.engine_journals import JOURNALS, Recorded

HEALTHY = """\
Started llm-small.service - llama.cpp server (tiny.gguf).
main: server is listening on http://0.0.0.0:8080 - starting the main loop
srv  update_slots: all slots are idle
"""


def silence(engine: str = "llama.cpp") -> Silence:
    return Silence("llm-gpu-01", engine, "llm-small.service", "Qwen/Qwen2.5-7B-Instruct", 8080)


@pytest.mark.parametrize(
    "recorded", JOURNALS, ids=[f"{index:02} {each.cause} {each.engine}" for index, each in enumerate(JOURNALS)]
)
def test_a_recorded_journal_shows_its_cause(recorded: Recorded) -> None:
    found = diagnose(recorded.journal, silence(recorded.engine))
    assert found is not None
    assert found.cause == recorded.cause
    assert found.evidence in recorded.journal
    assert recorded.says in f"{found.sentence} {found.next_step}"


@pytest.mark.parametrize("recorded", JOURNALS, ids=lambda each: each.cause)
def test_every_diagnosis_reads_as_a_sentence_and_says_what_to_type(recorded: Recorded) -> None:
    found = diagnose(recorded.journal, silence(recorded.engine))
    assert found is not None
    assert "{" not in found.sentence + found.next_step
    assert not found.sentence.endswith((":", ".", " "))
    assert "llm-gpu-01" in found.next_step or "fleet file" in found.next_step


def test_every_cause_that_can_be_told_has_a_recorded_journal() -> None:
    assert set(causes()) == {recorded.cause for recorded in JOURNALS}


def test_a_healthy_journal_shows_no_cause() -> None:
    assert diagnose(HEALTHY, silence()) is None
    assert diagnose("", silence()) is None


def test_what_an_earlier_deployment_died_of_is_history() -> None:
    attempt = "Started llm-small.service - llama.cpp.\n{}\n"
    journal = (
        attempt.format("cudaMalloc failed: out of memory")
        + attempt.format("error: invalid argument: --mlock")
        + attempt.format("")
    )
    found = diagnose(journal, silence())
    assert found is not None
    assert found.cause == "argument_unknown"


def test_the_last_line_that_shows_the_cause_is_the_evidence() -> None:
    found = diagnose("error: invalid argument: --old\nerror: invalid argument: --new\n", silence())
    assert found is not None
    assert found.evidence == "error: invalid argument: --new"


def test_very_long_lines_are_cut() -> None:
    found = diagnose("x" * 5000 + " address already in use", silence())
    assert found is not None
    assert len(found.evidence) <= 300
