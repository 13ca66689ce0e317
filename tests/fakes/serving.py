"""Fakes of what the gateway stands on: power whose nodes wake when a test says so, a ledger in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from provisioner.domain.ledger import LedgerEntry, Timing
from provisioner.domain.names import EngineName, ModeName, NodeName
from provisioner.domain.serving import NodeNow, Phase
from provisioner.errors import ProvisionerError
from provisioner.gateway.wakes import NobodyWantsIt, StillWanted, WakeDesk
from provisioner.ports.web import NO_HEADERS, Headers


class FakePower:
    """Nodes by phase. A wake starts the node once `may_start` is set and brings it once `may_answer` is."""

    def __init__(self, phases: Mapping[str, Phase], modes: Mapping[str, str] | None = None) -> None:
        modes = modes or {}
        self.nodes = {
            NodeName(name): NodeNow(
                NodeName(name), phase, f"made so: {phase.value}", ModeName(modes[name]) if name in modes else None
            )
            for name, phase in phases.items()
        }
        self.starts: list[NodeName] = []
        self.doubted: list[NodeName] = []
        self.fails_with: dict[NodeName, ProvisionerError] = {}
        self.may_start = threading.Event()
        self.may_answer = threading.Event()
        self.may_start.set()
        self.may_answer.set()
        self.desk = WakeDesk(self._bring)

    def seen(self) -> Mapping[NodeName, NodeNow]:
        return self.nodes

    async def wake(self, node: NodeName) -> None:
        await self.desk.wake(node)

    def retry_seconds(self, node: NodeName) -> float | None:
        return self.desk.retry_seconds(node)

    def doubt(self, node: NodeName) -> None:
        self.doubted.append(node)

    def be(self, node: str, phase: Phase, *, mode: str | None = None, seconds_left: float | None = None) -> None:
        name = NodeName(node)
        now = replace(self.nodes[name], phase=phase, reason=f"made so: {phase.value}", seconds_left=seconds_left)
        self.nodes[name] = replace(now, mode=ModeName(mode)) if mode is not None else now

    def _bring(self, node: NodeName, still_wanted: StillWanted) -> None:
        if self.nodes[node].phase is not Phase.READY:
            self.be(node, Phase.QUEUED)
            self.may_start.wait(30)
            if not still_wanted():
                self.be(node, Phase.ASLEEP)
                raise NobodyWantsIt
            self.starts.append(node)
            self.be(node, Phase.BOOTING)
        self.may_answer.wait(30)
        if node in self.fails_with:
            self.be(node, Phase.ASLEEP)
            raise self.fails_with[node]
        self.be(node, Phase.READY)


class NoKeys:
    """Engines that ask for nothing."""

    def headers(self, node: NodeName, engine: EngineName, path: str) -> Headers:
        return NO_HEADERS


class FakeLedger:
    """The record of requests, in memory."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []

    def add(self, entry: LedgerEntry) -> None:
        self.entries.append(entry)

    def last(self, count: int) -> tuple[LedgerEntry, ...]:
        return tuple(reversed(self.entries[-count:]))

    def since(self, at: float) -> tuple[LedgerEntry, ...]:
        return tuple(entry for entry in self.entries if entry.at >= at)

    def after(self, number: int, count: int, caller: str = "") -> tuple[tuple[int, LedgerEntry], ...]:
        number = number if number <= len(self.entries) else 0
        numbered = [(at, each) for at, each in enumerate(self.entries, 1) if caller in ("", each.caller)]
        return tuple([each for each in numbered if each[0] > number][:count] if number else numbered[-count:])

    def timings(self, *, after: int, since: float, most: int) -> tuple[Timing, ...]:
        found = [
            Timing(number, e.at, e.node, e.outcome, e.seconds, e.waited_seconds, e.first_byte_seconds, e.tokens_out)
            for number, e in enumerate(self.entries, 1)
            if number > after and e.at >= since
        ]
        return tuple(found[-most:])

    def close(self) -> None:
        """Nothing is kept back."""
