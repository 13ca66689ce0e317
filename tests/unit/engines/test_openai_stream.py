"""Pieces of streamed replies, as engines send them."""

from __future__ import annotations

import json

import pytest

from provisioner.engines.base import AnswerUnreadable
from provisioner.engines.openai_stream import Piece, read_piece, streamed_chat


def event(document: object) -> str:
    return f"data: {json.dumps(document)}"


@pytest.mark.parametrize(
    ("line", "piece"),
    [
        ("", None),
        (": keep-alive", None),
        ("event: message", None),
        ("data:", None),
        (event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}), Piece()),
        (event({"choices": [{"delta": {"role": "assistant", "content": None}}]}), Piece()),
        (event({"choices": [{"delta": {"content": "a"}}]}), Piece(has_text=True)),
        (event({"choices": [{"delta": {"reasoning_content": "hm"}}]}), Piece(has_text=True)),
        (event({"choices": [{"delta": {"reasoning": "hm", "content": None}}]}), Piece(has_text=True)),
        (event({"choices": [{"text": "a", "index": 0}]}), Piece(has_text=True)),
        (event({"choices": [{"delta": {}, "finish_reason": "stop"}]}), Piece()),
        (event({"choices": [], "usage": {"completion_tokens": 12}}), Piece(tokens=12)),
        (event({"choices": [{"delta": {"content": "a"}}], "usage": None}), Piece(has_text=True)),
        ("data: [DONE]", Piece(is_end=True)),
        ("data:[DONE]", Piece(is_end=True)),
    ],
)
def test_a_line_is_read(line: str, piece: Piece | None) -> None:
    assert read_piece(line) == piece


@pytest.mark.parametrize("line", ["data: nonsense", "data: [1]", event({"choices": ["a"]})])
def test_nonsense_is_said_to_be_so(line: str) -> None:
    with pytest.raises(AnswerUnreadable, match="no event of a chat"):
        read_piece(line)


def test_an_error_inside_a_stream_is_told() -> None:
    with pytest.raises(AnswerUnreadable, match="out of memory"):
        read_piece(event({"error": {"message": "out of memory"}}))


def test_the_count_is_asked_for() -> None:
    request = streamed_chat("tiny.gguf", "hello", 8)
    assert request.path == "/v1/chat/completions"
    assert request.body is not None
    assert request.body["stream"] is True
    assert request.body["stream_options"] == {"include_usage": True}
