"""Fleet files for tests."""

from __future__ import annotations

from pathlib import Path

from provisioner.adapters.files.fleet_file import load_fleet
from provisioner.domain.fleet import FleetSpec
from provisioner.engines.registry import ENGINE_TRAITS

SUM = "612b2c0cc1bc413a6cb8c38fd611794caf0f2b436c50013d8b3794db12ad7354"

FLEET = f"""\
clusters:
  homelab:
    api: https://10.10.0.2:8006
    token: {{id: provisioner@pve!fleet, secret: env:PROXMOX_TOKEN_SECRET}}
    storage: {{disks: local-lvm, images: local, iso: local}}
    bridge: vmbr0
hypervisors:
  pve1:
    cluster: homelab
    gpus:
      rtx3090: {{mapping: rtx3090, vram: 24GiB}}
defaults:
  cores: 12
  memory: 48GiB
  disk: 200GiB
  idle_after: 20m
engines:
  llama.cpp: {{source: llama.tar.gz, sha256: {SUM}}}
models:
  gemma-2-2b-it.gguf: {{source: gemma.gguf, sha256: {SUM}}}
modes:
  small: {{engine: llama.cpp, model: gemma-2-2b-it.gguf}}
nodes:
  llm-gpu-01: {{hypervisor: pve1, gpus: [rtx3090], modes: [small], gateway: 10.10.0.1}}
  llm-gpu-02: {{hypervisor: pve1, gpus: [rtx3090], modes: [small]}}
"""

NATIVE = FLEET.replace("  idle_after: 20m\n", "  idle_after: 20m\n  cloud_init: proxmox\n  nameservers: [10.10.0.1]\n")
"""The same, its cloud-init drives made by Proxmox."""


def fleet_from(folder: Path, text: str = FLEET) -> FleetSpec:
    """Write a fleet file and load it."""
    path = folder / "fleet.yml"
    path.write_text(text)
    return load_fleet(path, engines=ENGINE_TRAITS)
