"""The service's own rhythm: looks at the fleet, idle passes, and forgetting what is too old."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

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
    ) -> None:
        self._keeper = keeper
        self._look_every = look_every_seconds
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._looks, name="look", daemon=True),
            threading.Thread(
                target=self._each, args=(idle_every_seconds, (idle_pass, forget)), name="idle", daemon=True
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
            _safely(self._keeper.look)
            due = self._look_every
            while due > 0 and not self._stopping.is_set():
                # Out of turn: only those in doubt, and not more often than makes sense.
                if not self._keeper.doubts.wait(due):
                    break
                _safely(self._keeper.look_at_doubted)
                self._stopping.wait(_DOUBT_PAUSE_SECONDS)
                due -= _DOUBT_PAUSE_SECONDS

    def _each(self, seconds: float, acts: tuple[Callable[[], object], ...]) -> None:
        while not self._stopping.wait(seconds):
            for act in acts:
                _safely(act)


def _safely(act: Callable[[], object]) -> None:
    """Let no failure end a loop: nodes would burn on unseen."""
    try:
        act()
    except ProvisionerError as error:
        _LOGGER.error("%s; on: %s; next: %s", error.summary, error.subject, error.next_step)  # noqa: TRY400
    except Exception:
        _LOGGER.exception("a turn of the control loop broke; the next one comes")
