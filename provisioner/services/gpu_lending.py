"""Gives a node's GPUs to another VM, and gets them back.

That VM belongs to somebody: it is started, and shut down cleanly where its
owner has allowed that in the fleet file; nothing else is done to it, ever.
"""

from __future__ import annotations

from collections.abc import Callable

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import GpuRelease
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import ProvisionerError, RefusedError, ShutdownIgnoredError
from provisioner.planning.lease_words import slots_of
from provisioner.planning.mode_switch import may_hold_gpus, release_refusal, take_back_refusal
from provisioner.planning.ownership import Act
from provisioner.ports.hypervisors import Hypervisors
from provisioner.services.arbitration import Arbitration, Claim
from provisioner.services.events import OnEvent, running_step
from provisioner.services.gpu_holder import naming_gpu_holder
from provisioner.services.sleeping import Sleeping
from provisioner.services.slot_taking import SlotTaking
from provisioner.services.world import World

Note = Callable[..., None]


class GpuLending:
    """One side of `mode`: the GPUs of a node go to a VM that is not it, and come back."""

    def __init__(self, fleet: FleetSpec, world: World, sleeping: Sleeping) -> None:
        self._fleet = fleet
        self._world = world
        self._sleeping = sleeping
        self._arbitration = Arbitration(fleet, world)
        self._slots = SlotTaking(fleet, world)

    def give(self, node: NodeSpec, wanted: NodeSpec, on_event: OnEvent, *, note: Note, force: bool) -> None:
        """Put a node to sleep and start the VM that its GPUs go to.

        Args:
            node: the node, in the mode it is in.
            wanted: the same in the mode that gives its GPUs away.
            on_event: told about the steps.
            note: writes the mode to the node's VM.
            force: also while it is busy.

        Raises:
            RefusedError: the node is busy, or that VM is not one that may have its GPUs.
        """
        release = self._fleet.releases[wanted.mode]
        api = self._api(node)
        other = self._other(api, node, release)
        if other.power is Power.RUNNING and self._node_runs(api, node):
            # Both run, so it does not hold the GPUs now; it would not get them while it runs either.
            raise self._refused(
                node,
                f'VM {other.vmid} "{other.name}" runs already, without the GPUs: it gets them when it starts',
                f"shut it down, then: provisioner mode {node.name} {wanted.mode}",
            )
        # A request that came meanwhile would wake the node again before its notes say that its GPUs are given away.
        with self._sleeping.gate_closed(node):
            self._sleeping.shut_down(node, on_event, force=force)
            note(wanted, waits=True)
        if other.power is Power.RUNNING:
            return
        with running_step(on_event, node, f"start VM {other.vmid}", self._world.clock) as step:
            step.detail = f'"{other.name}", with the GPUs of {node.name}'
            try:
                with naming_gpu_holder(self._fleet, node, api):
                    ticket = self._slots.start(self._claim(node, wanted, other), step.say, on_event)
                    if ticket is not None:
                        ticket.wait()
            except ProvisionerError:
                # Nobody has the GPUs now, so the node may wake with them again.
                note(node, waits=True)
                raise

    def take_back(self, node: NodeSpec, on_event: OnEvent, *, force: bool) -> None:
        """Have the VM that holds a node's GPUs shut down cleanly, if that is allowed; its power is never cut.

        Raises:
            RefusedError: somebody holds the node as it is, or that VM is somebody else's and nobody has allowed it.
            ShutdownIgnoredError: it did not shut down in its time.
        """
        self._require_no_hold(node, force=force)
        release = self._fleet.release_of(node)
        if release is None:
            return
        api = self._api(node)
        other = api.vm(node.hypervisor, release.vmid)
        if other is None or other.power is Power.STOPPED:
            return
        ours = self._node_of(other)
        if ours is not None:
            self._sleeping.sleep(ours, on_event, force=force, may_rest=False)
            return
        found = take_back_refusal(node, release, other)
        if found is not None:
            raise self._refused(node, found.reason, found.next_step)
        freeing = self._arbitration.shutting_down(api, self._claim(node, node, other))
        with running_step(on_event, node, f"shut down VM {other.vmid}", self._world.clock) as step, freeing:
            step.detail = f'"{other.name}", cleanly, as mode "{release.name}" allows'
            # Once more, because now is when it counts.
            self._require_no_hold(node, force=force)
            try:
                api.shut_down_vm(other.hypervisor, other.vmid, seconds=node.patience.shutdown_seconds)
            except ShutdownIgnoredError as error:
                raise ShutdownIgnoredError(
                    error.summary,
                    subject=f'VM {other.vmid} "{other.name}" on {other.hypervisor}',
                    next_step=f"shut it down in its own system; its power is not ours to cut. Then: provisioner mode "
                    f"{node.name} {self._fleet.modes_of(node)[0].name}",
                    retryable=True,
                ) from error

    def _require_no_hold(self, node: NodeSpec, *, force: bool) -> None:
        """Let a switch pass only if nobody keeps the node, with its GPUs where they are. Raises RefusedError."""
        if not force:
            way_out = "; the same command with --force does not ask"
            self._arbitration.require_no_hold(node, Act.SWITCH, way_out=way_out)

    def _other(self, api: Hypervisors, node: NodeSpec, release: GpuRelease) -> VmSeen:
        other = api.vm(node.hypervisor, release.vmid) or api.snapshot().vms.get(release.vmid)
        found = release_refusal(node, release, other)
        if found is None and other is not None:
            config = api.config(other.hypervisor, other.vmid)
            if not may_hold_gpus(self._fleet, node, config, api.mappings(node.hypervisor)):
                devices = ", ".join(map(str, config.devices)) or "none"
                mappings = ", ".join(gpu.mapping for gpu in self._fleet.gpus_of(node))
                found = Refusal(
                    f'VM {other.vmid} "{other.name}" is not made to hold its GPUs: it is passed {devices}, '
                    f"and they are {mappings}",
                    f"add the mapping to it (Proxmox > VM {other.vmid} > Hardware > Add > PCI Device), or write "
                    f'another vmid under mode "{release.name}"',
                )
        if found is not None or other is None:
            assert found is not None  # noqa: S101 - no VM is a refusal
            raise self._refused(node, found.reason, found.next_step)
        return other

    def _claim(self, node: NodeSpec, wanted: NodeSpec, other: VmSeen) -> Claim:
        """Return what a VM asks for that gets a node's GPUs: all of them, on the node's terms."""
        return Claim(
            other.hypervisor,
            other.vmid,
            other.name,
            f'VM {other.vmid} "{other.name}" on {other.hypervisor}',
            slots_of(node),
            self._fleet.priority_of(wanted),
            node.gpu_wait_seconds,
        )

    def _node_runs(self, api: Hypervisors, node: NodeSpec) -> bool:
        vm = api.vm(node.hypervisor, node.vmid)
        return vm is not None and vm.power is not Power.STOPPED

    def _node_of(self, vm: VmSeen) -> NodeSpec | None:
        return next(
            (
                each
                for each in self._fleet.nodes.values()
                if each.vmid == vm.vmid and each.hypervisor == vm.hypervisor and vm.is_ours
            ),
            None,
        )

    @staticmethod
    def _refused(node: NodeSpec, reason: str, next_step: str) -> RefusedError:
        return RefusedError(f"cannot switch the mode: {reason}", subject=node.subject, next_step=next_step)

    def _api(self, node: NodeSpec) -> Hypervisors:
        return self._world.clusters[self._fleet.cluster_of(node).name]
