"""The part of the OpenAI API that every engine here speaks alike."""

from __future__ import annotations

import json
from typing import Any

from provisioner.engines.base import AnswerUnreadable, JsonRequest


def served_models(answer: str) -> tuple[str, ...]:
    """Read ``GET /v1/models``."""
    try:
        return tuple(str(entry["id"]) for entry in _document(answer)["data"])
    except (KeyError, TypeError) as error:
        raise AnswerUnreadable(f"no list of models in: {answer[:200]}") from error


def chat(model: str, prompt: str, max_tokens: int) -> JsonRequest:
    """Return a ``POST /v1/chat/completions`` without streaming."""
    messages = [{"role": "user", "content": prompt}]
    return JsonRequest("/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": max_tokens})


def chat_reply(answer: str) -> str:
    """Read the text of a chat completion. An empty reply is a reply: a first token may be the end."""
    try:
        return str(_document(answer)["choices"][0]["message"]["content"] or "")
    except (KeyError, TypeError, IndexError) as error:
        raise AnswerUnreadable(f"no chat reply in: {answer[:200]}") from error


def _document(answer: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError as error:
        raise AnswerUnreadable(f"no JSON: {answer[:200]}") from error
