"""Plays traces of activity to the real idle passes: how often is one in use stopped, how late one that is not.

A trace tells what happens in the world, second by second. Passes look at that world as they would at a real one: at the
engine's numbers, inside the guest, at the gateway's counters, at Proxmox. Nothing of a trace reaches them otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.lease import Hold, holding
from provisioner.domain.measurement import WAKE, Measurement
from provisioner.domain.names import HypervisorName, NodeName
from provisioner.domain.quantities import parse_duration
from provisioner.domain.snapshot import Power
from provisioner.planning.bench_figures import measured_thing
from provisioner.planning.idle import IdleDecision, IdleVerdict
from provisioner.services.events import ignore
from provisioner.services.fleet_view import FleetView
from provisioner.services.idling import Idling
from provisioner.services.provisioning import Provisioning
from tests.fakes.guests import ENGINE_PID
from tests.fakes.world import FakeWorld

FOLDER = Path(__file__).parent
PVE1 = HypervisorName("pve1")
_SETTLED = 3600.0


@dataclass(frozen=True)
class Trace:
    """One file. Times are seconds from its beginning."""

    name: str
    what: str
    facts: dict[str, str]
    deeds: tuple[tuple[float, list[str]], ...]

    def seconds(self, key: str, default: float = 0.0) -> float:
        return parse_duration(self.facts[key]) if key in self.facts else default

    @property
    def may_stop_from(self) -> float:
        return self.seconds("used_until") + self.seconds("idle_after")

    @property
    def stays(self) -> bool:
        return self.facts["then"].startswith("stays")


@dataclass
class Played:
    """What became of the node. `stopped_at` is None where it stayed on; times are seconds from the beginning."""

    trace: Trace
    stopped_at: float | None = None
    told_at: float | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def is_false_stop(self) -> bool:
        """It was stopped while it was in use, or before it was quiet for as long as its owner wants."""
        return self.stopped_at is not None and (self.trace.stays or self.stopped_at < self.trace.may_stop_from)

    @property
    def late_by(self) -> float:
        """Seconds from the first moment at which it might have been stopped; negative for too early."""
        if self.trace.stays:
            return 0.0
        end = self.trace.seconds("ends") if self.stopped_at is None else self.stopped_at
        return end - self.trace.may_stop_from


def traces() -> tuple[Trace, ...]:
    """Return all of them, by name."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.txt")))


def play(trace: Trace, fleet: FleetSpec, *, loop: float, phase: float) -> Played:
    """Make idle passes `loop` seconds apart while a trace happens; the first `phase` seconds after its beginning."""
    stage = _Stage(trace, fleet)
    played = Played(trace)
    idling = Idling(fleet, stage.world)
    now, deeds, next_pass = 0.0, list(trace.deeds), phase
    probe_every = trace.seconds("probes", float("inf"))
    next_probe = 0.0 if "probes" in trace.facts else float("inf")
    while now < trace.seconds("ends"):
        while deeds and deeds[0][0] <= now:
            stage.happen(deeds.pop(0)[1])
        if next_probe <= now:
            stage.probe()
            next_probe += probe_every
        if next_pass <= now:
            (decision,) = idling.idle([stage.node], ignore)
            next_pass += loop
            _note(played, decision, now)
            if played.stopped_at is not None:
                return played
        ahead = min(next_pass, next_probe, deeds[0][0] if deeds else float("inf"), trace.seconds("ends"))
        stage.world.clock.advance(ahead - now)
        now = ahead
    return played


def _note(played: Played, decision: IdleDecision, now: float) -> None:
    played.reasons.append(f"{now / 60:6.2f} min {decision.verdict.value}: {decision.reason}")
    if decision.verdict is IdleVerdict.SLEEP:
        played.stopped_at = now
    if decision.verdict is IdleVerdict.UNKNOWN and played.told_at is None:
        played.told_at = now


