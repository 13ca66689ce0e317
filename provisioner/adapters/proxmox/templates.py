"""Templates and the VMs that are linked clones of them, over a cluster's API."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from provisioner.adapters.proxmox.vm_calls import VmCalls, vm_path
from provisioner.adapters.proxmox.vm_config import clone_settings, template_parameters
from provisioner.domain.names import HypervisorName, Vmid
from provisioner.domain.templates import is_half_cloned
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

if TYPE_CHECKING:
    from provisioner.domain.templates import Template, TemplateShape
    from provisioner.domain.vm_traits import VmShape


class TemplateCalls(VmCalls):
    """The templates of one cluster."""

    def create_template(self, hypervisor: HypervisorName, vmid: Vmid, template: TemplateShape) -> tuple[str, ...]:
        """Create the VM that becomes a template."""
        return self._create(hypervisor, vmid, template_parameters(vmid, template))

    def make_template(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        """Turn a VM into a template; one that is a template already stays one."""
        what = f"turn VM {vmid} into a template"

        def is_template() -> bool:
            vm = self.vm(hypervisor, vmid)
            return vm is not None and vm.is_template and vm.lock is None

        return self._change(
            what,
            lambda: self._session.call("POST", f"{vm_path(hypervisor, vmid)}/template", purpose=what),
            is_so=is_template,
            under_way=self._task_finder(hypervisor, vmid, "qmtemplate"),
            # Two may be at it at the same time, and one of them comes second.
            fact_outranks=True,
        ).in_full()

    def clone_vm(self, hypervisor: HypervisorName, template: Template, shape: VmShape, notes: str) -> tuple[str, ...]:
        """Make a VM with our tag as a linked clone, then give it its shape."""
        what, vmid = f"clone VM {shape.vmid} from template {template.vmid}", shape.vmid
        target = hypervisor if hypervisor != template.hypervisor else None

        def is_cloned() -> bool:
            # The task of a clone goes by its template, which others are cloned from too: only the lock tells ours.
            self._await_unlocked_clone(template.hypervisor, vmid)
            vm = self.vm(hypervisor, vmid)
            return vm is not None and vm.lock is None and self._has_notes(hypervisor, vmid, notes)

        warnings = self._change(
            what,
            lambda: self._session.call(
                "POST",
                f"{vm_path(template.hypervisor, template.vmid)}/clone",
                purpose=what,
                newid=vmid,
                name=shape.name,
                description=notes,
                full=False,
                target=target,
            ),
            is_so=is_cloned,
        ).in_full()
        return warnings + self.shape_clone(hypervisor, shape)

    def shape_clone(self, hypervisor: HypervisorName, shape: VmShape, *, digest: str = "") -> tuple[str, ...]:
        """Give a VM that has just been cloned its shape."""
        vmid = shape.vmid
        settings, path = clone_settings(shape), f"{vm_path(hypervisor, vmid)}/config"
        what = f"give VM {vmid} its shape"
        return self._change(
            what,
            lambda: self._session.call("PUT", path, purpose=what, digest=digest or None, **settings),
            # Written whole or not at all.
            is_so=lambda: not is_half_cloned(self.config(hypervisor, vmid).tags),
            has_task=False,
            # Right after the cloning another machine may have been quicker; later, a digest says what was planned for.
            fact_outranks=not digest,
        ).in_full()

    def _await_unlocked_clone(self, hypervisor: HypervisorName, vmid: Vmid) -> None:
        """Return once a VM is no longer being cloned, or nobody is at it any more.

        Until it is done it is on its template's server (qemu-server, src/PVE/API2/Qemu.pm, clone_vm).
        """

        def look() -> bool | NotYet:
            vm = self.vm(hypervisor, vmid)
            under_way = vm is not None and vm.lock == "clone" and "qmclone" in self.active_tasks(hypervisor, vmid)
            return NotYet("being cloned") if under_way else True

        with contextlib.suppress(WaitedInVain):
            wait_until(look, clock=self._clock, seconds=self._session.cluster.task_seconds, pace=Pace(longest=2.0))
