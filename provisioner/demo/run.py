"""The whole demonstration: material, lab, path, and the proof that nothing is left running."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from provisioner.demo.lab_process import processes_using
from provisioner.demo.path import NothingHappened, walk
from provisioner.demo.report import Narrator, Report
from provisioner.demo.scene import NODE, Material, prepare_material, pretended_material, scene
from provisioner.errors import ProvisionerError
from provisioner.fleet import Fleet
from provisioner.ports.clock import Clock
from provisioner.settings import Settings


def run_demo(backend: str, cache: Path, clock: Clock, narrator: Narrator) -> Report:
    """Run it.

    Args:
        backend: ``qemu`` or ``simulated``.
        cache: where built images are kept.
        clock: the time.
        narrator: told what happens.

    Raises:
        ProvisionerError: a stage failed.
    """
    report = Report(backend=backend)
    with tempfile.TemporaryDirectory(prefix="provisioner-demo-") as name:
        folder = Path(name)
        with report.stage("material: image, engine, model", clock, narrator) as stage:
            material, stage.detail = _material(backend, cache, folder, narrator)
        with ExitStack() as stack:
            with report.stage("lab: an embedded Proxmox", clock, narrator) as stage:
                fleet_file = stack.enter_context(scene(folder, material, backend=backend))
                stage.detail = f"{backend} guests"
            fleet = Fleet.load(fleet_file, settings=Settings(fleet_file, folder / "client"))
            try:
                walk(fleet, NODE, report, clock, narrator)
            except NothingHappened as error:
                raise ProvisionerError(
                    f"cannot finish the demonstration: {error}",
                    subject="demo",
                    next_step="run it again with provisioner --debug demo, and report what it prints",
                ) from error
        report.left_running = processes_using(folder)
    return report


def _material(backend: str, cache: Path, folder: Path, narrator: Narrator) -> tuple[Material, str]:
    if backend == "qemu":
        return prepare_material(cache, narrator.say), f"in {cache}"
    return pretended_material(folder), "simulated guests need none"
