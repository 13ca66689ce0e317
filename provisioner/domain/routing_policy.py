"""What a mode says about its requests: under which names they come, and what they do while its nodes sleep."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Away(Enum):
    """What a request does while none of the mode's own nodes is ready."""

    WAIT = "wait"
    """It waits for one; the fallback answers only when none can come."""
    FALLBACK = "fallback"
    """The fallback answers, and nothing is woken."""
    FALLBACK_AND_WAKE = "fallback-and-wake"
    """The fallback answers this one while a node is woken for the next."""


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """How requests find a mode.

    `aliases` are further names of its first model. `prefers_gpu` wakes a GPU
    although a node without one that serves the same is up.
    """

    aliases: tuple[str, ...] = ()
    away: Away = Away.WAIT
    prefers_gpu: bool = False
