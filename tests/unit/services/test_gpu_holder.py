"""Who holds a GPU is said by name; what another task holds for a moment is waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import HypervisorName, Vmid
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import GpuTakenError, HypervisorError
from provisioner.services.gpu_holder import naming_gpu_holder
from provisioner.services.settling import settled
from tests.fakes.clock import FakeClock
from tests.fakes.hypervisors import FakeVm, refusal
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")


def taken_by(vmid: int) -> GpuTakenError:
    error = GpuTakenError(f"cannot start: in use by VMID '{vmid}'\n  a log line", subject="lab", next_step="x")
    error.holder = vmid
    return error


def named(fleet: FleetSpec, node: NodeSpec, world: FakeWorld, vmid: int) -> GpuTakenError:
    with pytest.raises(GpuTakenError) as caught, naming_gpu_holder(fleet, node, world.cluster):
        raise taken_by(vmid)
    assert caught.value.holder == vmid
    assert caught.value.subject == node.subject
    assert "log line" not in caught.value.summary
    return caught.value


def test_another_node_of_the_fleet_is_named_with_what_to_type(
    fleet: FleetSpec, node: NodeSpec, world: FakeWorld
) -> None:
    other = next(each for each in fleet.nodes.values() if each is not node)
    error = named(fleet, node, world, other.vmid)
    assert f'it is node "{other.name}"' in error.summary
    assert f"provisioner sleep {other.name}" in error.next_step


def test_somebody_elses_vm_is_named(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> None:
    world.cluster.vms[Vmid(200)] = FakeVm(
        VmSeen(Vmid(200), "windows", PVE1, Power.RUNNING), notes="", disk_bytes=GIB, mappings=(), seed=None
    )
    assert 'it is VM 200 "windows", no node of this fleet' in named(fleet, node, world, 200).summary


def test_a_holder_that_cannot_be_looked_at_keeps_its_vmid(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> None:
    world.cluster.fails["vm"] = refusal("silence")
    assert "it is VM 200, no node" in named(fleet, node, world, 200).summary


def test_other_errors_pass(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> None:
    with pytest.raises(HypervisorError, match="other"), naming_gpu_holder(fleet, node, world.cluster):
        raise refusal("other")


@pytest.mark.parametrize(("lock", "seconds"), [("clone", 10.0), ("create", 10.0), ("backup", 0.0), (None, 0.0)])
def test_only_short_locks_are_waited_for_and_not_for_ever(lock: str | None, seconds: float) -> None:
    clock = FakeClock()
    vm = VmSeen(Vmid(5001), "llm-gpu-01", PVE1, Power.STOPPED, lock=lock)
    assert settled(lambda: vm, clock=clock, seconds=10.0) == vm
    assert clock.monotonic() == pytest.approx(seconds)


def test_a_lock_that_opens_ends_the_wait() -> None:
    clock = FakeClock()
    locked = VmSeen(Vmid(5001), "llm-gpu-01", PVE1, Power.STOPPED, lock="clone")
    free = replace(locked, lock=None)
    assert settled(lambda: free if clock.monotonic() > 1 else locked, clock=clock, seconds=10.0) == free
    assert clock.monotonic() < 3