class _Stage:
    """A node that serves, in a world of fakes, and what may happen to it."""

    def __init__(self, trace: Trace, fleet: FleetSpec) -> None:
        self.world = FakeWorld()
        node = fleet.nodes[NodeName("llm-gpu-01")]
        Provisioning(fleet, self.world).up(node, ignore)
        wakes = [parse_duration(each) for each in trace.facts.get("wakes", "").split()]
        self.node: NodeSpec = replace(
            node,
            idle_after_seconds=trace.seconds("idle_after"),
            gpus=node.gpus * int(trace.facts.get("gpus", "1")),
            min_uptime_seconds=None,
        )
        self.fleet = fleet
        self.world.clock.advance(60)
        for seconds in wakes:
            thing = measured_thing(fleet, self.node, WAKE)
            self.world.measurements.add(Measurement(thing, self.world.clock.now(), {"seconds": seconds}))
        vm = self.world.cluster.vms[self.node.vmid]
        vm.started_at = self.world.clock.monotonic() - trace.seconds("uptime", _SETTLED)
        self.world.guests.shows["logins"] = "1799990000"

    def probe(self) -> None:
        """Look at it as monitors, status pages and `top` do."""
        for path in ("health", "metrics", "v1/models"):
            self.world.guests.get(f"http://{self.node.reach.address}:8080/{path}", seconds=1)
        FleetView(self.fleet, self.world).status([self.node])
        # What they run there the guest leaves out by itself; an open connection is what remains.
        self.world.guests.shows["connections"] = "session 7\nName=provisioner"

    def happen(self, words: list[str]) -> None:
        guests, node = self.world.guests, self.node
        match words:
            case ["chat", tokens]:
                guests.tokens += int(tokens)
            case ["running", count]:
                guests.running = int(count)
            case ["login", "-"] | ["session", "-"]:
                guests.shows.pop("connections")
                guests.shows["logins"] = str(round(self.world.clock.now()))
            case ["login", who, terminal]:
                self._session("3", who, f"TTY={terminal}\nprogram {terminal} -bash")
                guests.shows["logins"] = str(round(self.world.clock.now()))
            case ["session", who, *command]:
                self._session("4", who, f"program ? {' '.join(command)}")
            case ["wtmp", moment]:
                guests.shows["logins"] = moment
            case ["download", "-"]:
                guests.shows.pop("downloads")
            case ["download", name]:
                guests.shows["downloads"] = f"/usr/share/ollama/.ollama/models/blobs/{name}"
            case ["lock", "-"]:
                guests.shows.pop("locks")
            case ["lock", name]:
                guests.shows["locks"] = name
            case ["process", "-"]:
                guests.shows.pop("smi-processes")
            case ["process", name]:
                guests.shows["smi-processes"] = f"4711, 8000, GPU-00000000-0000-0000-0000-000000000000, {name}"
            case ["gpu", number, percent]:
                guests.gpu_percent[int(number)] = int(percent)
            case ["clock", jump]:
                sign, seconds = (-1, jump[1:]) if jump.startswith("-") else (1, jump)
                self.world.clock.jump(sign * parse_duration(seconds))
            case ["engine", "silent"]:
                guests.engine_dead = True
            case ["engine", "answers"]:
                guests.engine_dead = False
            case ["engine", "restarts"]:
                guests.tokens, guests.engine_pid = 0, ENGINE_PID + 1
            case ["gateway", "1"]:
                assert self.world.in_flight.enter(node.name, self.world.clock.now())
            case ["gateway", "0"]:
                self.world.in_flight.leave(node.name, self.world.clock.now())
            case ["hold", duration]:
                now = self.world.clock.now()
                with self.world.leases.turn() as turn:
                    turn.page = holding(turn.page, Hold(node.name, "alice", now, now + parse_duration(duration)))
            case ["guest", "hangs"]:
                guests.hangs = True
            case ["power", state]:
                vm = self.world.cluster.vms[node.vmid]
                vm.seen = replace(vm.seen, power=Power(state))
            case _:
                raise AssertionError(words)

    def _session(self, number: str, who: str, rest: str) -> None:
        self.world.guests.shows["connections"] = f"session {number}\nName={who}\n{rest}"


def _read(path: Path) -> Trace:
    what, facts, deeds = "", {}, []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if line.startswith("#"):
            what = line.removeprefix("# ")
        elif words and words[0][0].isdigit():
            deeds.append((parse_duration(words[0]), words[1:]))
        elif words:
            facts[words[0]] = line.split(maxsplit=1)[1]
    return Trace(path.stem, what, facts, tuple(deeds))


__all__ = ["Played", "Trace", "all_played", "play", "traces"]


def all_played(fleet: FleetSpec, loop: float, phases: range) -> Iterator[Played]:
    """Play every trace with the passes at every one of these phases (seconds)."""
    for trace in traces():
        for phase in phases:
            yield play(trace, fleet, loop=loop, phase=phase)
