"""Those who make VMs: ours, and others who do the equivalent. Each returns what it cost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provisioner.adapters.processes import dying_with_us
from tests.bench.lab_site import LabSite
from tests.bench.watching import PeakMemory


@dataclass(frozen=True, slots=True)
class Cost:
    """From nothing to every VM running: seconds on the wall, API calls, processor seconds, MiB at the highest.

    `answering` is how much of the wall time the lab spent on answering, whoever asked.
    """

    wall: float
    calls: int
    cpu: float
    memory: float
    answering: float


def calls_until(site: LabSite, moment: float) -> tuple[int, float]:
    """Return how many requests had come in by a reading of the monotonic clock, and for how long the lab was at them.

    Requests overlap, so what counts is the time in which at least one was being answered.
    """
    count, busy, until = 0, 0.0, 0.0
    for request in sorted(site.requests(), key=lambda each: float(each["began"])):
        began, ended = float(request["began"]), float(request["began"]) + float(request["seconds"])
        if began > moment:
            break
        count += 1
        busy += max(0.0, min(ended, moment) - max(began, until))
        until = max(until, ended)
    return count, busy


def finished(process: subprocess.Popen[str], words: str, began: float) -> float:
    """Return the seconds since `began`. Raises when the client failed: its figures would mean nothing."""
    wall = time.monotonic() - began
    if process.returncode != 0:
        raise AssertionError(f"{process.args!r} ended with {process.returncode}: {words[-2000:]}")
    return wall


def to_its_end(site: LabSite, command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a client until it ends; return what it cost."""
    cpu = _children_cpu()
    began = time.monotonic()
    with (
        subprocess.Popen(
            dying_with_us(*command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        PeakMemory(process.pid) as memory,
    ):
        words, _ = process.communicate()
        wall = finished(process, words, began)
    calls, answering = calls_until(site, time.monotonic())
    return Cost(wall, calls, _children_cpu() - cpu, memory.peak, answering)


def _children_cpu() -> float:
    """Return the processor seconds of children that were waited for, theirs included; one at a time ends here."""
    times = os.times()
    return times.children_user + times.children_system
