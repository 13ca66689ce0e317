"""Gathers what `planning.idle` judges: each source is asked with a deadline of its own, all nodes side by side.

Of a guest everything is learnt in one round trip over one connection, which
stays open from pass to pass. Asking is no use: nothing here wakes an engine,
counts as a request, or looks like a login.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from provisioner.domain.activity import EngineActivity, Evidence, Signal
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_driver import DriverKind
from provisioner.domain.gpu_reading import GpuFacts
from provisioner.domain.lease import LeasePage
from provisioner.domain.measurement import WAKE
from provisioner.domain.names import NodeName
from provisioner.domain.node_sample import GuestNumbers
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.engines.base import AnswerUnreadable
from provisioner.errors import ProvisionerError
from provisioner.planning.awake import occasion_at
from provisioner.planning.bench_figures import measured_thing
from provisioner.planning.gpu.driver import wish_of
from provisioner.planning.guest_use import AnswerCut, guest_signals, use_command
from provisioner.planning.idle import Ladder, NodeUse
from provisioner.planning.least_uptime import COUNTED_WAKES
from provisioner.planning.live_numbers import live_command, live_numbers
from provisioner.planning.ownership import Act, objection
from provisioner.ports.guest_shell import GuestAway, GuestRefuses, GuestShell
from provisioner.ports.web import NoAnswer
from provisioner.services.engine_web import engine_web
from provisioner.services.entering import Entering
from provisioner.services.noted_modes import noted
from provisioner.services.proving import EngineProbe
from provisioner.services.together import Together
from provisioner.services.world import World

_MOST_AT_ONCE = 32
# Within it nvidia-smi on a sick card, which is given up after 15 s by the script itself, has had its time.
_LOOK_SECONDS = 40.0
# It asks four times as much, and what hangs is given up one after another; who stops the service waits so long.
_THOROUGH_SECONDS = 60.0
_GATEWAY = "gateway"

_Told = TypeVar("_Told")


@dataclass(slots=True)
class _Inside:
    """The way into one guest, kept open. One look at a time goes through it."""

    lock: threading.Lock
    shell: GuestShell | None = None
    host_key: str = ""
    is_over: bool = False
    """Nobody will close it any more: who came too late for it begins another."""

    def let_go(self) -> None:
        shell, self.shell = self.shell, None
        if shell is not None:
            with suppress(GuestAway):
                shell.__exit__(None, None, None)


class UseLooks:
    """Looks at how nodes are used. `close` ends the connections that it keeps.

    Args:
        fleet, world: what is wanted, and where to look.
    """

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._entering = Entering(fleet, world)
        self._lock = threading.Lock()
        self._guests: dict[NodeName, _Inside] = {}

    def of(self, seen: Iterable[tuple[NodeSpec, VmSeen | None]]) -> tuple[NodeUse, ...]:
        """Return what is known of the use of several nodes, in their order."""
        pairs = list(seen)
        holds = self._world.leases.read() if pairs else LeasePage()
        running = [each for each in pairs if _is_asked(*each)]
        looks: dict[NodeName, NodeUse] = {}
        if running:
            with ThreadPoolExecutor(min(len(running), _MOST_AT_ONCE)) as pool:
                found = pool.map(lambda each: self._running(each[0], each[1], holds), running)
                looks = {use.node.name: use for use in found}
        return tuple(looks.get(node.name) or self._unasked(node, vm) for node, vm in pairs)

    def look(self, node: NodeSpec, vm: VmSeen, *, with_waiting: bool = True) -> NodeUse:
        """Return what is known now of the use of one node that runs; its engine and its guest are both asked.

        Args:
            node: which.
            vm: its own.
            with_waiting: requests use it too that it has not let in.
        """
        use = self._running(node, vm, self._world.leases.read(), closely=True)
        if with_waiting:
            return use
        others = tuple(each for each in use.signals if each.source != _GATEWAY)
        return replace(use, signals=self.traffic(node, with_waiting=False) + others)

    def close(self) -> None:
        """End all connections; a later look makes new ones."""
        with self._lock:
            guests, self._guests = list(self._guests.values()), {}
        for inside in guests:
            self._end(inside)

    def leave(self, node: NodeName) -> None:
        """End the connection to a guest that goes off."""
        with self._lock:
            inside = self._guests.pop(node, None)
        if inside is not None:
            self._end(inside)

    @staticmethod
    def _end(inside: _Inside) -> None:
        with inside.lock:
            inside.is_over = True
            inside.let_go()

    def traffic(self, node: NodeSpec, *, with_waiting: bool = True) -> tuple[Signal, ...]:
        """Return what goes through us to a node, as `look` does."""
        traffic = self._world.in_flight.of(node.name)
        if not with_waiting:
            traffic = replace(traffic, waiting=0)
        mark = "" if traffic.last_request_at is None else f"{traffic.last_request_at:.3f}"
        busy = f"{traffic.running} requests through us running, {traffic.waiting} waiting" if traffic.is_busy else ""
        return (Signal(_GATEWAY, Evidence.BUSY if busy else Evidence.QUIET, busy, mark),)

    def engine(self, node: NodeSpec) -> tuple[EngineActivity | None, str]:
        """Return an engine's own numbers, or None and why there are none.

        A node that computes for a head has that one's; without it nobody uses what it runs.
        """
        if self._fleet.answering(node).name != node.name:
            try:
                if not Together(self._fleet, self._world).head_serves(node):
                    return EngineActivity(0, 0, 0.0), ""
            except ProvisionerError as error:
                return None, error.summary
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        try:
            return engine.activity(probe.activity_text(), self._world.clock.now()), ""
        except (NoAnswer, AnswerUnreadable) as reason:
            return None, str(reason)
        except ProvisionerError as error:
            # It refuses our key, or the key cannot be read.
            return None, error.summary

    def guest(self, node: NodeSpec) -> tuple[Signal, ...]:
        """Return what a guest itself shows; nothing for an adopted one, which we cannot log in to."""
        if node.adopt:
            return ()

        def read(text: str) -> tuple[Signal, ...]:
            return guest_signals(text, user=self._fleet.ssh.user, has_gpus=self._drives_gpus(node))

        found, why = self._told(node, use_command(), _LOOK_SECONDS, read)
        return found if found is not None else (Signal("guest", Evidence.UNKNOWN, why),)

    def numbers(self, node: NodeSpec, *, thoroughly: bool) -> tuple[tuple[GuestNumbers, GpuFacts] | None, str]:
        """Return how busy a guest is and what its cards say, or None and why not; over the same one connection.

        Args:
            node: which; nothing is asked of an adopted one, which we cannot log in to.
            thoroughly: versions and the kernel's log, too.
        """
        if node.adopt:
            return None, "it is adopted: nobody of us can log in"
        seconds = _THOROUGH_SECONDS if thoroughly else _LOOK_SECONDS
        return self._told(node, live_command(thoroughly=thoroughly), seconds, live_numbers)

    def _told(
        self, node: NodeSpec, command: tuple[str, ...], seconds: float, read: Callable[[str], _Told]
    ) -> tuple[_Told | None, str]:
        """Return what a guest answered, as `read` reads it, or None and why there is nothing."""
        while True:
            with self._lock:
                inside = self._guests.setdefault(node.name, _Inside(threading.Lock()))
            with inside.lock:
                if inside.is_over:
                    continue
                try:
                    return read(self._inside(node, inside, command, seconds)), ""
                except (GuestAway, GuestRefuses, AnswerCut) as reason:
                    why = str(reason)
                except ProvisionerError as error:
                    # Another machine may have taken its place: whatever we know of it is asked anew.
                    why, inside.host_key = error.summary, ""
                inside.let_go()
            return None, why

    def _inside(self, node: NodeSpec, inside: _Inside, command: tuple[str, ...], seconds: float) -> str:
        was_open = inside.shell is not None
        try:
            return self._ask(node, inside, command, seconds)
        except GuestAway:
            if not was_open:
                raise
        # What was left open may have died with a reboot of the guest; a new one tells.
        inside.let_go()
        return self._ask(node, inside, command, seconds)

    def _ask(self, node: NodeSpec, inside: _Inside, command: tuple[str, ...], seconds: float) -> str:
        if inside.shell is None:
            inside.host_key = inside.host_key or self._entering.host_key(node)
            shells = self._world.shells[self._fleet.cluster_of(node).name]
            inside.shell = shells.open(node, inside.host_key).__enter__()
        return inside.shell.run(command, seconds=seconds, privileged=True).out

    def _drives_gpus(self, node: NodeSpec) -> bool:
        wish = wish_of(self._fleet, node)
        has_none = not isinstance(wish, Refusal) and wish.kind is DriverKind.NONE
        return bool(node.gpus) and not has_none

    def _running(self, node: NodeSpec, vm: VmSeen | None, holds: LeasePage, *, closely: bool = False) -> NodeUse:
        base = self._unasked(node, vm)
        base = replace(base, last=self._world.activity.last(node.name), claims=self._claims(node, holds))
        try:
            node = noted(self._fleet, self._world.clusters[self._fleet.cluster_of(node).name], node)[0]
        except ProvisionerError as error:
            return replace(base, why_unknown=error.summary)
        activity, why = self.engine(node)
        signals = self.traffic(node)
        busy = (activity is not None and activity.is_busy) or any(each.evidence is Evidence.BUSY for each in signals)
        if closely or not busy:
            signals += self.guest(node)
        return replace(
            base,
            node=node,
            activity=activity,
            why_unknown=why,
            signals=signals,
            wakes=self._wakes(node),
            ladder=self.ladder(node),
        )

    def _unasked(self, node: NodeSpec, vm: VmSeen | None) -> NodeUse:
        occasion = occasion_at(node.awake, self._world.clock.now())
        # Not whether it may be put to sleep: one that was put to disk is as much asleep as any other.
        may_start = vm is not None and objection(node, vm, Act.WAKE) is None
        wakes = may_start and occasion is not None and node.awake.pre_wake_seconds is not None
        served = self._world.activity.hours_served(node.name) if wakes else None
        is_dark = vm is not None and vm.power is Power.UNKNOWN
        last = self._world.activity.last(node.name) if is_dark else None
        return NodeUse(node, vm, None, "", last, occasion=occasion, hours_served=served)

    def _claims(self, node: NodeSpec, page: LeasePage) -> tuple[str, ...]:
        now = self._world.clock.now()
        return tuple(
            f"{hold.by} holds it until {_moment(hold.until)}" + (f" ({hold.why})" if hold.why else "")
            for hold in page.holds_on(node.name, now)
        )

    def _wakes(self, node: NodeSpec) -> tuple[float, ...]:
        if node.min_uptime_seconds is not None:
            return ()
        found = self._world.measurements.last(measured_thing(self._fleet, node, WAKE), COUNTED_WAKES)
        return tuple(each.figures["seconds"] for each in found)

    def ladder(self, node: NodeSpec) -> Ladder:
        """Return how far down a node can go; its engine is asked only where that matters."""
        lost = tuple(f"GPU {gpu.name}" for gpu in self._fleet.gpus_of(node) if not gpu.survives_stop)
        if not lost and node.rest_after_seconds is None:
            return Ladder()
        mode = self._fleet.mode_of(node)
        engine = self._world.engines[mode.engine]
        if not engine.resting_path or not engine.sleep(mode.models):
            return Ladder(lost_by_stop=lost)
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        try:
            rests = engine.is_resting(probe.resting_text())
        except (NoAnswer, AnswerUnreadable):
            # vLLM answers only where it was started to sleep.
            return Ladder(lost_by_stop=lost)
        except ProvisionerError:
            # It refuses our key, or the key cannot be read: `engine` tells.
            return Ladder(lost_by_stop=lost)
        return Ladder(can_rest=True, rests=rests, lost_by_stop=lost)


def _is_asked(node: NodeSpec, vm: VmSeen | None) -> bool:
    # Nobody else's guest is asked anything.
    return vm is not None and vm.power is Power.RUNNING and objection(node, vm, Act.SLEEP) is None


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
