"""Planning a thousand nodes, from the start of the process to the last plan printed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import lab_site

NODES = 1000
MOST_SECONDS = 2.0
ROUNDS = 3
SOMETHING_TO_DO = 3


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    with lab_site(bench.folder / "lab", NODES) as site:
        found = []
        for _ in range(ROUNDS):
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "provisioner", "plan", "--json"],
                env=site.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            found.append(time.monotonic() - began)
            assert done.returncode == SOMETHING_TO_DO, done.stderr
            assert done.stdout.count('"steps"') == NODES
        calls = len(site.requests()) / ROUNDS
    figures = Figures.of(found)
    row = f"provisioning.plan_{NODES}_nodes"
    yield Result(
        row, "s", f"<= {MOST_SECONDS:g}", figures, met=figures.p50 <= MOST_SECONDS, note=f"{calls:g} API calls"
    )
