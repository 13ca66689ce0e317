"""Versions as numbers, so that "since 0.20" can be asked. What is no version of that form is newer than all."""

from __future__ import annotations

import re


def numbers(version: str) -> tuple[int, ...]:
    """Return ``(0, 19, 1)`` for ``0.19.1``, ``v0.19.1`` and ``0.19.1.post2``; ``()`` when there are no numbers."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else ()
