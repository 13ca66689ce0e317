"""A time within which the current task must be through with something; `asyncio.timeout`, for every request.

That one costs a request several times as much, and each request has two.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any


class Deadline:
    """``with Deadline(seconds):`` raises TimeoutError when what stands in it takes longer."""

    __slots__ = ("_cancelling", "_has_passed", "_loop", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - whoever waits is one
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self._has_passed = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._seconds, self._pass)
        return self

    def move(self, seconds: float) -> None:
        """Give it so long from now on."""
        if not self._has_passed:
            self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._pass)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # Somebody else may have cancelled the task too; then it is that which counts.
        if self._has_passed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _pass(self) -> None:
        self._has_passed = True
        self._task.cancel()
