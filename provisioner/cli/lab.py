"""`provisioner lab`: run the embedded Proxmox VE."""

from __future__ import annotations

import os
from pathlib import Path

import click

from provisioner.cli.context import lab_extra


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "provisioner" / "lab"


@click.command(
    short_help="Run a small Proxmox VE of your own.",
    epilog="Example: provisioner lab --backend qemu --fleet-out /tmp/lab/fleet.yml",
)
@click.option(
    "--listen", default="127.0.0.1:8006", show_default=True, metavar="HOST:PORT", help="Port 0 takes a free one."
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the cluster is kept [default: provisioner/lab below the XDG state home].",
)
@click.option(
    "--backend",
    type=click.Choice(["simulated", "qemu"]),
    default="simulated",
    show_default=True,
    help="What guests are: pretended, or real QEMU processes.",
)
@click.option(
    "--pve", type=click.Choice(["8.4", "9.1"]), default="9.1", show_default=True, help="Which Proxmox VE to be."
)
@click.option(
    "--state",
    "state_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Cluster description to start from (JSON); used only when the state directory is new.",
)
@click.option(
    "--tokens-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write {identity: password or token secret} here, mode 600.",
)
@click.option(
    "--fleet-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a fleet file for this lab here, the token's secret next to it; builds the guest image if need be.",
)
@click.option(
    "--faults",
    "faults_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Plan of things that go wrong (JSON or YAML).",
)
@click.option("--task-seconds", type=float, default=0.0, show_default=True, help="How long every task takes at least.")
@click.option("--boot-seconds", type=float, default=0.0, show_default=True, help="How long a simulated guest boots.")
@click.option("--engine-seconds", type=float, default=0.0, show_default=True, help="How long a simulated engine loads.")
@click.option(
    "--storage-limit", "limits", multiple=True, metavar="STORAGE=BYTES", help="Size of a storage; repeatable."
)
@click.option(
    "--boot-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where images and their kernels are kept [default: provisioner/lab below the XDG cache home].",
)
@click.option("--image-url", help="A distribution's cloud image for QEMU guests, instead of one built here.")
@click.option("--image-sha256", help="Its checksum.")
@click.option("--stop-guests", is_flag=True, help="End guests with the lab; otherwise they run on, as on a real host.")
@click.option("--json", "as_json", is_flag=True, help="Print one line with url, fingerprint and pid when ready.")
def lab(
    listen: str,
    state_dir: Path | None,
    backend: str,
    pve: str,
    state_file: Path | None,
    tokens_out: Path | None,
    fleet_out: Path | None,
    faults_file: Path | None,
    task_seconds: float,
    boot_seconds: float,
    engine_seconds: float,
    limits: tuple[str, ...],
    boot_dir: Path | None,
    image_url: str | None,
    image_sha256: str | None,
    stop_guests: bool,
    as_json: bool,
) -> None:
    """Run a small Proxmox VE of your own, with simulated or real guests.

    It answers like the real API: tokens, rights, tasks, locks, GPUs that one VM may hold at a time.

    """
    # The server's libraries take longer to import than `provisioner --help` may.
    with lab_extra():
        from provisioner.lab.command import Wishes, serve

    serve(
        Wishes(
            listen=listen,
            state_dir=state_dir or _default_state_dir(),
            backend=backend,
            pve=pve,
            state_file=state_file,
            tokens_out=tokens_out,
            fleet_out=fleet_out,
            faults_file=faults_file,
            task_seconds=task_seconds,
            boot_seconds=boot_seconds,
            engine_seconds=engine_seconds,
            limits=limits,
            boot_dir=boot_dir,
            image_url=image_url,
            image_sha256=image_sha256,
            stop_guests=stop_guests,
            as_json=as_json,
        )
    )
