"""Templates: VMs whose disk came from an image once, so that nodes are linked clones of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from provisioner.domain.names import HypervisorName, StorageName, Vmid
from provisioner.domain.snapshot import VmSeen

TEMPLATE_TAG = "provisioner-template"
"""Every template of ours carries this tag beside ours; a VM made from it does not."""

FIRST_TEMPLATE_VMID = Vmid(9000)
"""Templates take the first VMID from here on that neither a VM nor a node of the fleet file has."""

CLONE_PRIVILEGES: Final = ("VM.Clone", "VM.Config.CDROM")
"""What a clone takes on /vms beyond an import: to read its template, and to fill the drive for the seed afterwards.

An import names the seed when it creates the VM, which Proxmox counts among the rights to create (qemu-server,
src/PVE/API2/Qemu.pm).
"""

NATIVE_CLONE_PRIVILEGES = (*CLONE_PRIVILEGES, "VM.Config.Cloudinit")
"""The same where Proxmox makes the cloud-init drive, which then is made in a VM that exists."""


class CloneChoice(Enum):
    """Whether a node's VM is made as a linked clone of a template."""

    AUTO = "auto"
    NEVER = "never"
    ALWAYS = "always"


_PREFIX = "tpl-"


@dataclass(frozen=True, slots=True)
class TemplateShape:
    """The template that is wanted.

    `key` is eight hexadecimal digits over all that distinguishes templates: image, storage, firmware variables.
    """

    key: str
    image: str
    """The image's name as far as a DNS name can hold it."""
    disk_storage: StorageName
    disk_kind: str
    """Proxmox's type of that storage."""
    image_storage: StorageName
    image_volume: str
    secure_boot: bool

    @property
    def tag(self) -> str:
        """The tag by which it is found again: a VM's tags show at once, its name some seconds later."""
        return f"{_PREFIX}{self.key}"

    @property
    def name(self) -> str:
        """The VM's name."""
        return f"{_PREFIX}{self.image}-{self.key}" if self.image else self.tag


@dataclass(frozen=True, slots=True)
class Template:
    """A template that exists: a VM that nodes are cloned from."""

    vmid: Vmid
    hypervisor: HypervisorName


def is_template_of_ours(vm: VmSeen) -> bool:
    """Say whether a VM may be a template of ours, or on its way to become one: it has the tags.

    So has a clone until it gets its shape, and one that a person made by hand. Where it matters, `is_named_so` too.
    """
    return vm.is_ours and TEMPLATE_TAG in vm.tags and not vm.is_container


def is_named_so(vm: VmSeen) -> bool:
    """Say whether a VM with the tags of a template has the name that goes with them, as no clone has."""
    return vm.name.startswith(_PREFIX) and f"{_PREFIX}{vm.name.rpartition('-')[2]}" in vm.tags


def is_half_cloned(tags: frozenset[str]) -> bool:
    """Say of a node's VM whether it is a clone that never got its shape: it has its template's tags still."""
    return TEMPLATE_TAG in tags
