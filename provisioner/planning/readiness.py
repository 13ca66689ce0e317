"""Can this hypervisor take this node? What a check is, and the checks that `up` stops at; pure.

`planning.doctor` looks closer, with more facts.

Each check says what was found, why it matters and what to do. A fact that is
missing makes a check unknown, never fine and never broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import ClusterSpec, FleetSpec, HypervisorSpec
from provisioner.domain.names import HypervisorName, MappingId, StorageName
from provisioner.domain.quantities import size_text
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen


class CheckStatus(Enum):
    """The verdict of one check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    id: str
    status: CheckStatus
    found: str
    why: str
    next_step: str

    def as_dict(self) -> dict[str, str]:
        """Return plain values for ``--json``."""
        return {
            "id": self.id,
            "status": self.status.value,
            "found": self.found,
            "why": self.why,
            "next_step": self.next_step,
        }

    def __str__(self) -> str:
        text = f"[{self.status.value}] {self.id}: {self.found}"
        return text if self.status is CheckStatus.OK else f"{text}\n  why: {self.why}\n  next: {self.next_step}"


@dataclass(frozen=True, slots=True)
class HypervisorFacts:
    """What the API shows of one hypervisor, beside what the fleet wants of it."""

    fleet: FleetSpec
    cluster: ClusterSpec
    hypervisor: HypervisorSpec
    snapshot: ClusterSnapshot
    mappings: Mapping[MappingId, MappingSeen]


def hypervisor_checks(facts: HypervisorFacts) -> tuple[Check, ...]:
    """Return every check's findings, in a fixed order."""
    return tuple(finding for check in _CHECKS for finding in check(facts))


def failures(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """Return the checks that forbid going on."""
    return tuple(check for check in checks if check.status is CheckStatus.FAIL)


def hypervisor_is_online(facts: HypervisorFacts) -> list[Check]:
    """Nothing works on a server that is off."""
    name = facts.hypervisor.name
    online = facts.snapshot.hypervisors.get(name)
    if online is None:
        known = ", ".join(facts.snapshot.hypervisors) or "none that this token may see"
        status, found = CheckStatus.FAIL, f'the cluster has no node "{name}"; it has: {known}'
        step = "name the hypervisor in the fleet file as Proxmox names the node"
    elif not online:
        status, found, step = CheckStatus.FAIL, f"{name} is offline", "start the server, then try again"
    else:
        status, found, step = CheckStatus.OK, f"{name} is online", ""
    return [Check("hypervisor_online", status, found, "its VMs can only be reached while it runs", step)]


def storages_serve_their_role(facts: HypervisorFacts) -> list[Check]:
    """Disks, images and seeds each need a storage that takes them."""
    roles = facts.cluster.storage
    wanted = (("disks", roles.disks, "images"), ("images", roles.images, "import"), ("iso", roles.iso, "iso"))
    return [
        *(_storage(facts, role, name, content) for role, name, content in wanted),
        *(_storage(facts, "models", name, "images") for name in _model_storages(facts) if name != roles.disks),
    ]


def model_storage_check(fleet: FleetSpec, hypervisor: HypervisorName, storage: StorageName) -> str:
    """Return the id of the check of a storage that holds model disks on a hypervisor."""
    first = fleet.clusters[fleet.hypervisors[hypervisor].cluster].storage.disks
    return "storage_disks" if storage == first else f"storage_models_{storage}"


def _model_storages(facts: HypervisorFacts) -> list[StorageName]:
    here = (node for node in facts.fleet.nodes.values() if node.hypervisor == facts.hypervisor.name)
    return list(dict.fromkeys(filter(None, map(facts.fleet.model_storage, here))))


def _storage(facts: HypervisorFacts, role: str, name: StorageName, content: str) -> Check:
    is_of_models = role == "models"
    id_ = model_storage_check(facts.fleet, facts.hypervisor.name, name) if is_of_models else f"storage_{role}"
    why = f'the fleet file keeps {role} on "{name}"'
    seen = facts.snapshot.storages.get((facts.hypervisor.name, name))
    if seen is None:
        there = sorted(storage for node, storage in facts.snapshot.storages if node == facts.hypervisor.name)
        found = f'no storage "{name}" on {facts.hypervisor.name}; there is: {", ".join(there) or "none in sight"}'
        key = "model_storage" if is_of_models else f"clusters.{facts.cluster.name}.storage.{role}"
        step = f"name another as {key}" if is_of_models else f"name another under {key}"
        step += f", or give the token Datastore.Audit on /storage/{name}"
        return Check(id_, CheckStatus.FAIL, found, why, step)
    if not seen.is_available:
        return Check(id_, CheckStatus.FAIL, f'storage "{name}" is not available', why, "enable or mount it")
    if content not in seen.content:
        found = f'storage "{name}" holds {", ".join(sorted(seen.content))}, not {content}'
        step = f"add content type {content} to it (Datacenter > Storage > {name} > Content)"
        return Check(id_, CheckStatus.FAIL, found, why, step)
    free = f", {size_text(seen.free_bytes >> 20 << 20)} free" if seen.free_bytes is not None else ""
    return Check(id_, CheckStatus.OK, f'storage "{name}" holds {content}{free}', why, "")


def _mappings_are_valid(facts: HypervisorFacts) -> list[Check]:
    return [
        _mapping(facts, gpu.name, facts.mappings.get(gpu.mapping), gpu.mapping)
        for gpu in facts.hypervisor.gpus.values()
    ]


def _mapping(facts: HypervisorFacts, gpu: str, seen: MappingSeen | None, name: MappingId) -> Check:
    id_ = f"mapping_{gpu}"
    why = "a token may only pass a GPU through by its PCI mapping"
    if seen is None:
        found = f'no PCI mapping "{name}" in sight'
        step = (
            f"create it (Datacenter > Resource Mappings > PCI), and give the token Mapping.Use on /mapping/pci/{name}"
        )
        return Check(id_, CheckStatus.FAIL, found, why, step)
    if seen.errors:
        found = f'PCI mapping "{name}" does not fit {facts.hypervisor.name}: {"; ".join(seen.errors)}'
        return Check(id_, CheckStatus.FAIL, found, why, "edit the mapping so that it names the device as it is now")
    return Check(id_, CheckStatus.OK, f'PCI mapping "{name}" fits', why, "")


_CHECKS: tuple[Callable[[HypervisorFacts], list[Check]], ...] = (
    hypervisor_is_online,
    storages_serve_their_role,
    _mappings_are_valid,
)
