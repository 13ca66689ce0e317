"""Writes a fleet file that fits a lab, so that the first `provisioner up` needs no typing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.lab.initial import PROVISIONER_TOKEN
from provisioner.lab.running import Address, write_private

if TYPE_CHECKING:
    from provisioner.lab.running import Served

_VRAM = {"rtx3060": "12GiB"}

_TEMPLATE = """\
# A fleet on the embedded Proxmox VE. The lab wrote this file; change it as you like.
clusters:
  lab:
    api: {url}
    token: {{id: {token}, secret: "file:{secret}"}}
    tls: {{fingerprint: "{fingerprint}"}}
    storage: {{disks: {disks}, images: {files}, iso: {files}}}
    bridge: {bridge}
hypervisors:
  {node}:
    cluster: lab
{gpus}
defaults:
  image: ubuntu-24.04
  cores: 2
  memory: 2GiB
  disk: 8GiB
  idle_after: 20m
modes:
  small: {{engine: llama.cpp, model: tiny.gguf}}
nodes:
{nodes}"""


def write_fleet(path: Path, served: Served, address: Address) -> None:
    """Write the fleet file, and the token's secret into a private file next to it."""
    cluster = served.lab.cluster
    secret = path.with_suffix(".secret").absolute()
    write_private(secret, served.credentials()[PROVISIONER_TOKEN])
    node = next(iter(cluster.nodes.values()))
    gpus = [
        name for name, mapping in sorted(cluster.mappings.items()) if any(f"node={node.name}" in e for e in mapping.map)
    ]
    storages = cluster.storages.values()
    disks = next((s.name for s in storages if "images" in s.content), "local-lvm")
    files = next((s.name for s in storages if {"iso", "import"} <= set(s.content)), "local")
    slots = "\n".join(
        f"      {name}: {{mapping: {name}, vram: {_VRAM.get(name, '24GiB')}, survives_stop: true}}" for name in gpus
    )
    lines = [
        f"  llm-gpu-{number:02d}: {{vmid: {5000 + number}, hypervisor: {node.name}, gpus: [{gpu}],"
        f" address: 10.10.90.{number}/16, gateway: 10.10.0.1, modes: [small]}}"
        for number, gpu in enumerate(gpus, 1)
    ]
    lines.append(
        f"  llm-cpu-01: {{vmid: 5101, hypervisor: {node.name}, address: 10.10.90.101/16, gateway: 10.10.0.1,"
        " modes: [small], role: fallback}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _TEMPLATE.format(
            url=address.url,
            token=PROVISIONER_TOKEN,
            secret=secret,
            fingerprint=served.fingerprint,
            disks=disks,
            files=files,
            bridge=node.bridges[0],
            node=node.name,
            gpus=f"    gpus:\n{slots}" if slots else "",
            nodes="\n".join(lines) + "\n",
        )
    )
