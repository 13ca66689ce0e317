"""What must change on a hypervisor before GPUs can be given to VMs, file by file and command by command; pure."""

from __future__ import annotations

from provisioner.planning.host.preparation.binding import cards_of
from provisioner.planning.host.preparation.decide import HostChoices, preparation
from provisioner.planning.host.preparation.record import undoing
from provisioner.planning.host.preparation.slots import gpu_slots
from provisioner.planning.host.preparation.verify import checks_after_reboot, checks_before_reboot

__all__ = [
    "HostChoices",
    "cards_of",
    "checks_after_reboot",
    "checks_before_reboot",
    "gpu_slots",
    "preparation",
    "undoing",
]
