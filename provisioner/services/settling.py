"""Lets a VM come to rest that another task holds for a moment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from provisioner.domain.snapshot import VmSeen
from provisioner.ports.clock import Clock
from provisioner.waiting import NotYet, WaitedInVain, wait_until

# Whoever makes a VM takes these off within seconds; a backup or a migration takes its time, and is named instead.
_SHORT_LOCKS = frozenset({"create", "clone"})


def settled(look: Callable[[], VmSeen | None], *, clock: Clock, seconds: float) -> VmSeen | None:
    """Return a VM once no short lock is on it, or as it is when the time is over.

    Args:
        look: looks at the VM once.
        clock: time.
        seconds: how long to wait.
    """
    last: list[VmSeen | None] = [None]

    def once() -> bool | NotYet:
        last[0] = look()
        lock = last[0].lock if last[0] is not None else None
        return NotYet(f"locked ({lock})") if lock in _SHORT_LOCKS else True

    with suppress(WaitedInVain):
        wait_until(once, clock=clock, seconds=seconds)
    return last[0]
