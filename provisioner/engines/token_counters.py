"""How many tokens an engine has made since it started, by its own metrics; Ollama and exo do not tell."""

from __future__ import annotations

from provisioner.engines import metrics_text
from provisioner.engines.base import AnswerUnreadable

_COUNTERS = ("llamacpp:tokens_predicted_total", "vllm:generation_tokens_total", "tgi_request_generated_tokens_sum")


def tokens_made(answer: str) -> float | None:
    """Return the count in an answer of an engine's `activity_path`, or None where there is none."""
    try:
        found = metrics_text.sums(answer, *_COUNTERS)
    except AnswerUnreadable:
        return None
    return next(iter(found.values()), None)
