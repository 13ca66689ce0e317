"""Writes a fleet file that fits a lab, so that the first `provisioner up` needs no typing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioner.lab.cluster import Cluster
from provisioner.lab.initial import PROVISIONER_TOKEN, credentials
from provisioner.lab.material import Material
from provisioner.lab.running import write_private

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
    guests: {guests}
hypervisors:
  {node}:
    cluster: lab
{gpus}
defaults:
  unattended_upgrades: false   # its guests have no way out
  image: lab
  cores: 2
  memory: 1GiB
  disk: 3GiB
  idle_after: 20m
  min_uptime: 2m
  boot_within: 10m
  engine_within: 5m
  gateway: 10.10.0.1
images:
  lab: {{url: "{images}/{image.path.name}", sha256: {image.sha256}}}
engines:
  llama.cpp: {{source: "{engine.path}", sha256: {engine.sha256}}}
models:
  tiny.gguf: {{source: "{model.path}", sha256: {model.sha256}}}
modes:
  small: {{engine: llama.cpp, model: tiny.gguf, context: 512, threads: 2}}
# Guests are reached at loopback addresses: nothing on this machine is reconfigured, no privilege is needed.
nodes:
{nodes}"""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a lab listens and what it is made of."""

    url: str
    fingerprint: str
    images_url: str
    material: Material
    simulated: bool


def write_fleet(path: Path, cluster: Cluster, site: Site) -> None:
    """Write the fleet file, and the token's secret into a private file next to it."""
    secret = path.with_suffix(".secret").absolute()
    write_private(secret, credentials(cluster)[PROVISIONER_TOKEN])
    node = next(iter(cluster.nodes.values()))
    gpus = [
        name for name, mapping in sorted(cluster.mappings.items()) if any(f"node={node.name}" in e for e in mapping.map)
    ]
    # The card that the documents name first comes first.
    gpus.sort(key=lambda name: name != "rtx3090")
    storages = cluster.storages.values()
    # Its cards exist in its API only: there is nothing that a driver could drive.
    slots = "\n".join(
        f"      {name}: {{mapping: {name}, vram: {_VRAM.get(name, '24GiB')}, driver: none}}" for name in gpus
    )
    nodes = [
        _node(f"llm-gpu-{number:02d}", node.name, number, f"gpus: [{gpu}], ") for number, gpu in enumerate(gpus, 1)
    ]
    nodes.append(_node("llm-cpu-01", node.name, 101, ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _TEMPLATE.format(
            url=site.url,
            token=PROVISIONER_TOKEN,
            secret=secret,
            fingerprint=site.fingerprint,
            disks=next((s.name for s in storages if "images" in s.content), "local-lvm"),
            files=next((s.name for s in storages if {"iso", "import"} <= set(s.content)), "local"),
            bridge=node.bridges[0],
            guests="simulated" if site.simulated else "real",
            node=node.name,
            gpus=f"    gpus:\n{slots}" if slots else "",
            images=site.images_url,
            image=site.material.image,
            engine=site.material.engine,
            model=site.material.model,
            nodes="".join(nodes),
        )
    )


def _node(name: str, hypervisor: str, number: int, gpus: str) -> str:
    connect = f"connect: {{address: 127.10.90.{number}, ssh_port: 2222}}"
    return f"  {name}: {{hypervisor: {hypervisor}, {gpus}modes: [small], {connect}}}\n"
