"""One wake per node, however many ask, and none that nobody wants."""

from __future__ import annotations

import asyncio
import threading

import pytest

from provisioner.domain.names import NodeName
from provisioner.errors import HypervisorError
from provisioner.gateway.wakes import NobodyWantsIt, StillWanted, WakeDesk
from tests.gateway.site import until

NODE, OTHER = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")


class Waker:
    """A wake that goes on when it is told to."""

    def __init__(self) -> None:
        self.begun: list[NodeName] = []
        self.started: list[NodeName] = []
        self.go = threading.Event()
        self.error: HypervisorError | None = None

    def __call__(self, node: NodeName, still_wanted: StillWanted) -> None:
        self.begun.append(node)
        self.go.wait(10)
        if not still_wanted():
            raise NobodyWantsIt
        self.started.append(node)
        if self.error is not None:
            raise self.error


class TestWakeDesk:
    def test_all_who_ask_for_a_node_join_one_wake(self) -> None:
        async def scenario() -> None:
            waker = Waker()
            desk = WakeDesk(waker)
            asked = [asyncio.create_task(desk.wake(NODE)) for _ in range(100)]
            other = asyncio.create_task(desk.wake(OTHER))
            await until(lambda: len(waker.begun) == 2)
            assert desk.is_under_way(NODE)
            waker.go.set()
            await asyncio.gather(*asked, other)
            assert sorted(waker.started) == [NODE, OTHER]
            assert not desk.is_under_way(NODE)

        asyncio.run(scenario())

    def test_who_comes_after_everybody_had_left_has_the_node_woken_all_the_same(self) -> None:
        async def scenario() -> None:
            waker = Waker()
            seen = threading.Event()

            def wake(node: NodeName, still_wanted: StillWanted) -> None:
                if not waker.begun:
                    waker.begun.append(node)
                    waker.go.wait(10)
                    assert not still_wanted()
                    # Its mind is made up; somebody asks again before it has said so.
                    seen.set()
                    waker.go.clear()
                    waker.go.wait(10)
                    raise NobodyWantsIt
                waker.started.append(node)

            desk = WakeDesk(wake)
            first = asyncio.create_task(desk.wake(NODE))
            await until(lambda: bool(waker.begun))
            first.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waker.go.set()
            await until(seen.is_set)
            second = asyncio.create_task(desk.wake(NODE))
            await asyncio.sleep(0.01)
            waker.go.set()
            await second
            assert waker.started == [NODE]

        asyncio.run(scenario())

    def test_a_failed_wake_is_told_to_all_and_not_repeated_for_longer_each_time(self) -> None:
        async def scenario() -> None:
            waker, now = Waker(), 0.0
            waker.go.set()
            waker.error = HypervisorError("cannot start the VM", subject="vm 5001", next_step="look")
            desk = WakeDesk(waker, monotonic=lambda: now)
            for pause in (5.0, 10.0, 20.0):
                tries = len(waker.begun)
                for _ in range(3):
                    with pytest.raises(HypervisorError, match="cannot start the VM"):
                        await desk.wake(NODE)
                assert len(waker.begun) == tries + 1
                assert desk.retry_seconds(NODE) == pause
                now += pause
            with pytest.raises(HypervisorError):
                await desk.wake(NODE)
            waker.error = None
            tries = len(waker.begun)
            await desk.wake(NODE, at_once=True)
            assert len(waker.begun) == tries + 1
            assert desk.retry_seconds(NODE) is None

        asyncio.run(scenario())
