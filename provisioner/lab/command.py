"""What `provisioner lab` does: read files, start, say so, wait for a signal, stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from provisioner.errors import InputError
from provisioner.lab.core import LabOptions
from provisioner.lab.faults import FaultPlan
from provisioner.lab.file_server import served_folder
from provisioner.lab.fleet_file import Site, write_fleet
from provisioner.lab.guests.base import GuestBackend
from provisioner.lab.images.store import default_cache_dir
from provisioner.lab.material import Material, pretended_material, real_material
from provisioner.lab.running import Served, write_credentials


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of the command, as given."""

    listen: str
    state_dir: Path
    backend: str = "simulated"
    pve: str = "9.1"
    state_file: Path | None = None
    tokens_out: Path | None = None
    fleet_out: Path | None = None
    faults_file: Path | None = None
    task_seconds: float = 0.0
    boot_seconds: float = 0.0
    engine_seconds: float = 0.0
    limits: tuple[str, ...] = ()
    boot_dir: Path | None = None
    image_url: str | None = None
    image_sha256: str | None = None
    stop_guests: bool = False
    as_json: bool = False


def serve(wishes: Wishes) -> None:
    """Run a lab until SIGTERM or SIGINT. Raises InputError."""
    asyncio.run(_serve(wishes))


async def _serve(wishes: Wishes) -> None:
    host, port = _address(wishes.listen)
    material = _material(wishes)
    faults = FaultPlan.read(_document(wishes.faults_file)) if wishes.faults_file else FaultPlan()
    options = LabOptions(
        wishes.state_dir,
        pve=wishes.pve,
        task_seconds=wishes.task_seconds,
        initial_state=_document(wishes.state_file) if wishes.state_file else None,
        storage_limits=dict(_limit(text) for text in wishes.limits),
        faults=faults,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    served = Served(options, _backend(wishes, faults))
    try:
        address = await served.open(host, port)
    except OSError as error:
        raise InputError(
            f"cannot listen on {wishes.listen}: {error.strerror or error}",
            subject="provisioner lab",
            next_step="choose another --listen HOST:PORT, or 0 as the port for a free one",
        ) from error
    if wishes.tokens_out is not None:
        write_credentials(wishes.tokens_out, served.credentials())
    with ExitStack() as stack:
        if material is not None and wishes.fleet_out is not None:
            images = stack.enter_context(served_folder(material.image.path.parent))
            simulated = wishes.backend == "simulated"
            site = Site(address.url, served.fingerprint, images, material, simulated)
            write_fleet(wishes.fleet_out, served.lab.cluster, site)
        line = {"url": address.url, "fingerprint": served.fingerprint, "pid": os.getpid()}
        print(json.dumps(line) if wishes.as_json else f"listening on {address.url}, fingerprint {served.fingerprint}")
        sys.stdout.flush()
        await stop.wait()
    await served.close(stop_guests=wishes.stop_guests)


def _material(wishes: Wishes) -> Material | None:
    """Return what a fleet file must name; a real guest's image may have to be built first."""
    if wishes.fleet_out is None:
        return None
    if wishes.backend == "simulated":
        return pretended_material(wishes.state_dir / "material")
    if (wishes.image_url is None) != (wishes.image_sha256 is None):
        raise InputError(
            "cannot use a cloud image without knowing its checksum",
            subject="--image-url, --image-sha256",
            next_step="give both: the address of the image and the sum its publisher names",
        )
    chosen = (wishes.image_url, wishes.image_sha256) if wishes.image_url and wishes.image_sha256 else None
    return real_material(wishes.boot_dir, lambda sentence: print(sentence, file=sys.stderr, flush=True), chosen)


def _backend(wishes: Wishes, faults: FaultPlan) -> GuestBackend:
    run_dir = wishes.state_dir / "guests"
    if wishes.backend == "qemu":
        from provisioner.lab.guests.qemu import QemuBackend

        backend: GuestBackend = QemuBackend(
            run_dir=run_dir, boot_dir=wishes.boot_dir or default_cache_dir(), internet=wishes.image_url is not None
        )
        return backend
    from provisioner.lab.guests.simulated import SimulatedBackend

    return SimulatedBackend(
        run_dir,
        boot_seconds=wishes.boot_seconds,
        engine_seconds=wishes.engine_seconds,
        faults=faults.guest_faults,
    )


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"cannot listen on '{listen}'", subject="--listen", next_step="write HOST:PORT, for instance 127.0.0.1:8006"
        )
    return host, int(port)


def _limit(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdigit():
        raise InputError(
            f"cannot limit a storage to '{text}'",
            subject="--storage-limit",
            next_step="write STORAGE=BYTES, for instance local=104857600",
        )
    return name, int(size)


def _document(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"cannot read {path.name}: {error}", subject=str(path), next_step="give a JSON or YAML file"
        ) from error
