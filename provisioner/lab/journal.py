"""Remembers which requests came in, for tests that count or check them. Secrets are masked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

_SECRET = frozenset({"password", "cipassword", "value", "tfa-challenge", "input-data", "confirmation-password"})
_KEPT = 100_000


class Journal:
    """Requests since the lab started, the oldest dropped when there are very many."""

    def __init__(self) -> None:
        self.started = time.time()
        self._requests: deque[dict[str, object]] = deque(maxlen=_KEPT)

    def note(
        self, method: str, path: str, params: Mapping[str, object], status: int, who: str | None, began: float
    ) -> None:
        """Remember one request and its answer; `began` is the reading of the monotonic clock when it had come in."""
        shown = {key: "***" if key in _SECRET else value for key, value in params.items()}
        self._requests.append(
            {
                "method": method,
                "path": path,
                "params": shown,
                "status": status,
                "user": who,
                "began": began,
                "seconds": time.monotonic() - began,
            }
        )

    def all(self) -> list[dict[str, object]]:
        """Return every request, oldest first."""
        return list(self._requests)

    def clear(self) -> None:
        """Forget them."""
        self._requests.clear()
