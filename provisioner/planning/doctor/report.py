"""Everything doctor finds out about one hypervisor, as one value; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from provisioner.domain.host import HostFacts, PciAddress, Source
from provisioner.planning.doctor import mappings, memory, rights, sources, space
from provisioner.planning.doctor.facts import DoctorFacts
from provisioner.planning.doctor.relevance import for_this_fleet
from provisioner.planning.host import HostVerdict, host_checks, host_verdict
from provisioner.planning.readiness import Check, CheckStatus

# In the order in which a person would mend things; one line adds one. Between the two come the checks on the
# hypervisor itself (`planning.host.CHECKS`).
WAYS_IN: tuple[Callable[[DoctorFacts], list[Check]], ...] = (
    sources.sources_answered,
    sources.is_online,
)
CHECKS: tuple[Callable[[DoctorFacts], list[Check]], ...] = (
    rights.token_may_do_its_work,
    sources.storages,
    space.storages_have_room,
    mappings.mappings_fit,
    memory.memory_is_enough,
    memory.models_fit_through_memory,
    memory.cores_are_enough,
)


# Beginnings of the ids of findings that `prepare` deals with: boot files and drivers, rights and mappings.
_PREPARED = ("iommu", "command_line", "driver_", "ids_binding", "vfio_modules", "rights", "mapping_")


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """One hypervisor's examination.

    Attributes:
        hypervisor: its name in the fleet file.
        verdict: IOMMU, CPU, GPUs, problems: what programs read.
        checks: findings, each with why it matters and what to do.
        host: the facts behind them, from `sources`.
        uses: the GPUs that the fleet uses: address -> its name in the fleet file.
        calls: API requests that it took.
    """

    hypervisor: str
    verdict: HostVerdict
    checks: tuple[Check, ...]
    host: HostFacts
    sources: tuple[Source, ...]
    uses: Mapping[PciAddress, str]
    calls: int = 0

    @property
    def must_be_mended(self) -> bool:
        """Something stands in the way of a node."""
        return any(check.status is CheckStatus.FAIL for check in self.checks)

    @property
    def can_be_prepared(self) -> bool:
        """What stands in the way is what `provisioner prepare` mends, or some of it."""
        return any(check.status is CheckStatus.FAIL and check.id.startswith(_PREPARED) for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``: the verdict's fields, and how it was reached."""
        return {
            "hypervisor": self.hypervisor,
            **self.verdict.as_dict(),
            "checks": [check.as_dict() for check in self.checks],
            "sources": [source.value for source in self.sources],
            "api_calls": self.calls,
        }


def doctor_report(facts: DoctorFacts, calls: int = 0) -> DoctorReport:
    """Judge a hypervisor by everything that could be learnt of it."""
    verdict = host_verdict(facts.host)
    return DoctorReport(
        hypervisor=facts.hypervisor.name,
        verdict=verdict,
        checks=tuple(_findings(facts)),
        host=facts.host,
        sources=_sources(facts),
        uses=mappings.mapped_addresses(facts),
        calls=calls,
    )


def _findings(facts: DoctorFacts) -> Iterator[Check]:
    for check in WAYS_IN:
        yield from check(facts)
    if facts.api is not None and not facts.is_online and Source.SSH not in facts.host.sources:
        # What a server that is off would say is not unknown, it is not asked; rights lie with the cluster.
        yield from rights.token_may_do_its_work(facts)
        return
    used = mappings.used_addresses(facts)
    yield from for_this_fleet(host_checks(facts.host), used=used, has_gpus=bool(facts.hypervisor.gpus))
    for check in CHECKS:
        yield from check(facts)


def _sources(facts: DoctorFacts) -> tuple[Source, ...]:
    asked = {Source.API} if facts.api is not None else set()
    return tuple(source for source in Source if source in {*facts.host.sources, *asked} and source is not Source.DUMP)
