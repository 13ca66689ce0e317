"""What the API's calls do: the same acts as the commands', with what this process knows of the fleet around them.

Acts block, so each runs in a thread; who waits for one waits on the event loop. An act that was begun goes on when
whoever asked for it has gone. Who asks for an endpoint waits as a request of the gateway's does: in the same queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from provisioner.api.records import Told, entry_of, record
from provisioner.domain.callers import Caller, Scope
from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.in_flight import InFlight
from provisioner.domain.lease import Hold
from provisioner.domain.names import NodeName
from provisioner.domain.orchestrator import Registration
from provisioner.domain.routing_policy import Away
from provisioner.domain.savings import Savings
from provisioner.domain.serving import Phase as NodePhase
from provisioner.errors import NotReadyError, ProvisionerError, QueueFullError, RefusedError, UnknownNameError
from provisioner.gateway.limits import Limits
from provisioner.planning.idle import IdleDecision
from provisioner.planning.registration import words as registration_words
from provisioner.planning.routing import Ask, Candidate, Way, route
from provisioner.ports.ledger import Ledger
from provisioner.services.events import Event, OnEvent, Phase
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.mode_switching import ModeReport
from provisioner.services.sleeping import SleepReport
from provisioner.services.waking import WakeReport

_Value = TypeVar("_Value")

# Acts wait for Proxmox and guests, hardly ever for a processor.
_MOST_ACTS_AT_ONCE = 64
# A node that was awake when it was chosen may go to sleep before it is named; more often than this it does not.
_MOST_CHOICES = 5
# The keeper believes in a failure when it has seen it twice.
_LOOKS_OF_A_DOUBT = 2
# More than a home makes in the minute that passes until the next are asked for.
_MOST_RECORDS = 5000
_NOT_THERE = (NodePhase.ABSENT, NodePhase.UNKNOWN)


class Acts(Protocol):
    """What is done to nodes; each blocks and raises ProvisionerError."""

    def sleep(self, node: NodeName, on_event: OnEvent, *, force: bool) -> SleepReport:
        """Shut a node down cleanly, unless it is busy."""
        ...

    def mode(self, node: NodeName, mode: str, on_event: OnEvent, *, force: bool) -> ModeReport:
        """Switch what a node's GPUs are for."""
        ...

    def idle(self, on_event: OnEvent, *, dry_run: bool) -> tuple[IdleDecision, ...]:
        """Make one idle pass."""
        ...

    def hold(self, node: NodeName, *, by: str, seconds: float, why: str) -> Hold:
        """Keep a node as it is until a time."""
        ...

    def release(self, node: NodeName, *, by: str) -> tuple[Hold, ...]:
        """Drop a person's hold; return those of others."""
        ...

    def holds(self) -> dict[NodeName, tuple[Hold, ...]]:
        """Return who keeps which nodes as they are."""
        ...

    def registrations(self) -> tuple[Registration, ...]:
        """Return what became of telling the orchestrators."""
        ...

    def health_url(self, node: NodeName) -> str:
        """Return where a node's engine says whether it is well, in the mode that it is in."""
        ...

    def savings(self, *, days: int | None) -> Savings:
        """Return what sleeping saved, in days that end today, or ever."""
        ...

    def candidates(self, model: str) -> tuple[list[Candidate], Ask]:
        """Return who may serve a model, and what its mode says of requests. Raises UnknownNameError."""
        ...


class Waker(Protocol):
    """Wakes nodes: one wake for all who ask."""

    async def wake(self, node: NodeName, *, at_once: bool = False) -> None:
        """Return when the node's model has answered."""
        ...


@dataclass(frozen=True, slots=True)
class AboutUs:
    """What the service says of itself."""

    version: str
    fleet_file: str
    pid: int
    started_at: float


