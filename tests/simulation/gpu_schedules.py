"""Random schedules of wakes, sleeps, holds, deaths and strangers around two GPUs; what must hold in all of them.

Replay one: ``python -m tests.simulation.gpu_schedules SEED``
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.in_flight import InFlight
from provisioner.domain.lease import LeasePage, LeasePhase
from provisioner.domain.names import ClusterName, NodeName, Vmid
from provisioner.domain.snapshot import Power
from provisioner.engines.registry import ENGINES
from provisioner.errors import GpuTakenError, NotReadyError, ProvisionerError, RefusedError
from provisioner.planning.arbiter import Verdict
from provisioner.ports.web import NO_HEADERS, Answer, Headers, NoAnswer
from provisioner.services.arbitration import Arbitration, Claim, claim_of
from provisioner.services.events import ignore
from provisioner.services.sleeping import Sleeping
from provisioner.services.slot_taking import SlotTaking, Taken
from tests.fakes.leases import MemoryTurn
from tests.fakes.world import MemoryActivityLog
from tests.fleets import FLEET, fleet_from
from tests.simulation.cluster import SimCluster, SimVm
from tests.simulation.time_line import Process, TimeLine

# Three nodes on one card, one on both, one on the other.
_NODES = """\
  llm-gpu-01: {hypervisor: pve1, gpus: [g1], modes: [small], gateway: 10.10.0.1}
  llm-gpu-02: {hypervisor: pve1, gpus: [g1], modes: [small]}
  llm-gpu-03: {hypervisor: pve1, gpus: [g1], modes: [small]}
  llm-gpu-04: {hypervisor: pve1, gpus: [g1, g2], modes: [small]}
  llm-gpu-05: {hypervisor: pve1, gpus: [g2], modes: [small]}
"""
WINDOWS = Vmid(200)
# Most of a schedule happens within this; then come the waits.
_SECONDS = 200.0
# A shutdown that was begun is waited for (as long as the fleet file allows by default), and then one look at all that
# is in the way is made, some answers of which take long.
SHUTDOWN_SECONDS = 120.0
_SLACK_SECONDS = SHUTDOWN_SECONDS + 60.0


@lru_cache
def simulated_fleet() -> FleetSpec:
    """Return the fleet that all schedules share."""
    text = FLEET[: FLEET.index("  llm-gpu-01")] + _NODES
    text = text.replace("rtx3090: {mapping: rtx3090, vram: 24GiB}", "g1: {mapping: g1}\n      g2: {mapping: g2}")
    with tempfile.TemporaryDirectory() as folder:
        return fleet_from(Path(folder), text)


@dataclass
class Outcome:
    """What became of one schedule."""

    seed: int
    wrongs: list[str] = field(default_factory=list)
    granted: int = 0
    joined: int = 0
    told: int = 0
    killed: int = 0
    starts: int = 0
    news: int = 0
    longest_wait: float = 0.0
    trace: list[str] = field(default_factory=list)


class SimBook:
    """The lease book of one process; turns happen at once, and only those of the living are kept."""

    def __init__(self, schedule: Schedule, process: Process) -> None:
        self._schedule = schedule
        self._process = process
        self.owner = process.name
        self._in_turn = False

    def read(self) -> LeasePage:
        self._schedule.step()
        return self._schedule.page

    @contextmanager
    def turn(self) -> Iterator[MemoryTurn]:
        self._schedule.step()
        turn = MemoryTurn(before := self._schedule.page)
        self._in_turn = True
        try:
            yield turn
        finally:
            self._in_turn = False
        assert self._schedule.page is before, "a turn was not alone"
        self._schedule.keep(turn.page)
        self._schedule.step()

    def is_alive(self, owner: str) -> bool:
        if not self._in_turn:
            self._schedule.step()
        return owner in self._schedule.living


class SimLocks:
    """Node locks; the kernel drops those of the dead."""

    def __init__(self, schedule: Schedule, process: Process) -> None:
        self._schedule = schedule
        self._process = process

    @contextmanager
    def held(self, node: NodeName) -> Iterator[None]:
        self._schedule.step()
        taken = self._schedule.locks
        holder = taken.get(node)
        if holder is not None and not holder.is_dead:
            raise RefusedError("cannot work on the node: another does", subject=node, next_step="wait", retryable=True)
        taken[node] = self._process
        try:
            yield
        finally:
            if taken.get(node) is self._process:
                del taken[node]


class SimClock:
    """Simulated time; the time of day may jump."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def now(self) -> float:
        return 1_800_000_000.0 + self._schedule.time.now + self._schedule.jump

    def monotonic(self) -> float:
        return self._schedule.time.now

    def sleep(self, seconds: float) -> None:
        self._schedule.time.wait(seconds)


