"""The wake desk, asked from threads that are not its event loop's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from provisioner.domain.names import NodeName
from provisioner.errors import HypervisorError
from provisioner.gateway.wakes import StillWanted, WakeDesk
from provisioner.services.idling import WakeGivenUp
from provisioner.serving.power import from_threads

NODE = NodeName("llm-gpu-01")


class Waker:
    """A wake that goes on when it is told to."""

    def __init__(self) -> None:
        self.begun: list[NodeName] = []
        self.go = threading.Event()
        self.wanted: list[bool] = []
        self.was_asked = threading.Event()
        self.error: HypervisorError | None = None

    def __call__(self, node: NodeName, still_wanted: StillWanted) -> None:
        self.begun.append(node)
        self.go.wait(10)
        self.wanted.append(still_wanted())
        self.was_asked.set()
        if self.error is not None:
            raise self.error


def test_hours_and_requests_join_one_wake() -> None:
    async def scenario() -> None:
        waker = Waker()
        desk = WakeDesk(waker)
        hours = asyncio.ensure_future(asyncio.to_thread(from_threads(desk), NODE))
        while not desk.is_under_way(NODE):
            await asyncio.sleep(0.001)
        request = asyncio.ensure_future(desk.wake(NODE))
        await asyncio.sleep(0)
        request.cancel()
        waker.go.set()
        await hours
        assert (waker.begun, waker.wanted) == ([NODE], [True]), "the request left, the hours still want it"

    asyncio.run(scenario())


def test_hours_are_not_put_off_by_a_wake_that_failed_a_moment_ago_and_are_told_of_their_own() -> None:
    async def scenario() -> None:
        waker = Waker()
        waker.go.set()
        waker.error = HypervisorError("no memory", subject="vm", next_step="make room")
        desk = WakeDesk(waker)
        wake = from_threads(desk)
        for _ in range(2):
            with pytest.raises(HypervisorError, match="no memory"):
                await asyncio.to_thread(wake, NODE)
        assert waker.begun == [NODE, NODE]

    asyncio.run(scenario())


def test_the_end_of_the_service_is_no_failure_of_the_node() -> None:
    waker, told = Waker(), []

    async def scenario() -> None:
        desk = WakeDesk(waker)
        wake = from_threads(desk)

        def hours() -> None:
            try:
                wake(NODE)
            except WakeGivenUp:
                told.append("given up")

        threads.append(threading.Thread(target=hours))
        threads[0].start()
        while not desk.is_under_way(NODE):
            await asyncio.sleep(0.001)
        threads.append(threading.Thread(target=hours))

    threads: list[threading.Thread] = []
    asyncio.run(scenario())
    waker.go.set()
    threads[0].join(10)
    # The loop is closed now.
    threads[1].start()
    threads[1].join(10)
    assert told == ["given up", "given up"]
    assert waker.was_asked.wait(10)
    assert waker.wanted == [False]
