"""The record of a request as a line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.metrics.line_protocol import line, tokens_per_second

ENTRY = LedgerEntry(
    1_800_000_000.25, "n8n", "/v1/chat/completions", "tiny", Outcome.ANSWERED, 200, 2.5, "llm-gpu-01",
    first_byte_seconds=0.5, tokens_in=12, tokens_out=100,
)  # fmt: skip


def test_a_request_is_one_line_with_its_time_in_nanoseconds() -> None:
    assert line(ENTRY, 0) == (
        "llm_request,caller=n8n,fallback=false,model=tiny,node=llm-gpu-01,outcome=answered "
        "request_time_ms=2500.000,success=true,status=200i,tries=1i,waited_ms=0.000,first_byte_ms=500.000,"
        "tokens_in=12i,tokens_out=100i,tokens_per_second=50.000 1800000000250000000"
    )


def test_two_that_came_in_the_same_moment_are_two_points() -> None:
    assert line(ENTRY, 7).split()[-1] != line(ENTRY, 8).split()[-1]


def test_what_is_not_known_is_left_out() -> None:
    entry = replace(ENTRY, node="", tokens_in=None, tokens_out=None, first_byte_seconds=None, outcome=Outcome.FAILED)
    found = line(entry, 0)
    assert "node=" not in found
    assert "tokens" not in found
    assert "success=false" in found


@pytest.mark.parametrize(
    ("model", "tag"),
    [
        ("a,b=c d", "model=a\\,b\\=c\\ d"),
        ("two\nlines", "model=two\\ lines"),
        ("ends\\", "model=ends"),
        ("\\", "model=-"),
        ("käse", "model=käse"),
    ],
)
def test_no_name_breaks_a_line(model: str, tag: str) -> None:
    found = line(replace(ENTRY, model=model), 0)
    assert f",{tag}," in found
    assert "\n" not in found


def test_tokens_that_came_in_one_piece_are_counted_over_the_time_with_the_engine() -> None:
    whole = replace(ENTRY, seconds=34.0, first_byte_seconds=34.0, waited_seconds=30.0)
    assert tokens_per_second(whole) == pytest.approx(25.0)
    assert tokens_per_second(replace(ENTRY, tokens_out=None)) is None
    assert tokens_per_second(replace(ENTRY, outcome=Outcome.FAILED)) is None
    assert tokens_per_second(replace(ENTRY, seconds=0.0, first_byte_seconds=0.0)) is None
