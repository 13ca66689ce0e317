"""``python -m tests.bench [PREFIX]``: measure, print the table, write ``build/bench.json``."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.metadata import version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.harness import Bench, Result, write
from tests.bench.rows import FAMILIES
from tests.peers import collection_version

SEED = 20261121
ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "build" / "bench.json"


def main(wanted: str) -> int:
    """Measure what begins with `wanted`; return 1 when something could not be measured."""
    families = [family for family in FAMILIES if family.concerns(wanted)]
    if not families:
        known = sorted(prefix for family in FAMILIES for prefix in family.prefixes)
        print(f"no row begins with '{wanted}'; there is: {', '.join(known)}")
        return 2
    # As an installed program runs: with its bytecode kept, which not every environment wants of a source tree.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    console = Console(width=None if sys.stdout.isatty() else 200, emoji=False)
    console.print(surroundings(), highlight=False)
    results: list[Result] = []
    broken = []
    for family in families:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            bench = Bench(Path(folder), SEED, lambda text: console.print(f"  {text}", highlight=False))
            try:
                results += [result for result in family.measure(bench) if result.name.startswith(wanted)]
            except Exception:
                # One family that breaks must not cost the figures of the others.
                broken.append(family.where)
                console.print(traceback.format_exc(), markup=False, highlight=False)
        console.print(f"{family.where}: {time.monotonic() - begun:.1f} s", highlight=False)
    console.print(picture(results))
    for result in results:
        if result.note:
            console.print(f"{result.name}: {result.note}", highlight=False, markup=False)
    write(results, TARGET)
    console.print(f"{TARGET.relative_to(ROOT)}: {len(results)} rows; load {load()}", highlight=False)
    if broken:
        console.print(f"could not be measured: {', '.join(broken)}")
    return 1 if broken else 0


def surroundings() -> str:
    """Say on what, with what and from which state this was measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    packages = ", ".join(f"{name} {version(name)}" for name in ("proxmoxer", "ansible-core", "requests", "aiohttp"))
    return (
        f"provisioner {version('provisioner')} ({commit}), seed {SEED}, Python {platform.python_version()}, "
        f"{packages}, community.proxmox {collection_version() or 'not at hand'}\n"
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, load {load()}"
    )


def load() -> str:
    """Return the load averages."""
    return "/".join(f"{each:.2f}" for each in os.getloadavg())


def picture(results: list[Result]) -> Table:
    """Return the table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("row", "unit", "target", "ours (p50/p95/p99)", "others", "met"):
        table.add_column(column, overflow="fold")
    for result in results:
        peers = "\n".join(f"{name}: {figures}" for name, figures in result.peers.items())
        met = "" if result.met is None else "yes" if result.met else "NO"
        table.add_row(result.name, result.unit, result.target, str(result.ours), peers, met)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