class Control:
    """The acts and the sight behind the API. Belongs to one event loop."""

    def __init__(
        self,
        fleet: FleetSpec,
        keeper: Keeper,
        journal: Journal,
        acts: Acts,
        waker: Waker,
        reports: Mapping[NodeName, WakeReport],
        in_flight: InFlight,
        about: AboutUs,
        ledger: Ledger,
        now: Callable[[], float] = time.time,
        limits: Limits | None = None,
    ) -> None:
        self.journal = journal
        self._fleet = fleet
        self._keeper = keeper
        self._acts = acts
        self._waker = waker
        self._reports = reports
        self._in_flight = in_flight
        self._about = about
        self._ledger = ledger
        self._now = now
        self._limits = limits or Limits()
        self._threads = ThreadPoolExecutor(_MOST_ACTS_AT_ONCE, thread_name_prefix="act")
        self._begun: set[asyncio.Task[Any]] = set()
        self._woken_beside: set[NodeName] = set()
        self._verdicts: dict[NodeName, dict[str, object]] = {}
        self._quiet: dict[NodeName, float] = {}
        self.is_draining = False

    async def in_thread(self, act: Callable[[], _Value]) -> _Value:
        """Run what blocks in a thread; it goes on when nobody waits for it any more."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, act))

    async def begin(self, work: Coroutine[Any, Any, object]) -> int:
        """Let work go on by itself; return the journal's last number before it. How it ends is in the journal."""
        number = await self.in_thread(self.journal.last_number)
        self.go_on(work)
        return number

    def go_on(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Let work go on by itself."""
        task = asyncio.get_running_loop().create_task(_quietly(work))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return task

    async def finish(self, seconds: float) -> None:
        """Wait for work that was begun."""
        if self._begun:
            await asyncio.wait(self._begun, timeout=seconds)

    def require(self, caller: Caller, scope: Scope) -> None:
        """Let a call pass only with a scope. Raises ForbiddenCall."""
        if not caller.is_allowed(scope):
            raise ForbiddenCall

    def require_node(self, name: NodeName) -> None:
        """Let a call pass only if the fleet has such a node. Raises UnknownNameError."""
        self._fleet.node(name)

    def require_mode(self, name: NodeName, mode: str) -> None:
        """Let a call pass only if the node has such a mode. Raises UnknownNameError."""
        node = self._fleet.node(name)
        if mode not in node.modes:
            raise UnknownNameError(
                f'cannot find mode "{mode}"', subject=node.subject, next_step=f"use one of: {', '.join(node.modes)}"
            )

    def nodes(self) -> list[dict[str, object]]:
        """Return what is wanted and seen of every node."""
        holds = self._acts.holds()
        return [self._node(name, holds) for name in self._fleet.nodes]

    def node(self, name: NodeName) -> dict[str, object]:
        """Return what is wanted and seen of one node. Raises UnknownNameError."""
        return self._node(self._fleet.node(name).name, self._acts.holds())

    def service(self) -> dict[str, object]:
        """Return what the service says of itself."""
        about = self._about
        return {
            "version": about.version,
            "fleet_file": about.fleet_file,
            "pid": about.pid,
            "started_at": about.started_at,
            "draining": self.is_draining,
            "last_event": self.journal.last_number(),
        }

    def savings(self) -> dict[str, object]:
        """Return what sleeping saved today, in thirty days, and ever; a minute ago is not in it yet."""
        spans = {"today": 1, "thirty_days": 30, "ever": None}
        return {name: self._acts.savings(days=days).as_dict() for name, days in spans.items()}

    async def wake(self, name: NodeName, caller: Caller) -> dict[str, object]:
        """Return when a node's model has answered; a person's word is tried at once, whatever failed before."""
        node = self._fleet.node(name).name
        self.journal.add(NewEntry(Kind.WAKE, node, "asked", by=caller.name))
        await self._waker.wake(node, at_once=True)
        return {"node": node} | self._reports[node].as_dict()

    async def sleep(self, name: NodeName, caller: Caller, *, force: bool) -> dict[str, object]:
        """Return when a node is asleep."""
        node = self._fleet.node(name).name
        told = self._telling(caller)
        report = await self._journaled(
            Kind.SLEEP, node, caller, lambda: self._acts.sleep(node, told, force=force).as_dict()
        )
        self._keeper.doubt(node)
        return report

    async def mode(self, name: NodeName, mode: str, caller: Caller, *, force: bool) -> dict[str, object]:
        """Return when a mode is in force."""
        node = self._fleet.node(name).name
        told = self._telling(caller)

        def act() -> dict[str, object]:
            try:
                return self._acts.mode(node, mode, told, force=force).as_dict()
            finally:
                self._keeper.switched(node)

        return await self._journaled(Kind.MODE, node, caller, act)

    async def hold(self, name: NodeName, caller: Caller, *, seconds: float, why: str) -> dict[str, object]:
        """Keep a node as it is for a while, in the caller's name."""
        node = self._fleet.node(name).name
        return await self._journaled(
            Kind.HOLD,
            node,
            caller,
            lambda: self._acts.hold(node, by=caller.name, seconds=seconds, why=why).as_dict(),
        )

    async def release(self, name: NodeName, caller: Caller) -> dict[str, object]:
        """Drop the caller's hold."""
        node = self._fleet.node(name).name

        def act() -> dict[str, object]:
            return {"node": node, "others": [hold.as_dict() for hold in self._acts.release(node, by=caller.name)]}

        return await self._journaled(Kind.HOLD, node, caller, act)

    async def idle(self, caller: Caller, *, dry_run: bool) -> list[dict[str, object]]:
        """Make one idle pass; return every decision with its reason."""
        return await self.in_thread(lambda: self.idle_pass(caller.name, dry_run=dry_run))

    def idle_pass(self, by: str, *, dry_run: bool = False) -> list[dict[str, object]]:
        """Make one idle pass in this thread; tell the journal of verdicts that are news."""
        decisions = self._acts.idle(self._telling(Caller(by, frozenset())), dry_run=dry_run)
        for decision in decisions:
            name, verdict = decision.node.name, decision.as_dict()
            news = self._verdicts.get(name, {}).get("verdict") != verdict["verdict"]
            self._verdicts[name] = verdict
            if decision.record is not None and decision.record.is_quiet:
                self._quiet[name] = decision.record.quiet_since
            else:
                self._quiet.pop(name, None)
            if news and not dry_run:
                self.journal.add(NewEntry(Kind.IDLE, name, decision.verdict.value, decision.reason, by))
        return [decision.as_dict() for decision in decisions]

    def quiet_since(self) -> dict[NodeName, float]:
        """Return since when nobody has used the nodes that the last idle pass found quiet (UNIX seconds)."""
        # Copied in one step: an idle pass in another thread goes on meanwhile.
        return dict(self._quiet)

    def verdicts(self) -> dict[NodeName, str]:
        """Return what the last idle pass said of each node."""
        return {name: str(each["verdict"]) for name, each in dict(self._verdicts).items()}

    async def route(
        self,
        model: str,
        caller: Caller,
        *,
        away: str | None,
        prefers_gpu: bool | None,
        tried: frozenset[str] = frozenset(),
    ) -> dict[str, object]:
        """Return the endpoint that serves a model now, woken if need be.

        Nodes that were `tried` come last; waited for, they are proven anew, for they may have been put to sleep under
        the request or have come back since. Who no longer wants it cancels: what was not started yet is not started.

        Raises:
            QueueFullError: as many wait for the node as may.
            ProvisionerError: there is none, or it did not come in time.
        """
        asked_at, began = self._now(), time.monotonic()
        failed = {name for name in self._fleet.nodes if name in tried}
        for name in failed:
            self._keeper.doubt(name)
        for _ in range(_MOST_CHOICES):
            candidates, ask = self._acts.candidates(model)
            ask = Ask(
                model,
                Away(away) if away else ask.away,
                prefers_gpu if prefers_gpu is not None else ask.prefers_gpu,
                tried=frozenset(failed),
            )
            chosen = route(ask, candidates)
            if chosen.way is Way.REFUSE or chosen.node is None:
                raise RefusedError(
                    f'cannot find an endpoint for model "{model}": {chosen.reason}',
                    subject=f'model "{model}"',
                    next_step="GET /api/nodes says what each node is for; or ask again later",
                    retryable=True,
                )
            if chosen.wake is not None:
                self._wake_beside(chosen.wake)
            if chosen.way is Way.WAIT:
                await self._wait_for(chosen.node, self._limits.hold_seconds - (time.monotonic() - began))
                failed.discard(chosen.node)
                continue
            endpoint = self._keeper.endpoint(chosen.node)
            return endpoint.as_dict() | {
                "model": chosen.model,
                "fallback": chosen.is_fallback,
                "reason": chosen.reason,
                "asked_at": asked_at,
                "waited_seconds": round(time.monotonic() - began, 6),
            }
        raise RefusedError(
            f'cannot keep a node awake for model "{model}": each went to sleep again before it was named',
            subject=f'model "{model}"',
            next_step="hold the node (POST /api/nodes/NAME/hold), or use the gateway, which waits",
            retryable=True,
        )

    async def _wait_for(self, node: NodeName, seconds: float) -> None:
        most, subject = self._limits.waiting, self._fleet.node(node).subject
        if not self._in_flight.start_waiting(node, self._now(), most=most):
            raise QueueFullError(
                f"cannot wait for {node}: {most} wait for it already",
                subject=subject,
                next_step="ask again later",
                retryable=True,
            )
        try:
            async with asyncio.timeout(seconds):
                await self._waker.wake(node)
        except TimeoutError:
            raise NotReadyError(
                f"cannot name an endpoint within {self._limits.hold_seconds:g} s: {node} is still not ready",
                subject=subject,
                next_step="ask again later",
                retryable=True,
            ) from None
        finally:
            self._in_flight.stop_waiting(node)

    def _wake_beside(self, node: NodeName) -> None:
        """Have a node woken for those who ask next, once however many are answered by another meanwhile."""
        if node not in self._woken_beside:
            self._woken_beside.add(node)
            self.go_on(self._waker.wake(node)).add_done_callback(lambda _: self._woken_beside.discard(node))

    def orchestrators(self) -> list[dict[str, object]]:
        """Return who is told of the nodes, and what became of that."""
        present = [name for name, now in self._keeper.seen().items() if now.phase not in _NOT_THERE]
        return [
            each.as_dict() | {"trouble": registration_words(each, each.orchestrator, present)}
            for each in self._acts.registrations()
        ]

    def endpoints(self) -> list[dict[str, object]]:
        """Return where the nodes that are ready answer, and where they say whether they are well.

        One that only computes for another does not answer itself.
        """
        ready = [
            name
            for name, now in self._keeper.seen().items()
            if now.phase is NodePhase.READY and self._fleet.answering(self._keeper.of(name).node).name == name
        ]
        return [self._keeper.endpoint(name).as_dict() | {"health_url": self._acts.health_url(name)} for name in ready]

    async def doubt(self, name: NodeName, caller: Caller, *, why: str) -> dict[str, object]:
        """Look again at a node that somebody finds silent; return what it is then."""
        node = self._fleet.node(name).name

        def look() -> dict[str, object]:
            for _ in range(_LOOKS_OF_A_DOUBT):
                self._keeper.doubt(node)
                self._keeper.look([node])
            seen = self._keeper.of(node)
            is_gone = seen.now.phase.is_on_its_way
            if is_gone:
                words = f"found silent: {why}" if why else "found silent"
                self.journal.add(NewEntry(Kind.REQUEST, node, "doubted", words, caller.name))
            return {
                "node": node,
                "phase": seen.now.phase.value,
                "reason": seen.now.reason,
                "model": self._fleet.mode_of(seen.node).model,
                "is_gone": is_gone,
            }

        return await self.in_thread(look)

    def requests(self, caller: Caller, after: int) -> dict[str, object]:
        """Return requests that have ended: all for whoever may see everything, else the caller's own."""
        whose = "" if caller.is_allowed(Scope.READ) else caller.name
        found = self._ledger.after(after, _MOST_RECORDS, whose)
        return {
            "requests": [record(number, entry) for number, entry in found],
            "last": found[-1][0] if found else after,
        }

    def record(self, caller: Caller, told: Told) -> dict[str, object]:
        """Keep what a caller tells of a request that went to a node directly."""
        entry = entry_of(told, caller.name, self._now())
        self._ledger.add(entry)
        return record(0, entry)

    def _telling(self, caller: Caller) -> OnEvent:
        keep = self.journal.telling(caller.name)

        def tell(event: Event) -> None:
            self._keeper.progress(event)
            keep(event)

        return tell

    async def _journaled(
        self, kind: Kind, node: NodeName, caller: Caller, act: Callable[[], dict[str, object]]
    ) -> dict[str, object]:
        def told() -> dict[str, object]:
            self.journal.add(NewEntry(kind, node, Phase.STARTED.value, by=caller.name))
            try:
                report = act()
            except ProvisionerError as error:
                self.journal.add(NewEntry(kind, node, Phase.FAILED.value, error.summary, caller.name))
                raise
            self.journal.add(NewEntry(kind, node, Phase.DONE.value, by=caller.name))
            return report

        return await self.in_thread(told)

    def _node(self, name: NodeName, holds: dict[NodeName, tuple[Hold, ...]]) -> dict[str, object]:
        seen, traffic = self._keeper.of(name), self._in_flight.of(name)
        node = seen.node
        return {
            "node": name,
            "vmid": node.vmid,
            "hypervisor": node.hypervisor,
            "address": str(node.address),
            "gpus": list(node.gpus),
            "modes": list(node.modes),
            "models": list(self._fleet.mode_of(node).models),
            "adopt": node.adopt,
            "mode": node.mode,
            "phase": seen.now.phase.value,
            "reason": seen.now.reason,
            "since": seen.now.since,
            "seconds_left": seen.now.seconds_left,
            "url": seen.url,
            "uptime_seconds": seen.uptime_seconds,
            "traffic": {
                "running": traffic.running,
                "waiting": traffic.waiting,
                "last_request_at": traffic.last_request_at,
            },
            "idle": self._verdicts.get(name),
            "holds": [hold.as_dict() for hold in holds.get(name, ())],
        }


class ForbiddenCall(Exception):
    """The caller's token does not allow this."""


async def _quietly(work: Awaitable[object]) -> None:
    """Let an error end where it is: whoever began the work has gone, and the journal has it."""
    try:
        await work
    except (ProvisionerError, ForbiddenCall):
        return
