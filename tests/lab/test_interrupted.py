"""Ctrl-C: the command ends at once, however many nodes are under way, and the next run goes on from there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.support import site_for

BOOT_SECONDS = 40.0


def test_ctrl_c_does_not_wait_for_the_nodes_under_way(tmp_path: Path) -> None:
    with (
        served_folder(tmp_path) as images,
        RunningLab(tmp_path / "lab", boot_seconds=BOOT_SECONDS) as lab,
        subprocess.Popen(
            [sys.executable, "-m", "provisioner", "up", "--json"],
            env=site_for(lab, tmp_path, images, nodes=2).environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as client,
    ):
        assert client.stdout is not None
        booting: set[str] = set()
        for line in client.stdout:
            booting |= {name for name in ("llm-gpu-01", "llm-gpu-02") if name in line and '"step": "guest"' in line}
            if len(booting) == 2:
                break
        begun = time.monotonic()
        client.send_signal(signal.SIGINT)
        _, said = client.communicate(timeout=2 * BOOT_SECONDS)
        assert client.returncode == 130
        assert "the same command continues" in said
        assert time.monotonic() - begun < BOOT_SECONDS / 4
