"""Makes templates, once each however many ask, and removes those that nothing is made from any more.

Proxmox is the referee between processes and machines: a VMID is claimed by
creating its VM, and who comes second finds the first one's work by its tags,
waits for it, and finishes it if the first one was killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import HypervisorName, Vmid
from provisioner.domain.snapshot import ClusterSnapshot, StorageSeen, VmSeen
from provisioner.domain.templates import (
    FIRST_TEMPLATE_VMID,
    Template,
    TemplateShape,
    is_named_so,
    is_template_of_ours,
)
from provisioner.errors import HypervisorError, PermissionMissingError, VmidTakenError
from provisioner.planning.cloning import free_template_vmid, templates, wanted_keys
from provisioner.ports.clock import Clock
from provisioner.ports.hypervisors import Hypervisors
from provisioner.services.world import World
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# Each round finds the template, claims a VMID or waits for whoever did; more is a loop.
_MOST_ROUNDS = 20
# Where templates are looked for that do not show yet whose they are.
_RANGE = range(FIRST_TEMPLATE_VMID, FIRST_TEMPLATE_VMID + 100)
_MAKING_SECONDS = 1800.0
_MAKES = frozenset({"qmcreate", "qmrestore", "qmclone"})


@dataclass(frozen=True, slots=True)
class Made:
    """A template, with whether it was made or finished just now, and what Proxmox warned of."""

    template: Template
    changed: bool
    warnings: tuple[str, ...] = ()


class TemplateMaker:
    """Makes the templates of one fleet. Safe to use from several threads: they wait for each other."""

    def __init__(self, fleet: FleetSpec, clock: Clock) -> None:
        self._fleet = fleet
        self._clock = clock
        self._locks: dict[tuple[str, HypervisorName], threading.Lock] = {}

    def ensure(self, api: Hypervisors, node: NodeSpec, wanted: TemplateShape, say: Callable[[str], None]) -> Made:
        """Return the template that a node is cloned from; make it, or finish a half-made one, if need be.

        Raises:
            HypervisorError: Proxmox refuses, or other writers take every VMID that is tried.
        """
        with self._locks.setdefault((wanted.key, node.hypervisor), threading.Lock()):
            return self._ensure(api, node, wanted, say)

    def _ensure(self, api: Hypervisors, node: NodeSpec, wanted: TemplateShape, say: Callable[[str], None]) -> Made:
        taken: set[Vmid] = set()
        for _ in range(_MOST_ROUNDS):
            cluster = api.snapshot()
            for found in templates(self._fleet, cluster, wanted, node, _storage(cluster, node, wanted)):
                made = self._finished(api, found, wanted)
                if made is not None:
                    return made
            unclear = self._unclear(cluster, node, taken)
            if unclear is not None:
                say(f"VM {unclear.vmid} is being made; it may be the template")
                if not self._settled(api, unclear):
                    # A lock that a crash left behind: whose VM it was to be, nobody can tell.
                    taken.add(unclear.vmid)
                continue
            vmid = free_template_vmid(self._fleet, cluster.vms, frozenset(taken))
            try:
                warnings = api.create_template(node.hypervisor, vmid, wanted)
            except VmidTakenError:
                if api.vm(node.hypervisor, vmid) is None:
                    # On another server, or out of our sight; else the next look shows whose it is.
                    taken.add(vmid)
                continue
            warnings += api.make_template(node.hypervisor, vmid)
            return Made(Template(vmid, node.hypervisor), True, warnings)
        raise HypervisorError(
            f"cannot make template {wanted.name}: other writers took every VMID that was tried",
            subject=node.subject,
            next_step=f"see who makes VMs from {FIRST_TEMPLATE_VMID} on (Proxmox > Tasks), or write clone: never",
            retryable=True,
        )

    def _finished(self, api: Hypervisors, found: VmSeen, wanted: TemplateShape) -> Made | None:
        """Return the template that was found, made one if it was only on its way; None when it is something else."""
        template = Template(found.vmid, found.hypervisor)
        # The cluster's report is late; the VM itself is not.
        now = found if found.is_template else api.vm(found.hypervisor, found.vmid)
        if now is None or now.name != wanted.name or now.lock is not None or not is_template_of_ours(now):
            return None
        if now.is_template:
            return Made(template, False)
        return Made(template, True, api.make_template(found.hypervisor, found.vmid))

    def _unclear(self, cluster: ClusterSnapshot, node: NodeSpec, dead: set[Vmid]) -> VmSeen | None:
        nodes = {each.vmid for each in self._fleet.nodes.values()}
        return next(
            (
                vm
                for vmid, vm in sorted(cluster.vms.items())
                if vm.is_being_made
                and vm.hypervisor == node.hypervisor
                and vmid in _RANGE
                and vmid not in nodes
                and vmid not in dead
            ),
            None,
        )

    def _settled(self, api: Hypervisors, making: VmSeen) -> bool:
        """Wait until a VM is made, or gone; say False when nobody is at it any more."""
        looks_without_task = [0]

        def look() -> bool | NotYet:
            vm = api.vm(making.hypervisor, making.vmid)
            if vm is None or not vm.is_being_made:
                return True
            under_way = _MAKES & api.active_tasks(making.hypervisor, making.vmid)
            looks_without_task[0] = 0 if under_way else looks_without_task[0] + 1
            # A task takes its lock off as its last act: one look more tells the end from a death.
            return False if looks_without_task[0] > 1 else NotYet("being made")

        try:
            return wait_until(look, clock=self._clock, seconds=_MAKING_SECONDS, pace=Pace(longest=5.0))
        except WaitedInVain:
            return False


@dataclass(frozen=True, slots=True)
class TemplateFate:
    """What became of a template that no node of the fleet file is made from; `why` says why it stays."""

    name: str
    vmid: Vmid
    hypervisor: HypervisorName
    removed: bool
    why: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "template": self.name,
            "vmid": self.vmid,
            "hypervisor": self.hypervisor,
            "removed": self.removed,
            "why": self.why,
        }

    def __str__(self) -> str:
        what = f"template {self.vmid} ({self.name}) on {self.hypervisor}"
        return what if self.removed else f"{what} stays: {self.why}"


def remove_unused_templates(fleet: FleetSpec, world: World) -> tuple[TemplateFate, ...]:
    """Delete our templates that neither a node of the fleet file nor a linked disk uses; return what became of each.

    Raises:
        HypervisorError: a cluster could not be asked. One template's refusal stops no other.
    """
    fates: list[TemplateFate] = []
    for name, api in world.clusters.items():
        cluster = api.snapshot()
        tags = {f"tpl-{key}" for key in wanted_keys(fleet, name, cluster)}
        nodes = {node.vmid for node in fleet.nodes.values()}
        found = [vm for vm in cluster.vms.values() if is_template_of_ours(vm) and vm.vmid not in nodes]
        found.sort(key=lambda vm: vm.vmid)
        fates += [_remove(api, vm, is_wanted=bool(tags & vm.tags)) for vm in found]
    return tuple(fates)


def _remove(api: Hypervisors, seen: VmSeen, *, is_wanted: bool) -> TemplateFate:
    def stays(why: str) -> TemplateFate:
        return TemplateFate(seen.name, seen.vmid, seen.hypervisor, False, why)

    if is_wanted:
        return stays("nodes of the fleet file are made from it")
    # Read again right before: in the seconds since, another may have taken the VMID.
    now = api.vm(seen.hypervisor, seen.vmid)
    if now is None or not is_template_of_ours(now):
        return stays("it is not ours any more")
    if not is_named_so(now):
        return stays("its name is none that we give: a clone has the tags of its template too")
    if now.lock is not None:
        return stays(f"it is locked ({now.lock})")
    try:
        api.destroy_vm(seen.hypervisor, seen.vmid)
    except PermissionMissingError:
        raise
    except HypervisorError as error:
        if _IN_USE not in error.summary:
            raise
        return stays("disks of other VMs are linked clones of its disk")
    return TemplateFate(seen.name, seen.vmid, seen.hypervisor, True)


# What Proxmox says of a base with linked clones, before it deletes anything (qemu-server, src/PVE/QemuServer.pm). On
# LVM thin it says nothing and deletes it: clones there do not need their base (pve-storage, LvmThinPlugin.pm).
_IN_USE = "is still in use by linked clone"


def _storage(cluster: ClusterSnapshot, node: NodeSpec, wanted: TemplateShape) -> StorageSeen:
    nothing = StorageSeen(wanted.disk_storage, node.hypervisor, frozenset(), False, None, wanted.disk_kind)
    return cluster.storages.get((node.hypervisor, wanted.disk_storage), nothing)
