"""What tests of doctor's checks share: the facts of a hypervisor where all is well, and a way to spoil them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.host import HostFacts, Release
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen, Power, StorageSeen, VmSeen
from provisioner.planning.doctor import ApiSeen, DoctorFacts, doctor_report
from provisioner.planning.readiness import Check
from tests.fakes.host_facts import ENTRY, EVERY_RIGHT, ready_host

PVE1 = HypervisorName("pve1")
PVE9 = Release(9, 1, "9.1.1")


def storages(*, free: int = 500 * GIB, kind: str = "lvmthin") -> dict[tuple[HypervisorName, StorageName], StorageSeen]:
    """`local` for images and seeds, `local-lvm` for disks."""
    rows = (("local", "dir", {"iso", "import"}), ("local-lvm", kind, {"images"}))
    return {
        (PVE1, StorageName(name)): StorageSeen(StorageName(name), PVE1, frozenset(content), True, free, of)
        for name, of, content in rows
    }


def running(*vmids: int) -> dict[Vmid, VmSeen]:
    """VMs of ours that run."""
    return {Vmid(vmid): VmSeen(Vmid(vmid), f"vm{vmid}", PVE1, Power.RUNNING) for vmid in vmids}


def seen(
    *entries: str, errors: tuple[str, ...] = (), name: str = "rtx3090", mediated: bool = False
) -> dict[MappingId, MappingSeen]:
    """One mapping."""
    return {MappingId(name): MappingSeen(MappingId(name), errors, entries=entries, is_mediated=mediated)}


def well(
    fleet: FleetSpec,
    *,
    host: HostFacts | None = None,
    mappings: Mapping[MappingId, MappingSeen] | None = None,
    permissions: Mapping[str, Mapping[str, int]] | None = None,
    storage: Mapping[tuple[HypervisorName, StorageName], StorageSeen] | None = None,
    vms: Mapping[Vmid, VmSeen] | None = None,
    is_online: bool = True,
    release: Release | None = PVE9,
) -> DoctorFacts:
    """Facts of pve1: what is not given is fine."""
    snapshot = ClusterSnapshot({PVE1: is_online}, vms or {}, storages() if storage is None else storage)
    rights = {"/": dict.fromkeys(EVERY_RIGHT, 1)} if permissions is None else permissions
    api = ApiSeen(snapshot, rights, release, seen(ENTRY) if mappings is None else mappings)
    return DoctorFacts(fleet, fleet.hypervisors[PVE1], ready_host() if host is None else host, api)


def with_nodes(fleet: FleetSpec, **changes: Mapping[str, object]) -> FleetSpec:
    """Change nodes: `llm_gpu_01={"memory_bytes": ...}`; the others stay as they are."""
    nodes = {
        name: replace(node, **changes.get(name.replace("-", "_"), {}))  # type: ignore[arg-type]
        for name, node in fleet.nodes.items()
    }
    return replace(fleet, nodes=nodes)


def findings(facts: DoctorFacts) -> dict[str, Check]:
    """All findings by id, each id once."""
    checks = doctor_report(facts).checks
    assert len({check.id for check in checks}) == len(checks)
    for check in checks:
        assert check.why
        assert bool(check.next_step) is (check.status.value != "ok")
    return {check.id: check for check in checks}
