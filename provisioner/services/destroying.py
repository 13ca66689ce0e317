"""Takes a node away: its VM, disks and seed."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.snapshot import Power, VmConfig
from provisioner.domain.vm_traits import YES, Trait
from provisioner.errors import RefusedError
from provisioner.planning.cloning import template_left_behind
from provisioner.planning.creation import seed_of
from provisioner.planning.ownership import Act, require
from provisioner.planning.vm_shape import is_seed_of
from provisioner.ports.hypervisors import Hypervisors
from provisioner.services.arbitration import Arbitration, claim_of
from provisioner.services.events import OnEvent, running_step
from provisioner.services.looking import find_vm
from provisioner.services.seed_isos import remove_seed
from provisioner.services.world import World


class Destroying:
    """`destroy`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._arbitration = Arbitration(fleet, world)

    def destroy(self, node: NodeSpec, on_event: OnEvent) -> tuple[str, ...]:
        """Delete a node's VM, disks and seed; return what was removed, in words.

        Raises:
            RefusedError: the VM is not ours, held by somebody, being started, or must not be deleted.
        """
        with self._world.locks.held(node.name):
            return self._destroy(node, on_event)

    def _destroy(self, node: NodeSpec, on_event: OnEvent) -> tuple[str, ...]:
        api = self._world.clusters[self._fleet.cluster_of(node).name]
        done: list[str] = []
        # One that has only moved is not gone, and its seed must stay with it.
        vm = find_vm(api, node)
        require(node, vm, Act.DESTROY)
        self._arbitration.require_no_hold(node, Act.DESTROY, way_out="")
        self._arbitration.require_not_starting(node, Act.DESTROY)
        # Read before the VM is gone: it names its seed, and it may be protected.
        config = api.config(node.hypervisor, node.vmid) if vm is not None else None
        _require_unprotected(node, config)
        if vm is not None:
            if vm.power is not Power.STOPPED:
                freeing = self._arbitration.shutting_down(api, claim_of(self._fleet, node))
                with running_step(on_event, node, "stop", self._world.clock) as step, freeing as require_still_wanted:
                    require_still_wanted()
                    api.stop_vm(node.hypervisor, node.vmid)
                    step.detail = "power cut"
            with running_step(on_event, node, "destroy", self._world.clock) as step:
                # Read again right before: in the seconds since, another may have taken the VMID.
                again = api.vm(node.hypervisor, node.vmid)
                if again is not None:
                    require(node, again, Act.DESTROY)
                    api.destroy_vm(node.hypervisor, node.vmid)
                step.detail = f"vm {node.vmid} and its disks"
            done.append(f"vm {node.vmid} and its disks")
        done += self._remove_seed(node, config, api, on_event)
        if vm is not None:
            self._mention_template(node, api, on_event)
        self._world.activity.forget(node.name)
        return tuple(done)

    def _mention_template(self, node: NodeSpec, api: Hypervisors, on_event: OnEvent) -> None:
        """Say that a template stays which nothing is made from any more; looked for where there may be one."""
        if not any(other.image == node.image for other in self._fleet.nodes.values() if other.name != node.name):
            return
        left = template_left_behind(self._fleet, node, api.snapshot())
        if left is not None:
            with running_step(on_event, node, "template", self._world.clock) as step:
                step.changed = False
                step.detail = f"{left.vmid} stays for the next node; provisioner destroy --unused-templates removes it"

    def _remove_seed(self, node: NodeSpec, config: VmConfig | None, api: Hypervisors, on_event: OnEvent) -> list[str]:
        storage, named = seed_of(self._fleet, node, config)
        # Those that no VM names any more, too: of a run that was killed before it made one.
        found = api.volumes(node.hypervisor, storage, "iso")
        volumes = sorted(volume for volume in found if volume == named or is_seed_of(node, volume))
        if not volumes:
            return []
        removed: list[str] = []
        left: list[str] = []
        with running_step(on_event, node, "remove seed", self._world.clock) as step:
            for volume in volumes:
                gone = remove_seed(api, self._world.seeds, self._fleet, node, storage, volume)
                (removed if gone else left).append(volume)
            step.detail = ", ".join(removed)
            if left:
                step.detail = (
                    f"{storage}:iso/{', '.join(left)} holds no secret and stays: the token may not delete ISOs "
                    f"(Datastore.Allocate on /storage/{storage})"
                )
        return [f"seed {storage}:iso/{volume}" for volume in removed]


def _require_unprotected(node: NodeSpec, config: VmConfig | None) -> None:
    """Refuse before the power is cut; Proxmox would refuse only the deletion after it."""
    if config is None or config.traits.get(Trait.PROTECTION) != YES:
        return
    wanted = "write protection: false" if node.options.protection else "it is not the fleet file's doing, so ask first"
    raise RefusedError(
        "cannot destroy it: its VM is protected",
        subject=node.subject,
        next_step=f"{wanted}; provisioner up {node.name} takes the protection off, then destroy it",
    )
