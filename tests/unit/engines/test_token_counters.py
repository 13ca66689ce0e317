"""Engines' own counts of tokens."""

from __future__ import annotations

import pytest

from provisioner.engines.token_counters import tokens_made


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ("llamacpp:tokens_predicted_total 12\nllamacpp:tokens_predicted_seconds_total 3\n", 12.0),
        (
            'vllm:generation_tokens_total{engine="0",model_name="a"} 5.0\n'
            'vllm:generation_tokens_total{engine="1",model_name="a"} 7.0\n',
            12.0,
        ),
        ("tgi_request_generated_tokens_sum 8\ntgi_request_generated_tokens_count 1\n", 8.0),
        ('{"models": []}', None),
        ("llamacpp:tokens_predicted_total many\n", None),
        ("", None),
    ],
)
def test_a_count_is_found_where_there_is_one(answer: str, count: float | None) -> None:
    assert tokens_made(answer) == count
