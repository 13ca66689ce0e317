"""A plain proxmoxer script with that library's own `Tasks.blocking_status`, which looks once a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.clients import Cost, to_its_end
from tests.bench.lab_site import LabSite

SCRIPT = Path(__file__).with_name("sequential_script.py")


def run(site: LabSite, vmids: Sequence[int]) -> Cost:
    """Create and start the VMs one after the other."""
    environment = {
        **os.environ,
        "BENCH_HOST": site.host,
        "BENCH_PORT": str(site.port),
        "BENCH_SECRET": site.secret,
        "BENCH_CA": str(site.certificate),
    }
    return to_its_end(site, [sys.executable, str(SCRIPT), *map(str, vmids)], environment)
