"""Streamed replies of the OpenAI API, which every engine here speaks alike: events of one JSON object each."""

from __future__ import annotations

import json
from dataclasses import dataclass

from provisioner.engines.base import AnswerUnreadable, JsonRequest

# Where engines put what they generate: the answer, and the thoughts of models that think aloud.
_PARTS = ("content", "reasoning_content", "reasoning", "text")


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream. `has_text` means that at least one token came; `tokens` is the engine's count so far."""

    has_text: bool = False
    tokens: int | None = None
    is_end: bool = False


def streamed_chat(model: str, prompt: str, max_tokens: int) -> JsonRequest:
    """Return a ``POST /v1/chat/completions`` whose reply comes token by token, its count with the last."""
    return JsonRequest(
        "/v1/chat/completions",
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )


def read_piece(line: str) -> Piece | None:
    """Read one line of the stream; None for comments and empty lines. Raises AnswerUnreadable."""
    field, _, value = line.partition(":")
    if field != "data" or not value.strip():
        return None
    if value.strip() == "[DONE]":
        return Piece(is_end=True)
    try:
        event = json.loads(value)
        if event.get("error"):
            raise AnswerUnreadable(f"the stream broke off: {str(event['error'])[:200]}")
        choices = event.get("choices") or []
        delta = (choices[0].get("delta") or choices[0]) if choices else {}
        usage = (event.get("usage") or {}).get("completion_tokens")
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise AnswerUnreadable(f"no event of a chat: {line[:200]}") from error
    return Piece(any(delta.get(part) for part in _PARTS), usage if isinstance(usage, int) else None)
