"""Everything that doctor judges a hypervisor by: what is wanted, what its API shows, what it says itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.domain.fleet import ClusterSpec, FleetSpec, GpuSpec, HypervisorSpec, NodeSpec
from provisioner.domain.host import HostFacts, Release, Source
from provisioner.domain.names import MappingId
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen, Power
from provisioner.errors import ProvisionerError
from provisioner.planning.access import Permissions
from provisioner.planning.readiness import HypervisorFacts


@dataclass(frozen=True, slots=True)
class ApiSeen:
    """What a cluster's API shows beside the hardware. `mappings` is None where nobody could be asked for them."""

    snapshot: ClusterSnapshot
    permissions: Permissions
    release: Release | None
    mappings: Mapping[MappingId, MappingSeen] | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """A source that could not be asked."""

    source: Source
    error: ProvisionerError


@dataclass(frozen=True, slots=True)
class DoctorFacts:
    """One hypervisor at one moment. `api` is None when the API could not be asked at all."""

    fleet: FleetSpec
    hypervisor: HypervisorSpec
    host: HostFacts
    api: ApiSeen | None = None
    troubles: tuple[Trouble, ...] = ()

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster it is in."""
        return self.fleet.clusters[self.hypervisor.cluster]

    @property
    def is_online(self) -> bool:
        """Its cluster says that it is up."""
        return self.api is not None and bool(self.api.snapshot.hypervisors.get(self.hypervisor.name))

    @property
    def nodes(self) -> tuple[NodeSpec, ...]:
        """The nodes we make on it; VMs that somebody else made are shaped by them."""
        return tuple(
            node for node in self.fleet.nodes.values() if node.hypervisor == self.hypervisor.name and not node.adopt
        )

    def gpus_of(self, node: NodeSpec) -> tuple[GpuSpec, ...]:
        """Return the GPUs of one of its nodes."""
        return self.fleet.gpus_of(node)

    def is_running(self, node: NodeSpec) -> bool:
        """Its VM has power, and therefore its memory and GPUs, already."""
        vm = self.api.snapshot.vms.get(node.vmid) if self.api is not None else None
        return vm is not None and vm.power is Power.RUNNING

    @property
    def for_up(self) -> HypervisorFacts | None:
        """The facts that `up` judges by too."""
        if self.api is None:
            return None
        mappings = self.api.mappings or {}
        return HypervisorFacts(self.fleet, self.cluster, self.hypervisor, self.api.snapshot, mappings)
