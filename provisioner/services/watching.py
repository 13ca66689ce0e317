"""Looks at nodes again and again while they work: one SSH connection each that stays, one round trip a look."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_reading import GpuFacts
from provisioner.domain.node_sample import GuestNumbers, NodeSample
from provisioner.engines.base import AnswerUnreadable
from provisioner.engines.token_counters import tokens_made
from provisioner.errors import NotReadyError, ProvisionerError
from provisioner.planning.gpu.gathering import AnswerCut
from provisioner.planning.live_numbers import live_command, live_numbers
from provisioner.ports.guest_shell import GuestAway, GuestRefuses, GuestShell
from provisioner.ports.web import NoAnswer
from provisioner.services.deployments import as_noted, engine_of
from provisioner.services.engine_web import engine_web
from provisioner.services.entering import Entering
from provisioner.services.proving import EngineProbe
from provisioner.services.world import World

_MOST_AT_ONCE = 32
# nvidia-smi on a sick card is given up after 15 s by the script itself.
_LOOK_SECONDS = 45.0
# A node that is off or lets nobody in is asked about now and then only: that costs calls to Proxmox, and logins.
_RETRY_SECONDS = 10.0


class Watching:
    """`top`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def watch(
        self, nodes: Sequence[NodeSpec], interval: float, rounds: int | None = None
    ) -> Generator[tuple[NodeSample, ...], None, None]:
        """Yield a sample of every node, again and again; nothing is woken.

        Args:
            nodes: whom to look at.
            interval: seconds from one look to the next.
            rounds: how many looks; None for ever.
        """
        clock = self._world.clock
        with ExitStack() as stack:
            watched = [stack.enter_context(_Watched(self._fleet, self._world, node)) for node in nodes]
            pool = stack.enter_context(ThreadPoolExecutor(max(1, min(len(nodes), _MOST_AT_ONCE))))
            due = clock.monotonic()
            done = 0
            while rounds is None or done < rounds:
                yield tuple(pool.map(_Watched.sample, watched))
                done += 1
                # Looks that take longer than the interval follow each other without a pause, and none is made up for.
                due = max(due + interval, clock.monotonic())
                if rounds is None or done < rounds:
                    clock.sleep(max(0.0, due - clock.monotonic()))


class _Watched:
    """One node with its open connection."""

    def __init__(self, fleet: FleetSpec, world: World, node: NodeSpec) -> None:
        self._fleet = fleet
        self._world = world
        self._node = node
        self._shell: GuestShell | None = None
        self._why_outside = ""
        self._is_off: str | None = None
        self._next_try = float("-inf")
        self._tokens: tuple[float, float] | None = None

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def sample(self) -> NodeSample:
        """Look once."""
        at = self._world.clock.now()
        if self._shell is None and self._world.clock.monotonic() >= self._next_try:
            self._next_try = self._world.clock.monotonic() + _RETRY_SECONDS
            self._enter()
        model = self._fleet.mode_of(self._node).model
        if self._is_off is not None:
            self._tokens = None
            return NodeSample(at, self._node.name, self._is_off, self._why_outside, model)
        numbers, facts = self._inside()
        running, waiting, rate, trouble = self._engine()
        state = "silent" if trouble else "serving"
        reason = trouble or (f"nobody can look inside: {self._why_outside}" if self._why_outside else "")
        return NodeSample(
            at, self._node.name, state, reason, model, running, waiting, rate, numbers, facts.readings if facts else ()
        )

    def _enter(self) -> None:
        """Find out whether the node is on, and log in if it is."""
        entering = Entering(self._fleet, self._world)
        self._is_off = None
        try:
            entering.require_running(self._node)
        except NotReadyError:
            self._is_off, self._why_outside = "off", ""
            return
        except ProvisionerError as error:
            self._is_off, self._why_outside = "unknown", error.summary
            return
        try:
            self._node = as_noted(self._fleet, self._world, self._node)
            key = entering.host_key(self._node)
            shells = self._world.shells[self._fleet.cluster_of(self._node).name]
            self._shell = shells.open(self._node, key).__enter__()
            self._why_outside = ""
        except (GuestAway, GuestRefuses) as reason:
            self._why_outside = str(reason)
        except ProvisionerError as error:
            self._why_outside = error.summary

    def _inside(self) -> tuple[GuestNumbers, GpuFacts | None]:
        if self._shell is None:
            return GuestNumbers(), None
        try:
            result = self._shell.run(live_command(), seconds=_LOOK_SECONDS, privileged=True)
            return live_numbers(result.out)
        except GuestAway as gone:
            self._let_go()
            self._why_outside = str(gone)
            # Perhaps it goes off: that is looked at with the next sample.
            self._next_try = float("-inf")
        except AnswerCut as cut:
            self._why_outside = f"the guest's answer was cut off: {cut}"
        return GuestNumbers(), None

    def _engine(self) -> tuple[int | None, int | None, float | None, str]:
        """Return running and waiting requests, tokens per second, and why there are none of these."""
        engine = engine_of(self._fleet, self._world, self._node)
        probe = EngineProbe(
            self._fleet, self._node, engine, engine_web(self._fleet, self._world, self._node), self._world.clock
        )
        try:
            text = probe.activity_text()
            activity = engine.activity(text, self._world.clock.now())
        except (NoAnswer, AnswerUnreadable, ProvisionerError) as reason:
            self._tokens = None
            return None, None, None, str(reason).splitlines()[0]
        return activity.running, activity.waiting, self._rate(tokens_made(text)), ""

    def _rate(self, tokens: float | None) -> float | None:
        now = self._world.clock.monotonic()
        before, self._tokens = self._tokens, (now, tokens) if tokens is not None else None
        if tokens is None or before is None or now <= before[0] or tokens < before[1]:
            # The first look, an engine that does not count, or one that was started anew.
            return None
        return (tokens - before[1]) / (now - before[0])

    def _let_go(self) -> None:
        if self._shell is not None:
            self._shell.__exit__(None, None, None)
            self._shell = None
