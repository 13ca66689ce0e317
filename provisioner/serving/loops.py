"""The service's own rhythm: looks at the fleet, idle passes, and forgetting what is too old."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from provisioner.domain.timings import Timings
from provisioner.errors import ProvisionerError
from provisioner.services.keeper import Keeper

_LOGGER = logging.getLogger("provisioner.keeper")
# A node that everybody complains about is looked at this often at most.
_DOUBT_PAUSE_SECONDS = 0.25


class Loops:
    """Threads that end when they are told to; whatever they are in the middle of can be left at any moment."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        idle_pass: Callable[[], object],
        forget: Callable[[], object],
        look_every_seconds: float,
        idle_every_seconds: float,
        after_look: Callable[[], object] = lambda: None,
        gauge: Callable[[], object] = lambda: None,
        gauge_every_seconds: float = 15.0,
        timings: Timings | None = None,
    ) -> None:
        """Wire it.

        Args:
            keeper: looks at the fleet.
            idle_pass: makes one.
            forget: drops what is too old.
            look_every_seconds: from one look to the next.
            idle_every_seconds: from one idle pass to the next.
            after_look: called after each look.
            gauge: reads the figures of guests that are awake.
            gauge_every_seconds: from one reading to the next.
            timings: where each turn is counted, by its loop and whether it was ``done`` or ``failed``.
        """
        self._timings = timings or Timings()
        self._after_look = after_look
        self._keeper = keeper
        self._look_every = look_every_seconds
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._looks, name="look", daemon=True),
            threading.Thread(
                target=self._each,
                args=(idle_every_seconds, {"idle": idle_pass, "forget": forget}),
                name="idle",
                daemon=True,
            ),
            threading.Thread(
                target=self._each, args=(gauge_every_seconds, {"gauge": gauge}), name="gauge", daemon=True
            ),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after what is under way; nobody waits for that."""
        self._stopping.set()
        self._keeper.doubts.set()

    def _looks(self) -> None:
        while not self._stopping.is_set():
            self._turn("look", self._keeper.look)
            self._turn("count", self._after_look)
            # A time and no count of turns: a look at one that hangs takes as long as many pauses.
            due = time.monotonic() + self._look_every
            while (left := due - time.monotonic()) > 0 and not self._stopping.is_set():
                # Out of turn: only those in doubt, and not more often than makes sense.
                if not self._keeper.doubts.wait(left):
                    break
                self._turn("doubts", self._keeper.look_at_doubted)
                self._stopping.wait(_DOUBT_PAUSE_SECONDS)

    def _each(self, seconds: float, acts: Mapping[str, Callable[[], object]]) -> None:
        while not self._stopping.wait(seconds):
            for name, act in acts.items():
                self._turn(name, act)

    def _turn(self, name: str, act: Callable[[], object]) -> None:
        began = time.perf_counter()
        end = "done" if _safely(act) else "failed"
        self._timings.add((name, end), time.perf_counter() - began)


def _safely(act: Callable[[], object]) -> bool:
    """Let no failure end a loop: nodes would burn on unseen. Say whether it was done."""
    try:
        act()
    except ProvisionerError as error:
        _LOGGER.error("%s; on: %s; next: %s", error.summary, error.subject, error.next_step)  # noqa: TRY400
        return False
    except Exception:
        _LOGGER.exception("a turn of the control loop broke; the next one comes")
        return False
    return True
