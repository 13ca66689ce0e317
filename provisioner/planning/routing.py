"""Which node serves a request, when the fallback does, and whether a wake is wanted; each with its reason. Pure.

A request for a model is offered to nodes in this order: one that is ready and
least loaded; one that is on its way; one that sleeps and costs least to wake.
A fallback answers with another model, so it comes in only where the mode says
so, or where nobody else can ever answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.in_flight import NO_TRAFFIC, NodeTraffic
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.quantities import duration_text
from provisioner.domain.routing_policy import Away
from provisioner.domain.serving import NodeNow, Phase

# Of one that goes to sleep, and of one of which nothing is known, waiting means that it is started.
_NEEDS_A_WAKE = (Phase.ASLEEP, Phase.DRAINING, Phase.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may serve a request.

    `model` is what its engine calls the model. `mode` is the one in which it
    serves it. `room` is how many requests its engine works on at once.
    `stands_in` means that it answers with another model than was asked for.
    `trouble` says why it is avoided though it passes for ready; empty for none.
    """

    now: NodeNow
    mode: ModeName
    model: str
    has_gpu: bool = True
    room: int = 1
    stands_in: bool = False
    traffic: NodeTraffic = NO_TRAFFIC
    trouble: str = ""

    @property
    def node(self) -> NodeName:
        """Which."""
        return self.now.node

    @property
    def is_in_mode(self) -> bool:
        """The node is used for this now; without a note it is taken to be."""
        return self.now.mode is None or self.now.mode == self.mode

    @property
    def is_ready(self) -> bool:
        """A request may go there this moment."""
        return self.now.phase is Phase.READY and self.is_in_mode and self.traffic.is_open and not self.trouble

    @property
    def load(self) -> float:
        """Requests for each that it works on at once."""
        return self.traffic.running / max(self.room, 1)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants beside its model: the mode's policy, as far as the caller has not overruled it.

    `tried` are the nodes that have failed this very request before its first
    byte. `may_wake` is False for who may only use what is awake.
    """

    model: str
    away: Away = Away.WAIT
    prefers_gpu: bool = False
    may_wake: bool = True
    tried: frozenset[NodeName] = frozenset()


class Way(Enum):
    """What becomes of a request now."""

    SEND = "send"
    WAIT = "wait"
    REFUSE = "refuse"


class Refusal(Enum):
    """Why a request is refused, as far as a client must tell apart."""

    NOBODY = "nobody"
    """Nobody can serve it now."""
    MAY_NOT_WAKE = "may not wake"
    """Somebody could after a wake, and this request asks for none."""


@dataclass(frozen=True, slots=True)
class Route:
    """The decision.

    SEND goes to `node` now; WAIT is for `node` to be woken, then ask again;
    REFUSE names no node. `wake` is a node to wake beside a SEND.
    """

    way: Way
    reason: str
    node: NodeName | None = None
    model: str = ""
    is_fallback: bool = False
    wake: NodeName | None = None
    refusal: Refusal | None = None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for the API."""
        return {
            "way": self.way.value,
            "reason": self.reason,
            "node": self.node,
            "model": self.model,
            "fallback": self.is_fallback,
            "wake": self.wake,
        }


