"""A time within which a task must be through."""

from __future__ import annotations

import asyncio

import pytest

from provisioner.gateway.deadline import Deadline


def test_who_is_through_in_time_notices_nothing() -> None:
    async def scenario() -> None:
        with Deadline(5) as patience:
            await asyncio.sleep(0)
            timer = patience._timer
        assert timer.cancelled()

    asyncio.run(scenario())


def test_who_takes_longer_is_told_and_is_not_cancelled() -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError), Deadline(0.01):
            await asyncio.sleep(5)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_it_can_be_moved_on() -> None:
    async def scenario() -> None:
        with Deadline(0.05) as patience:
            patience.move(30)
            await asyncio.sleep(0.15)
        with pytest.raises(TimeoutError), Deadline(5) as patience:
            await overdue(patience)

    async def overdue(patience: Deadline) -> None:
        patience.move(-1)
        await asyncio.sleep(5)

    asyncio.run(scenario())


@pytest.mark.parametrize("together", [False, True])
def test_a_cancellation_by_somebody_else_stays_one(together: bool) -> None:
    deadlines: list[Deadline] = []

    async def work() -> None:
        with Deadline(5) as deadline:
            deadlines.append(deadline)
            await asyncio.sleep(5)

    async def scenario() -> None:
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        if together:
            deadlines[0]._pass()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_an_error_within_is_its_own() -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="own"), Deadline(0.01):
            raise ValueError("own")
        await asyncio.sleep(0.03)

    asyncio.run(scenario())
