"""Versions that can be put in order: ``0.6.4.post1``, ``v0.19.1+cu129``, ``b10884``, ``0.33.0-rc2``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_CANDIDATE, _RELEASE, _POST = -1, 0, 1
_FORM = re.compile(r"[vb]?(\d+(?:\.\d+)*)(?:[.-]?(a|b|rc|dev|alpha|beta|post)[.-]?(\d*))?(?:[+-].*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version; equal ones may be written differently, and a local part such as ``+cu129`` does not count."""

    numbers: tuple[int, ...]
    stage: int = _RELEASE
    step: int = 0
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text


def version_of(text: str) -> Version | None:
    """Read a version; None when it has not the form of one, and then nothing can be said of it."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    numbers = tuple(int(part) for part in found[1].split("."))
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers = numbers[:-1]
    mark = (found[2] or "").lower()
    stage = _RELEASE if not mark else _POST if mark == "post" else _CANDIDATE
    return Version(numbers, stage, int(found[3] or 0) if mark else 0, text.strip())
