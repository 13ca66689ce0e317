"""The whole demonstration: material, lab, path, and the proof that nothing is left running."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from provisioner.demo.lab_process import processes_using, running_lab
from provisioner.demo.path import NothingHappened, walk
from provisioner.demo.report import Narrator, Report
from provisioner.errors import ProvisionerError
from provisioner.fleet import Fleet
from provisioner.lab.material import real_material
from provisioner.ports.clock import Clock
from provisioner.settings import Settings

NODE = "llm-gpu-01"


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
        if backend == "qemu":
            with report.stage("material: image, engine, model", clock, narrator) as stage:
                real_material(cache, narrator.say)
                stage.detail = f"in {cache}"
        with ExitStack() as stack:
            with report.stage("lab: an embedded Proxmox", clock, narrator) as stage:
                fleet_file = stack.enter_context(running_lab(folder, backend=backend, cache=cache))
                stage.detail = f"{backend} guests"
            _hurry(fleet_file)
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


def _hurry(fleet_file: Path) -> None:
    """Nobody wants to watch a node be idle for twenty minutes."""
    text = fleet_file.read_text()
    fleet_file.write_text(text.replace("idle_after: 20m", "idle_after: 2s").replace("min_uptime: 2m", "min_uptime: 5s"))
