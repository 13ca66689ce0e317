"""Every check on a hypervisor, in the order in which a person would mend things. One line adds one."""

from __future__ import annotations

from collections.abc import Callable

from provisioner.domain.host import HostFacts
from provisioner.planning.host import boot, cards, drivers, iommu, platform
from provisioner.planning.readiness import Check

CHECKS: tuple[Callable[[HostFacts], list[Check]], ...] = (
    platform.dump_was_read_whole,
    platform.pve_is_supported,
    platform.cpu_can_virtualise,
    iommu.iommu_is_on,
    boot.command_line_is_in_force,
    iommu.interrupts_are_remapped,
    drivers.gpus_are_seen,
    cards.whole_cards_are_whole,
    cards.no_fabric_ties_cards_together,
    cards.console_stays_somewhere,
    iommu.groups_are_isolated,
    iommu.acs_is_real,
    drivers.functions_have_the_right_driver,
    drivers.ids_claim_no_more_than_meant,
    drivers.modules_are_current,
    boot.framebuffer_is_elsewhere,
    boot.secure_boot_allows_modules,
    drivers.resets_are_known_to_work,
    platform.huge_pages_are_as_asked,
)


def host_checks(facts: HostFacts) -> tuple[Check, ...]:
    """Return every check's findings, in a fixed order."""
    return tuple(finding for check in CHECKS for finding in check(facts))
