"""What must change on a hypervisor before GPUs can be given to VMs, file by file and command by command; pure."""

from __future__ import annotations

from provisioner.planning.host.preparation.binding import cards_of
from provisioner.planning.host.preparation.decide import HostChoices, preparation
from provisioner.planning.host.preparation.record import undoing
from provisioner.planning.host.preparation.values import FileChange, HostCommand, HostRefusal, Preparation

__all__ = [
    "FileChange",
    "HostChoices",
    "HostCommand",
    "HostRefusal",
    "Preparation",
    "cards_of",
    "preparation",
    "undoing",
]
