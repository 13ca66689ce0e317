"""From the times of single tokens to the figures of a level, and to a verdict beside earlier ones. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.measurement import LevelFigures, MeasuredThing, Reply

# Fewer tokens than that in a reply say nothing about a rate.
_FEWEST_TOKENS = 3


def measured_thing(fleet: FleetSpec, node: NodeSpec, kind: str) -> MeasuredThing:
    """Return what a measurement of a node, as it is wanted now, is of."""
    mode = fleet.mode_of(node)
    setup = repr((mode, fleet.engines.get(mode.engine), node.gpus, node.cores))
    return MeasuredThing(node.name, mode.name, hashlib.sha256(setup.encode()).hexdigest()[:12], kind)


def level_figures(streams: int, replies: Sequence[Reply]) -> LevelFigures:
    """Return the figures of one level.

    Args:
        streams: how many replies were under way at once.
        replies: all of them, in any order; at least one has a token.
    """
    with_tokens = [reply for reply in replies if reply.times]
    begun = min(reply.asked_at for reply in replies)
    ended = max(reply.times[-1] for reply in with_tokens)
    with_tokens = _recounted(with_tokens)
    tokens = sum(reply.tokens for reply in with_tokens)
    first = sorted(reply.times[0] - reply.asked_at for reply in with_tokens)
    rates = sorted(filter(None, map(rate, with_tokens)))
    return LevelFigures(
        streams=streams,
        replies=len(with_tokens),
        tokens=tokens,
        seconds=ended - begun,
        first_token_p50=quantile(first, 0.5),
        first_token_p95=quantile(first, 0.95),
        rate_p50=quantile(rates, 0.5) if rates else 0.0,
        rate_p5=quantile(rates, 0.05) if rates else 0.0,
        total_rate=tokens / (ended - begun) if ended > begun else 0.0,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of the ordered values lies, between neighbours where it falls there."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _recounted(replies: list[Reply]) -> list[Reply]:
    """Return the replies, those that were cut off with the tokens that their pieces held by the measure of the others.

    An engine may put several tokens into a piece, and tells how many only with a reply's end.
    """
    whole = [reply for reply in replies if reply.ended]
    if not whole:
        return replies
    per_piece = sum(reply.tokens for reply in whole) / sum(len(reply.times) for reply in whole)
    return [reply if reply.ended else replace(reply, tokens=len(reply.times) * per_piece) for reply in replies]


def rate(reply: Reply) -> float | None:
    """Return the tokens per second after the first one; None where there is too little to tell."""
    seconds = reply.times[-1] - reply.times[0]
    if reply.tokens < _FEWEST_TOKENS or seconds <= 0:
        return None
    return (reply.tokens - 1) / seconds
