"""Reads the JSON that engines answer."""

from __future__ import annotations

import json
from typing import Any

from provisioner.engines.base import AnswerUnreadable


def document_of(answer: str) -> Any:
    """Return what an answer holds. Raises AnswerUnreadable."""
    try:
        return json.loads(answer)
    except ValueError as error:
        raise AnswerUnreadable(f"no JSON: {answer[:200]}") from error
