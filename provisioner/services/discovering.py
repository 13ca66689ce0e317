"""From an address to a fleet file: whom to trust first, then look, then propose, then write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from provisioner.domain.access import AccessWanted
from provisioner.domain.access_plan import AccessPlan
from provisioner.domain.discovery import CertificateSeen, Discovery
from provisioner.domain.fleet import ClusterAddress, FleetSpec, TlsTrust
from provisioner.domain.host import slot_of
from provisioner.domain.names import ClusterName, GpuName, HypervisorName
from provisioner.domain.proposal import FleetProposal, TokenChoice
from provisioner.errors import RefusedError
from provisioner.planning.proposal import propose_fleet
from provisioner.planning.trust import nobody_to_ask, trust_in
from provisioner.ports.cluster_door import ClusterDoor
from provisioner.ports.fleet_files import FleetFiles
from provisioner.services.granting import Granting

Confirm = Callable[[CertificateSeen], bool]
"""Shows a certificate to a person and returns whether they accept it."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal with its text; `fleet` is that text as it loads."""

    proposal: FleetProposal
    text: str
    fleet: FleetSpec


class Discovering:
    """Makes a first fleet file. Nothing is changed on the cluster."""

    def __init__(self, door: ClusterDoor, files: FleetFiles) -> None:
        self._door = door
        self._files = files

    def trusted(self, api_url: str, wanted: TlsTrust, confirm: Confirm | None) -> ClusterAddress:
        """Return the server's address with how its certificate is trusted; no secret is read or sent.

        Args:
            api_url: ``https://ADDRESS:PORT``.
            wanted: what the person said to trust; empty for the system's trust store.
            confirm: asks a person about a certificate that nobody vouches for; None when there is nobody.

        Raises:
            UntrustedError: the certificate is not the one wanted, or there is nobody to ask.
            RefusedError: the person said no.
            HypervisorError: nothing answers, or no Proxmox VE.
        """
        seen = self._door.certificate(api_url, wanted.ca_file)
        trust = trust_in(seen, wanted, subject=api_url)
        if trust is None:
            if confirm is None:
                raise nobody_to_ask(seen, subject=api_url)
            if not confirm(seen):
                raise RefusedError(
                    "cannot go on: you did not accept the server's certificate, so nothing was sent to it",
                    subject=api_url,
                    next_step="compare it with what `pvenode cert info` shows on the server, then try again",
                )
            trust = TlsTrust(fingerprint=seen.fingerprint)
        # A server that does not answer for another one is not worth waiting for: the look says so and goes on.
        address = ClusterAddress(ClusterName(urlsplit(api_url).hostname or "new"), api_url, trust, retry_seconds=0.0)
        self._door.knock(address)
        return address

    def discover(self, address: ClusterAddress) -> Discovery:
        """Log in and look at everything. Raises HypervisorError."""
        return self._door.discover(address)

    def propose(self, discovery: Discovery, token: TokenChoice, tls: TlsTrust, path: Path) -> Proposed:
        """Return a fleet file for `path` that loads as it is. Raises HypervisorError, InputError."""
        proposal = propose_fleet(discovery, token, tls)
        text = self._files.text(proposal)
        return Proposed(proposal, text, self._files.check(text, path))

    def privileged_step(self, address: ClusterAddress, fleet: FleetSpec, proposal: FleetProposal) -> AccessPlan:
        """Return the steps that give the fleet's token its rights and its GPUs their mappings. Changes nothing.

        Raises:
            PermissionMissingError: this login may not see all that the plan rests on.
            HypervisorError: Proxmox could not be asked.
            InputError: the place for the secret is contradictory.
        """
        (cluster,) = fleet.clusters.values()
        unmapped = {
            # We know which card is meant: two of one model are not told apart by their names.
            (HypervisorName(gpu.hypervisor), GpuName(gpu.name)): (slot_of(gpu.address),)
            for gpu in proposal.gpus
            if not gpu.is_mapped and not gpu.is_integrated
        }
        return Granting(self._door.access(address)).preview(AccessWanted(fleet, cluster, gpu_slots=unmapped))

    def require_absent(self, path: Path) -> None:
        """Make sure, before anything is asked, that the file could be written. Raises InputError."""
        self._files.require_absent(path)

    def write(self, proposed: Proposed, path: Path) -> FleetSpec:
        """Put the file into place and return it as it loads. Raises InputError."""
        return self._files.write(proposed.text, path)
