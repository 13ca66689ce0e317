"""`provisioner up`, measured until the last VM runs; guest, engine and proof, which come then, nobody else has."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from provisioner.adapters.processes import dying_with_us
from tests.bench.clients import Cost, calls_until, finished
from tests.bench.lab_site import LabSite
from tests.bench.watching import PeakMemory, cpu_seconds


def up(site: LabSite) -> tuple[Cost, Cost]:
    """Bring all nodes up; return what it took until every VM ran, and until every node was proved."""
    began = time.monotonic()
    running, at_running = 0, None
    lines = []
    with (
        subprocess.Popen(
            dying_with_us(sys.executable, "-m", "provisioner", "up", "--json"),
            env=site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        PeakMemory(process.pid) as memory,
    ):
        assert process.stdout is not None
        cpu = 0.0
        for line in process.stdout:
            lines.append(line)
            event = json.loads(line).get("event", {}) if line.startswith("{") else {}
            if (event.get("step"), event.get("phase")) == ("start", "done"):
                running += 1
            if running == len(site.names) and at_running is None:
                at_running = time.monotonic(), cpu_seconds(process.pid), memory.peak
            cpu = cpu_seconds(process.pid)
        process.wait()
        proved_wall = finished(process, "".join(lines), began)
    assert at_running is not None, "".join(lines)[-2000:]
    moment, cpu_then, memory_then = at_running
    calls, answering = calls_until(site, moment)
    all_calls, all_answering = calls_until(site, time.monotonic())
    return (
        Cost(moment - began, calls, cpu_then, memory_then, answering),
        Cost(proved_wall, all_calls, cpu, memory.peak, all_answering),
    )