class SimWeb:
    """Engines: quiet, in use, or silent."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        self._schedule.step()
        host = url.split("//")[1].split(":")[0]
        vm = next(self._schedule.cluster.vms[n.vmid] for n in self._schedule.nodes if str(n.address.ip) == host)
        now = self._schedule.time.now
        if vm.power is not Power.RUNNING or now < vm.silent_until:
            raise NoAnswer("connection refused")
        names = ("requests_processing", "requests_deferred", "tokens_predicted_total", "n_decode_total")
        running = int(now < vm.busy_until)
        return Answer(200, "".join(f"llamacpp:{name} {running if name == names[0] else 0}\n" for name in names))


class SimWorld:
    """What one process sees of the world."""

    def __init__(self, schedule: Schedule, process: Process) -> None:
        self.clock = SimClock(schedule)
        self.clusters = {ClusterName("homelab"): schedule.cluster}
        self.engines = ENGINES
        self.web = SimWeb(schedule)
        self.activity = MemoryActivityLog()
        self.in_flight = InFlight()
        self.leases = SimBook(schedule, process)
        self.locks = SimLocks(schedule, process)


class Schedule:
    """One schedule, made and judged by one seed."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.dice = random.Random(seed)
        self.time = TimeLine()
        self.cluster = SimCluster(self.time, self.dice)
        self.cluster.asked_of = self._shutdown_is_sent
        self.page = LeasePage()
        self.locks: dict[NodeName, Process] = {}
        self.living: set[str] = set()
        self.jump = 0.0
        self.outcome = Outcome(seed)
        self._traces = trace
        self._forced: set[str] = set()
        self._jumped = 0.0
        self._held: dict[str, float] = {}
        fleet = simulated_fleet()
        dice = self.dice
        nodes = {
            name: replace(
                node,
                # Nobody logs in to an adopted one: what its engine and Proxmox say is all that there is.
                adopt=True,
                min_uptime_seconds=0.0,
                priority=dice.choice((0, 0, 0, 5)),
                min_residence_seconds=dice.choice((0.0, 5.0, 40.0)),
                gpu_wait_seconds=dice.choice((10.0, 60.0, 150.0)),
            )
            for name, node in fleet.nodes.items()
        }
        self.fleet = replace(fleet, nodes=nodes)
        self.nodes: list[NodeSpec] = list(nodes.values())
        for node in self.nodes:
            self.cluster.vms[node.vmid] = SimVm(node.vmid, node.name, frozenset(node.gpus))
        self.cluster.vms[WINDOWS] = SimVm(WINDOWS, "windows", frozenset({"g1"}), tags=frozenset())

    def run(self) -> Outcome:
        """Let it happen, then see whether everything still works."""
        dice, time = self.dice, self.time
        for number in range(dice.randint(3, 7)):
            self._command(f"command {number}", dice.uniform(0, 60))
        for _ in range(dice.randint(0, 8)):
            time.at(dice.uniform(0, _SECONDS), self._somebody_elses_doing)
        time.run()
        self._afterwards()
        self.outcome.wrongs += self.cluster.wrongs
        self.outcome.starts, self.outcome.news = self.cluster.starts, self.cluster.news
        return self.outcome

    def step(self) -> None:
        """A moment passes; sometimes the process stands still for long."""
        seconds = self.dice.uniform(0.0, 0.01)
        process = self.time.current
        if self.cluster.faults and process is not None and self.dice.random() < 0.003:
            still = self.dice.uniform(1, 100)
            process.stood_still += still
            seconds += still
        self.time.wait(seconds)

    def keep(self, page: LeasePage) -> None:
        """Keep a page, if it breaks no law."""
        for slot, fence in self.page.fences.items():
            if page.fences.get(slot, 0) < fence:
                self._wrong(f"the fencing number of {slot} went back")
        for slot, lease in page.leases.items():
            before = self.page.leases.get(slot)
            if lease.fence != page.fences[slot]:
                self._wrong(f"{slot} is leased with an old number")
            if before is not None and before.vmid != lease.vmid and lease.phase is LeasePhase.TAKING:
                vm = self.cluster.vms[before.vmid]
                if vm.ours and vm.power is Power.RUNNING:
                    self._wrong(f"{slot} went from {before.name}, which we run, to {lease.name}")
        if self._traces and page != self.page:
            leases = ", ".join(f"{s.gpu}: {v.name} {v.phase.value} #{v.fence}" for s, v in page.leases.items())
            self.say(f"book: {leases or 'free'}; waiting: {', '.join(w.name for w in page.waiters) or 'nobody'}")
        self.page = page

    def say(self, words: str) -> None:
        """Note what happens, for whoever replays it."""
        if self._traces:
            who = self.time.current.name if self.time.current else ""
            self.outcome.trace.append(f"{self.time.now:8.2f} {who:10} {words}")

    def _wrong(self, words: str) -> None:
        self.say(f"WRONG: {words}")
        self.outcome.wrongs.append(f"{self.time.now:.1f} s: {words}")

    def _shutdown_is_sent(self, name: str) -> None:
        process = self.time.current
        now = SimClock(self).now()
        # One that was over counts again once the clock is set back, which whoever asked before could not know.
        holds = [
            hold for hold in self.page.holds_on(NodeName(name), now) if self._held.get(hold.by, -1.0) >= self._jumped
        ]
        if process is not None and process.name not in self._forced and holds:
            self._wrong(f"{name} is shut down though somebody holds it")

    def _command(self, name: str, begins: float) -> None:
        """Have a process run that does one thing or a few, and may be killed."""
        dice = self.dice
        process = Process(name)
        self.living.add(name)
        deeds = [self._deed() for _ in range(dice.choice((1, 1, 2)))]

        def work() -> None:
            world: Any = SimWorld(self, process)
            for deed, node in deeds:
                self.say(f"{deed} {node.name}")
                try:
                    self._do(deed, node, world, process)
                except ProvisionerError as error:
                    self.say(f"{deed} {node.name}: {error.summary}")
            self.living.discard(name)

        def kill() -> None:
            if name in self.living:
                self.living.discard(name)
                process.is_dead = True
                self.outcome.killed += 1
                self.say(f"{name} is killed")

        self.time.start(process, begins, work)
        if dice.random() < 0.4:
            self.time.at(begins + dice.expovariate(1 / 15), kill)

    def _deed(self) -> tuple[str, NodeSpec]:
        deed = self.dice.choices(("wake", "sleep", "sleep --force", "hold", "release"), (12, 3, 1, 2, 1))[0]
        return deed, self.dice.choice(self.nodes)

    def _do(self, deed: str, node: NodeSpec, world: Any, process: Process) -> None:
        match deed:
            case "wake":
                self._wake(claim_of(self.fleet, node), world, process)
            case "sleep":
                Sleeping(self.fleet, world).sleep(node, ignore)
            case "sleep --force":
                self._forced.add(process.name)
                Sleeping(self.fleet, world).sleep(node, ignore, force=True)
                self._forced.discard(process.name)
            case "hold":
                seconds = self.dice.choice((20.0, 100.0, 7200.0))
                Arbitration(self.fleet, world).hold(node, by=process.name, seconds=seconds)
                self._held[process.name] = self.time.now
            case "release":
                Arbitration(self.fleet, world).release(node, by=self.dice.choice(self.nodes).name)

    def _wake(self, claim: Claim, world: Any, process: Process) -> None:
        """Wake as `wake` does: take the slots, start, hear how that ended."""
        slots = SlotTaking(self.fleet, world)
        taken = self._take(slots, claim, process)
        if taken.verdict is not Verdict.GRANT:
            return
        ticket: Any = Arbitration(self.fleet, world).start(world.clusters[ClusterName("homelab")], claim, taken.leases)
        give_up = self.time.now + (self.dice.choice((5.0, 600.0)) if self.cluster.faults else 600.0)
        while not ticket.is_done():
            if self.time.now > give_up:
                ticket.leave()
                return
            self.time.wait(0.5)

    def _take(self, slots: SlotTaking, claim: Claim, process: Process) -> Taken:
        begun, still = self.time.now, process.stood_still
        try:
            taken = slots.take(claim, self.say)
        except (RefusedError, NotReadyError):
            self.outcome.told += 1
            raise
        else:
            self.outcome.granted += taken.verdict is Verdict.GRANT
            self.outcome.joined += taken.verdict is not Verdict.GRANT
            return taken
        finally:
            waited = self.time.now - begun - (process.stood_still - still)
            self.outcome.longest_wait = max(self.outcome.longest_wait, waited - claim.wait_seconds)
            if not process.is_dead and waited > claim.wait_seconds + _SLACK_SECONDS:
                self._wrong(f"{claim.name} was kept waiting for {waited:.0f} s of {claim.wait_seconds:.0f} s")

    def _somebody_elses_doing(self) -> None:
        """Something that we did not ask for."""
        if not self.cluster.faults:
            return
        dice = self.dice
        vm = dice.choice(list(self.cluster.vms.values()))
        match dice.choices(("start", "off", "busy", "silent", "clock"), (3, 2, 4, 1, 1))[0]:
            case "start":
                self.say(f"a stranger starts {vm.name}")
                self.cluster.start_by_stranger(vm)
            case "off":
                self.say(f"{vm.name} goes off by itself")
                self.cluster.begin_stop(vm, 1.0, ignored=False)
            case "busy":
                vm.busy_until = self.time.now + dice.choice((5.0, 30.0, 3600.0))
            case "silent":
                vm.silent_until = self.time.now + dice.uniform(5, 60)
            case "clock":
                self.jump += dice.uniform(-7200, 7200)
                self._jumped = self.time.now
                self.say(f"the clock is {self.jump:.0f} s off")

    def _afterwards(self) -> None:
        """Every process has ended. With nobody in the way, every node must still get its cards in its time."""
        quick = {name: replace(node, min_residence_seconds=0.0, priority=0) for name, node in self.fleet.nodes.items()}
        self.fleet, self.nodes = replace(self.fleet, nodes=quick), list(quick.values())
        self.cluster.faults = False
        self.time.pass_by(120.0)
        self.page = replace(self.page, holds=())
        for vm in self.cluster.vms.values():
            vm.busy_until = vm.silent_until = 0.0
            if vm.vmid == WINDOWS:
                vm.power, vm.is_starting, vm.ours = Power.STOPPED, False, False

        def work() -> None:
            world: Any = SimWorld(self, process)
            for node in self.nodes:
                claim = replace(claim_of(self.fleet, node), wait_seconds=200.0)
                try:
                    try:
                        self._wake(claim, world, process)
                    except GpuTakenError:
                        # What a stranger started beside a start that got lost is found out like this, once.
                        self._wake(claim, world, process)
                except ProvisionerError as error:
                    self._wrong(f"at the end {node.name} cannot be woken: {error.summary}")
                    return
                if self.cluster.vms[node.vmid].power is not Power.RUNNING:
                    self._wrong(f"at the end {node.name} was woken and does not run")
            self.living.discard(process.name)

        process = Process("last")
        self.living = {process.name}
        self.time.start(process, 0.0, work)
        self.time.run()


def run(seed: int, *, trace: bool = False) -> Outcome:
    """Run one schedule."""
    return Schedule(seed, trace=trace).run()


def main(arguments: Mapping[int, str]) -> int:
    """Replay one seed, step by step."""
    outcome = run(int(arguments[1]), trace=True)
    print("\n".join(outcome.trace))
    print(f"seed {outcome.seed}: {len(outcome.wrongs)} wrong; {outcome.granted} granted, {outcome.told} told no")
    for wrong in outcome.wrongs:
        print(f"  {wrong}")
    return bool(outcome.wrongs)


if __name__ == "__main__":
    sys.exit(main(dict(enumerate(sys.argv))))
