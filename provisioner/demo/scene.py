"""Sets the scene: image, engine and model made or found in the cache, a lab that runs, and a fleet file for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from provisioner.demo.file_server import served_folder
from provisioner.demo.lab_process import LabProcess, running_lab

TOKEN = "provisioner@pve!fleet"  # noqa: S105 - the id, not the secret
NODE = "llm-gpu-01"


@dataclass(frozen=True, slots=True)
class Material:
    """Files the scene is made of, each with its SHA-256."""

    image: Path
    image_sha256: str
    engine: Path
    engine_sha256: str
    model: Path
    model_sha256: str


def prepare_material(cache: Path, say: Callable[[str], None]) -> Material:
    """Build guest image, engine archive and tiny model, or find them in the cache."""
    from provisioner.lab.images.engine_archive import ensure_engine_archive
    from provisioner.lab.images.guest_image import ensure_guest_image
    from provisioner.lab.images.tiny_model import ensure_tiny_model

    image = ensure_guest_image(cache, say)
    engine = ensure_engine_archive(cache, say)
    model = ensure_tiny_model(cache)
    return Material(image.qcow2, image.sha256, engine.path, engine.sha256, model.path, model.sha256)


def pretended_material(folder: Path) -> Material:
    """Make stand-ins for guests that run no software."""
    import hashlib

    paths = {name: folder / name for name in ("image.qcow2", "engine.tar.gz", "model.gguf")}
    for name, path in paths.items():
        # A qcow2's first bytes, so that the lab takes the image for one.
        path.write_bytes(b"QFI\xfb\x00\x00\x00\x03" + name.encode().ljust(504, b"\0"))
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
    flat = [value for name in paths for value in (paths[name], sums[name])]
    return Material(*flat)  # type: ignore[arg-type]


@contextmanager
def scene(folder: Path, material: Material, *, backend: str) -> Iterator[Path]:
    """Run a lab for the time of the demonstration; yield the fleet file."""
    # The cache's manifests say which kernel boots which image.
    options = ("--boot-dir", str(material.image.parent.parent)) if backend == "qemu" else ()
    with served_folder(material.image.parent) as images, running_lab(folder, backend=backend, options=options) as lab:
        yield write_fleet(folder, lab, material, images, simulated=backend == "simulated")


def write_fleet(folder: Path, lab: LabProcess, material: Material, images: str, *, simulated: bool) -> Path:
    """Write the fleet file of the demonstration, and the token's secret beside it."""
    secret = folder / "token"
    descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(lab.token_secret(TOKEN))
    fleet = {
        "clusters": {
            "lab": {
                "api": lab.url,
                "token": {"id": TOKEN, "secret": f"file:{secret}"},
                "tls": {"fingerprint": lab.fingerprint},
                "storage": {"disks": "local-lvm", "images": "local", "iso": "local"},
                "bridge": "vmbr0",
                "guests": "simulated" if simulated else "real",
            }
        },
        "hypervisors": {"pve1": {"cluster": "lab", "gpus": {"rtx3090": {"mapping": "rtx3090", "vram": "24GiB"}}}},
        "defaults": {
            "image": "lab",
            "cores": 2,
            "memory": "1GiB",
            "disk": "3GiB",
            "idle_after": "2s",
            "min_uptime": "5s",
            "boot_within": "5m",
            "engine_within": "3m",
            "gateway": "10.10.0.1",
        },
        "images": {"lab": {"url": f"{images}/{material.image.name}", "sha256": material.image_sha256}},
        "engines": {"llama.cpp": {"source": str(material.engine), "sha256": material.engine_sha256}},
        "models": {"tiny.gguf": {"source": str(material.model), "sha256": material.model_sha256}},
        # The stand-in for a GPU computes nothing: the engine must not look for one.
        "modes": {"small": {"engine": "llama.cpp", "model": "tiny.gguf", "context": 512, "threads": 2}},
        "nodes": {
            NODE: {
                "hypervisor": "pve1",
                "gpus": ["rtx3090"],
                "modes": ["small"],
                "connect": {"address": "127.10.90.1", "ssh_port": 2222},
            }
        },
    }
    path = folder / "fleet.yml"
    path.write_text(yaml.safe_dump(fleet, sort_keys=False))
    return path
