"""Checks on the ways in: a source that could not be asked is a finding, not the end of the examination; pure."""

from __future__ import annotations

from provisioner.domain.host import Source
from provisioner.planning.doctor.facts import DoctorFacts
from provisioner.planning.host.steps import ok
from provisioner.planning.readiness import Check, CheckStatus, hypervisor_is_online, storages_serve_their_role

_WHY = {
    Source.API: "everything that is done for nodes is done through the API",
    Source.SSH: "drivers, module options and boot files are seen on the hypervisor alone",
}


def sources_answered(facts: DoctorFacts) -> list[Check]:
    """Say which of the ways in did not work, with the reason."""
    checks = [
        Check(
            trouble.source.value,
            CheckStatus.FAIL,
            f"{trouble.error.summary} ({trouble.error.subject})",
            _WHY[trouble.source],
            trouble.error.next_step,
        )
        for trouble in facts.troubles
    ]
    ssh = facts.hypervisor.ssh
    if ssh is not None and Source.SSH in facts.host.sources:
        checks.append(ok(Source.SSH.value, f"logged in to {ssh.address} as {ssh.user}", _WHY[Source.SSH]))
    return checks


def is_online(facts: DoctorFacts) -> list[Check]:
    """A server that is off can be asked nothing else."""
    return hypervisor_is_online(facts.for_up) if facts.for_up is not None else []


def storages(facts: DoctorFacts) -> list[Check]:
    """Disks, images and seeds each need a storage that takes them."""
    return storages_serve_their_role(facts.for_up) if facts.for_up is not None and facts.is_online else []
