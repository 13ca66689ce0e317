"""What tests on the embedded Proxmox share: our side of the connection, and fleets for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provisioner.domain.fleet import (
    ClusterSpec,
    GuestKind,
    SecretReference,
    SecretSource,
    StorageRoles,
    TlsTrust,
)
from provisioner.domain.names import ClusterName, StorageName
from provisioner.fleet import Fleet
from provisioner.lab.fleet_file import Site as LabSite
from provisioner.lab.fleet_file import write_fleet
from provisioner.lab.harness import RunningLab
from provisioner.lab.material import Material, pretended_material
from provisioner.ports.clock import Clock
from provisioner.settings import Settings


def cluster_spec(lab: RunningLab) -> ClusterSpec:
    """Our description of a running lab, its certificate pinned."""
    return ClusterSpec(
        name=ClusterName("lab"),
        api_url=lab.url,
        token_id="provisioner@pve!fleet",
        token_secret=SecretReference(SecretSource.ENV, "UNUSED"),
        tls=TlsTrust(fingerprint=lab.fingerprint),
        storage=StorageRoles(StorageName("local-lvm"), StorageName("local"), StorageName("local")),
        bridge="vmbr0",
        guests=GuestKind.SIMULATED,
    )


NODE = "llm-gpu-01"
BLOCK = f"{11 + os.getpid() % 200}.{1 + os.getpid() // 200 % 250}"
"""The middle of this process's addresses; 127.10.x.y belongs to demonstrations and real guests."""


@dataclass(frozen=True)
class Site:
    """A lab with simulated guests, a fleet file for it, and a place for the client's state."""

    lab: RunningLab
    folder: Path
    fleet_file: Path
    material: Material

    @property
    def settings(self) -> Settings:
        """Where the client keeps its state."""
        return Settings(self.fleet_file, self.folder / "client")

    def fleet(self, change: Callable[[str], str] = lambda text: text, clock: Clock | None = None) -> Fleet:
        """Load the fleet file, mended or broken by `change` first."""
        self.fleet_file.write_text(change(self.fleet_file.read_text()))
        return Fleet.load(self.fleet_file, settings=self.settings, clock=clock)

    @property
    def environment(self) -> dict[str, str]:
        """The environment for our command line."""
        return {
            **os.environ,
            "PROVISIONER_FLEET": str(self.fleet_file),
            "PROVISIONER_STATE": str(self.folder / "client"),
        }


def site_for(lab: RunningLab, folder: Path, images: str, *, nodes: int = 1) -> Site:
    """Write a fleet file for a lab with simulated guests, with as many of the lab's nodes as asked for."""
    fleet_file = folder / "fleet.yml"
    material = pretended_material(folder)
    write_fleet(fleet_file, lab.lab.cluster, LabSite(lab.url, lab.fingerprint, images, material, simulated=True))
    lines = fleet_file.read_text().splitlines(keepends=True)
    dropped = ("  llm-gpu-01:", "  llm-gpu-02:", "  llm-cpu-01:")[nodes:]
    only = [line for line in lines if not line.startswith(dropped)]
    # Beside the addresses that real guests get, and each process of tests for itself: another one, or a
    # demonstration, may run on this machine at the same time, and its engine would answer in our node's stead.
    aside = re.sub(
        r"connect: \{address: 127\.10\.90\.(\d+)",
        rf"address: 10.{BLOCK}.\1/16, connect: {{address: 127.{BLOCK}.\1",
        "".join(only).replace("gateway: 10.10.0.1", f"gateway: 10.{BLOCK.partition('.')[0]}.0.1"),
    )
    fleet_file.write_text(aside)
    return Site(lab, folder, fleet_file, material)
