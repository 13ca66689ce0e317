"""A Proxmox on simulated time, with the faults of a real one. Only what starting and stopping VMs needs.

A request travels, arrives or not, and is answered or not; its sender may be dead by then. Starts and shutdowns are
tasks that take their time. Like the real one it gives a PCI device to one VM at a time, and refuses the second.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from provisioner.domain.conventions import TAG
from provisioner.domain.names import HypervisorName, Vmid
from provisioner.domain.snapshot import ClusterSnapshot, Power, VmConfig, VmSeen
from provisioner.errors import GpuTakenError, HypervisorError, ShutdownIgnoredError, UnreachableError, VmLockedError
from tests.simulation.time_line import TimeLine

PVE1 = HypervisorName("pve1")
# What is on its way for longer than this is out of the model: Proxmox's own proxy gives up after 30 s.
LONGEST_WAY_SECONDS = 25.0


@dataclass
class SimVm:
    """One VM. `ours` says whose doing it is that it has power: the provisioner's or somebody else's."""

    vmid: Vmid
    name: str
    cards: frozenset[str]
    tags: frozenset[str] = frozenset({TAG})
    power: Power = Power.STOPPED
    is_starting: bool = False
    is_stopping: bool = False
    ours: bool = False
    since: float = 0.0
    busy_until: float = 0.0
    silent_until: float = 0.0


@dataclass
class SimRequest:
    """One request to start a VM, and what became of it there."""

    failure: HypervisorError | None = None
    is_over: bool = False
    has_arrived: bool = False


@dataclass
class SimTicket:
    """A start under way. Like the real one it looks when an answer got lost, and asks again if nothing happened.

    A lock that soon opens makes it ask again too.
    """

    cluster: SimCluster
    vm: SimVm
    answered: SimRequest | None = None
    is_astray: bool = False
    """A request without an answer may be on its way for as long as it likes."""
    warnings: tuple[str, ...] = ()

    @property
    def may_still_arrive(self) -> bool:
        return self.is_astray or self.answered is None

    def send(self) -> None:
        self.answered = self.cluster.asked_to_start(self.vm)
        self.is_astray |= self.answered is None

    def is_done(self) -> bool:
        self.cluster.travel()
        if self.answered is not None:
            if isinstance(self.answered.failure, VmLockedError):
                self.answered = None
                return False
            if self.answered.failure is not None:
                raise self.answered.failure
            return self.answered.is_over
        if self.vm.power is Power.RUNNING:
            return True
        if not self.vm.is_starting:
            self.send()
        return False

    def wait(self) -> None:
        while not self.is_done():
            self.cluster.time.wait(0.5)

    def overdue(self, seconds: float) -> HypervisorError:
        return HypervisorError("still runs", subject="start", next_step="wait", retryable=True)


@dataclass
class SimCluster:
    """One hypervisor. `faults` may be switched off; `wrongs` are the collisions that were our own doing."""

    time: TimeLine
    dice: random.Random
    vms: dict[Vmid, SimVm] = field(default_factory=dict)
    calls: int = 0
    faults: bool = True
    wrongs: list[str] = field(default_factory=list)
    news: int = 0
    """How often Proxmox said "in use" because of somebody else's VM."""
    starts: int = 0
    asked_of: Callable[[str], None] = lambda name: None
    """Told right when a shutdown that may be refused is sent."""

    def chance(self, share: float) -> bool:
        return self.faults and self.dice.random() < share

    def travel(self) -> None:
        """Wait for an answer; some take long, and some never come."""
        self.calls += 1
        self.time.wait(self.dice.uniform(1, 20) if self.chance(0.01) else self.dice.uniform(0.005, 0.2))
        if self.chance(0.01):
            raise UnreachableError("cannot look: no answer", subject="pve1", next_step="try again", retryable=True)

    def vm(self, hypervisor: HypervisorName, vmid: Vmid) -> VmSeen | None:
        self.travel()
        # What is seen is as of now, and on its way back for a while.
        vm = self.vms.get(vmid)
        seen = None if vm is None else self._seen(vm)
        self.time.wait(self.dice.uniform(0.0, 0.1))
        return seen

    def snapshot(self) -> ClusterSnapshot:
        self.travel()
        return ClusterSnapshot({PVE1: True}, {vmid: self._seen(vm) for vmid, vm in self.vms.items()}, {})

    def config(self, hypervisor: HypervisorName, vmid: Vmid) -> VmConfig:
        self.travel()
        return VmConfig("", None)

    def active_tasks(self, hypervisor: HypervisorName, vmid: Vmid) -> frozenset[str]:
        self.travel()
        return frozenset({"qmstart"}) if self.vms[vmid].is_starting else frozenset()

    def going_down(self, hypervisor: HypervisorName) -> frozenset[Vmid]:
        # Only a service that begins asks, and here none does.
        raise NotImplementedError

    def start_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> SimTicket:
        ticket = SimTicket(self, self.vms[vmid])
        ticket.send()
        return ticket

    def asked_to_start(self, vm: SimVm) -> SimRequest | None:
        """Have a request travel; None if no answer comes."""
        request = SimRequest()
        lost_on_the_way, lost_on_the_way_back = self.chance(0.03), self.chance(0.03)
        if not lost_on_the_way:
            way = self.dice.uniform(1, LONGEST_WAY_SECONDS) if self.chance(0.05) else self.dice.uniform(0.005, 0.1)
            self.time.at(way, lambda: self.begin_start(vm, request, ours=True))
            # Nobody is answered before his request is there; some do not wait that long.
            self.time.wait(way if self.dice.random() < 0.7 else min(way, 5.0))
            lost_on_the_way_back |= request.has_arrived is False
        self.time.wait(self.dice.uniform(0.01, 0.2))
        return None if lost_on_the_way or lost_on_the_way_back else request

    def begin_start(self, vm: SimVm, request: SimRequest, *, ours: bool) -> None:
        """Take a start that has arrived."""
        request.has_arrived = True
        if vm.power is Power.RUNNING:
            request.is_over = True
            return
        if vm.is_starting:
            self._end_start_with(vm, request)
            return
        rivals = [
            other
            for other in self.vms.values()
            if other is not vm and other.cards & vm.cards and (other.power is Power.RUNNING or other.is_starting)
        ]
        if rivals:
            if ours and any(rival.ours for rival in rivals):
                self.wrongs.append(f"{self.time.now:.1f} s: {vm.name} was started while we ran {rivals[0].name}")
            self.news += ours
            request.failure = GpuTakenError("in use", subject=vm.name, next_step="wait")
            request.failure.holder = rivals[0].vmid
            return
        if self.chance(0.04):
            request.failure = HypervisorError("cannot start: no", subject=vm.name, next_step="mend it")
            return
        vm.is_starting, vm.ours = True, ours
        self.starts += ours

        def runs() -> None:
            vm.is_starting = False
            if self.chance(0.03):
                request.failure = HypervisorError("cannot start: QEMU exited", subject=vm.name, next_step="mend it")
                return
            vm.power, vm.since, request.is_over = Power.RUNNING, self.time.now, True

        self.time.at(self.dice.choice((0.2, 1.0, 3.0, 45.0)), runs)

    def start_by_stranger(self, vm: SimVm) -> None:
        """Have somebody else start a VM."""
        if vm.power is Power.STOPPED and not vm.is_starting:
            self.begin_start(vm, SimRequest(), ours=False)

    def _end_start_with(self, vm: SimVm, request: SimRequest) -> None:
        """The second start waits for the first one's lock, then finds the VM running, or not."""

        def look() -> None:
            if vm.is_starting:
                self.time.at(1.0, look)
            elif vm.power is Power.RUNNING:
                request.is_over = True
            else:
                request.failure = VmLockedError("cannot start: can't lock file", subject=vm.name, next_step="again")

        self.time.at(1.0, look)

    def shut_down_vm(self, hypervisor: HypervisorName, vmid: Vmid, *, seconds: float) -> tuple[str, ...]:
        vm = self.vms[vmid]
        self.asked_of(vm.name)
        takes = self.dice.choice((0.3, 1.0, 2.0, 20.0))
        if not self.chance(0.03):
            self.time.at(self.dice.uniform(0.005, 0.1), lambda: self.begin_stop(vm, takes, ignored=self.chance(0.05)))
        waited = 0.0
        while waited < seconds:
            self.time.wait(0.5)
            waited += 0.5
            if vm.power is Power.STOPPED:
                return ()
        raise ShutdownIgnoredError("cannot shut down: got timeout", subject=vm.name, next_step="--force")

    def stop_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        vm = self.vms[vmid]
        self.time.at(0.05, lambda: self.begin_stop(vm, 0.1, ignored=False))
        while vm.power is not Power.STOPPED:
            self.time.wait(0.2)
        return ()

    def begin_stop(self, vm: SimVm, takes: float, *, ignored: bool) -> None:
        """Take a shutdown that has arrived."""
        since = vm.since

        def off() -> None:
            if vm.power is Power.RUNNING and vm.since == since:
                vm.power, vm.ours = Power.STOPPED, False

        if not ignored:
            self.time.at(takes, off)

    def _seen(self, vm: SimVm) -> VmSeen:
        uptime = self.time.now - vm.since if vm.power is Power.RUNNING else 0.0
        return VmSeen(vm.vmid, vm.name, PVE1, vm.power, vm.tags, uptime_seconds=uptime)
