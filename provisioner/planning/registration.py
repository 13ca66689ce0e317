"""When an orchestrator is told again, and what people are told of that. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from provisioner.domain.orchestrator import Registration

# The first try after a failure comes soon, for a restart takes seconds; one that stays away is asked every ten minutes.
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 600.0
# What somebody deletes there by hand is found missing within this.
LOOK_AGAIN_SECONDS = 600.0
_MOST_DOUBLINGS = 10


def pause_seconds(tries: int) -> float:
    """Return how long to wait after so many failures in a row."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(max(tries - 1, 0), _MOST_DOUBLINGS), LONGEST_PAUSE_SECONDS)


def is_due(registration: Registration, nodes: Collection[str], now: float) -> bool:
    """Say whether to tell an orchestrator of these nodes now."""
    # A clock that was set back must not put it off for ever.
    waits = registration.next_try_at > now and registration.next_try_at - now <= LONGEST_PAUSE_SECONDS
    if registration.failing_since is not None:
        return not waits
    if set(registration.nodes) != set(nodes):
        return True
    return not 0 <= now - registration.at < LOOK_AGAIN_SECONDS and bool(registration.at or nodes)


def failed(registration: Registration, reason: str, now: float) -> Registration:
    """Return what is remembered after a try that failed."""
    tries = registration.tries + 1
    return replace(
        registration,
        failing_since=registration.failing_since if registration.failing_since is not None else now,
        reason=reason,
        tries=tries,
        next_try_at=now + pause_seconds(tries),
    )


def words(registration: Registration, title: str, nodes: Collection[str]) -> str:
    """Say in a sentence what is wrong with a registration; empty when nothing is."""
    missing = sorted(set(nodes) - set(registration.nodes))
    if registration.failing_since is not None:
        since = datetime.fromtimestamp(registration.failing_since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        what = f"{', '.join(missing)} not registered" if missing else "not registered anew"
        tries = "1 try" if registration.tries == 1 else f"{registration.tries} tries"
        return f"{what} at {title} since {since} ({tries}): {registration.reason}"
    if missing:
        return f"{', '.join(missing)} not registered at {title} yet; next: provisioner register"
    return f"{title}: {registration.remark}" if registration.remark and nodes else ""