def route(ask: Ask, candidates: Sequence[Candidate]) -> Route:
    """Decide where a request goes.

    Args:
        ask: the request.
        candidates: who may serve it, in the order of the fleet file; those that stand in among them.
    """
    own = [each for each in candidates if not each.stands_in]
    with_gpu = [each for each in own if each.has_gpu and _can_come(each)]
    wanted = with_gpu if ask.prefers_gpu and with_gpu else own
    ready = [each for each in wanted if each.is_ready and each.node not in ask.tried]
    if ready:
        best = min(ready, key=lambda each: (each.load, not each.has_gpu, each.traffic.running))
        return _send(best, _why_ready(best, ready, wanted))
    comes = sorted((each for each in wanted if _can_come(each)), key=lambda each: _cost(each, ask))
    stand_ins = [each for each in candidates if each.stands_in]
    substitute = min(
        (each for each in stand_ins if each.is_ready and each.node not in ask.tried),
        key=lambda each: (each.load, each.traffic.running),
        default=None,
    )
    if substitute is not None and (ask.away is not Away.WAIT or not comes):
        wake = comes[0] if comes and ask.away is Away.FALLBACK_AND_WAKE and ask.may_wake else None
        why = f'it answers with "{substitute.model}" because {_why_away(own)}'
        beside = f"; {wake.node} is woken for the next" if wake is not None and not _is_ready_again(wake) else ""
        return _send(substitute, why + beside, wake=wake.node if wake is not None else None)
    comes = comes or sorted((each for each in stand_ins if _can_come(each)), key=lambda each: _cost(each, ask))
    if not comes:
        return Route(Way.REFUSE, _why_away(candidates), refusal=Refusal.NOBODY)
    first = comes[0]
    if not ask.may_wake and first.now.phase in _NEEDS_A_WAKE:
        why = f"{first.node} would have to be woken ({first.now.reason}), and the request says not to"
        return Route(Way.REFUSE, why, refusal=Refusal.MAY_NOT_WAKE)
    return Route(Way.WAIT, _why_wait(first), first.node, first.model, first.stands_in)


def _send(best: Candidate, reason: str, *, wake: NodeName | None = None) -> Route:
    return Route(Way.SEND, reason, best.node, best.model, best.stands_in, wake)


def _can_come(each: Candidate) -> bool:
    """Say whether waiting for it makes sense: it is not given away, gone, or in another mode."""
    return each.is_in_mode and each.now.phase not in (Phase.ABSENT, Phase.WITHHELD)


def _is_ready_again(each: Candidate) -> bool:
    return each.now.phase is Phase.READY and not each.trouble


def _cost(each: Candidate, ask: Ask) -> tuple[bool, int, bool, float]:
    """Order those that are not ready: what has failed last; then what is nearest; then what costs least to wake."""
    nearness = 3
    if each.now.phase.is_on_its_way:
        nearness = 0
    elif each.now.phase in (Phase.READY, Phase.DRAINING):
        # In trouble, or about to be off: it may come back sooner than a VM boots.
        nearness = 1
    elif each.now.phase is Phase.ASLEEP:
        nearness = 2
    left = each.now.seconds_left
    return (each.node in ask.tried, nearness, each.has_gpu, left if left is not None else float("inf"))


def _why_ready(best: Candidate, ready: Sequence[Candidate], wanted: Sequence[Candidate]) -> str:
    running = best.traffic.running
    words = "it is ready" + (f" with {running} request{'s' if running > 1 else ''} running" if running else "")
    if len(ready) > 1:
        words += f", the least loaded of {len(ready)}"
    if not best.has_gpu and any(each.has_gpu and each.now.phase is Phase.ASLEEP for each in wanted):
        words += "; no GPU is woken for a model that a running CPU node has"
    return words


def _why_wait(first: Candidate) -> str:
    if first.now.phase is Phase.READY and first.trouble:
        return f"it does not answer ({first.trouble}), and nobody else serves it"
    if first.now.phase is Phase.READY:
        return "it goes to sleep and is woken again"
    left = first.now.seconds_left
    about = f", about {duration_text(left)} to go" if left is not None else ""
    return f"it is {first.now.phase.value}: {first.now.reason}{about}"


def _why_away(candidates: Sequence[Candidate]) -> str:
    """Say of each why it cannot answer now."""
    words = []
    for each in candidates:
        if not each.is_in_mode:
            words.append(f'{each.node} is in mode "{each.now.mode}" (provisioner mode {each.node} {each.mode})')
        elif each.trouble:
            words.append(f"{each.node} does not answer: {each.trouble}")
        else:
            words.append(f"{each.node} is {each.now.phase.value}: {each.now.reason}")
    return "; ".join(words) or "no node serves it"
