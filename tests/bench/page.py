"""The fleet page in a real browser on loopback: first paint and bytes, how soon a change shows, and jerks at 200 nodes.

Painted pages in a process of their own: the door, the pages, the API and its events as they are; only what nodes do is
made up. What takes a browser long is told by the browser: its own paint timing, and its own trace of tasks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.harness import Bench, Figures, Result
from tests.page.browser import browser, log_in, painted_site, why_not

MOST_PAINT_SECONDS, MOST_KIB, MOST_UPDATE_SECONDS, MOST_TASK_MS = 1.0, 150.0, 1.0, 50.0
_LOADS, _CHANGES, _STORMS = 10, 30, 5
_PHASES = ("booting", "loading", "ready", "asleep")
_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
_BYTES = """() => [performance.getEntriesByType('navigation')[0], ...performance.getEntriesByType('resource')]
    .filter((each) => !each.name.includes('/api/events')).reduce((sum, each) => sum + each.transferSize, 0)"""


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    reason = why_not()
    if reason:
        bench.say(f"not measured: {reason}")
        return
    with browser() as chromium:
        for nodes in (6, 200):
            folder = bench.folder / str(nodes)
            folder.mkdir()
            yield from _loads(bench, chromium, folder, nodes)


def _loads(bench: Bench, chromium: Any, folder: Path, nodes: int) -> Iterator[Result]:
    with painted_site(folder, nodes) as site:
        context = chromium.new_context(viewport={"width": 1360, "height": 900})
        page = context.new_page()
        log_in(page, site.url)
        state = context.storage_state()
        paints, sizes = [], []
        for _ in range(_LOADS):
            # A new context keeps nothing of the loads before: everything comes over the wire.
            fresh = chromium.new_context(viewport={"width": 1360, "height": 900}, storage_state=state)
            opened = fresh.new_page()
            opened.goto(site.url, wait_until="load")
            opened.wait_for_function(_PAINT)
            paints.append(float(opened.evaluate(_PAINT)) / 1000)
            sizes.append(float(opened.evaluate(_BYTES)) / 1024)
            fresh.close()
        paint, size = Figures.of(paints), Figures.of(sizes)
        yield Result(
            f"page.first_paint_{nodes}_nodes",
            "s",
            f"<= {MOST_PAINT_SECONDS:g}",
            paint,
            met=paint.percentile(95) <= MOST_PAINT_SECONDS,
            note="from the request to the first content on the screen, nothing cached",
        )
        yield Result(
            f"page.bytes_{nodes}_nodes",
            "KiB",
            f"<= {MOST_KIB:g}",
            size,
            met=size.percentile(95) <= MOST_KIB,
            note="page, style sheet, scripts and icon over the wire",
        )
        updates = Figures.of(_updates(page, site))
        yield Result(
            f"page.update_after_event_{nodes}_nodes",
            "s",
            f"<= {MOST_UPDATE_SECONDS:g}",
            updates,
            met=updates.percentile(95) <= MOST_UPDATE_SECONDS,
        )
        longest = Figures.of(_longest_tasks(chromium, page, site, nodes))
        yield Result(
            f"page.longest_task_{nodes}_nodes",
            "ms",
            f"<= {MOST_TASK_MS:g}",
            longest,
            met=longest.percentile(100) <= MOST_TASK_MS,
            note=f"processor time, while all {nodes} nodes change at once, {_STORMS} times",
        )
        context.close()
        bench.say(f"{nodes} nodes: painted after {paint.p50:.2f} s, changes shown after {updates.p50:.2f} s")


def _updates(page: Any, site: Any) -> list[float]:
    page.goto(site.url)
    page.wait_for_selector("#link-state:not([hidden])")
    page.evaluate(
        """() => {
            window.seen = {};
            new MutationObserver(() => {
                const phase = document.getElementById("node-llm-gpu-03").dataset.phase;
                window.seen[phase] ??= Date.now() / 1000;
            }).observe(document.getElementById("rows"), {childList: true});
        }"""
    )
    found = []
    for number in range(_CHANGES):
        phase = _PHASES[number % len(_PHASES)]
        page.evaluate("() => { window.seen = {}; }")
        at = site.change("be", "llm-gpu-03", phase, f"change no. {number}")
        page.wait_for_function(f"() => window.seen[{phase!r}]")
        found.append(page.evaluate(f"() => window.seen[{phase!r}]") - at)
        # Not in step with the page's own looks.
        time.sleep(0.05 + number % 7 * 0.03)
    return found


def _longest_tasks(chromium: Any, page: Any, site: Any, nodes: int) -> list[float]:
    """Return the longest task of the page's own thread while all nodes change, in milliseconds of processor time."""
    page.goto(site.url)
    page.wait_for_selector("#link-state:not([hidden])")
    found = []
    for number in range(_STORMS):
        phase = _PHASES[number % len(_PHASES)]
        chromium.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline", "devtools.timeline"])
        site.change("all", phase)
        # Looking on is work for the page too: not at every frame.
        page.wait_for_function(
            f"() => [...document.getElementById('rows').children].every((row) => row.dataset.phase === {phase!r})",
            polling=500,
        )
        found.append(_longest(json.loads(chromium.stop_tracing())["traceEvents"]))
    return found


def _longest(events: list[dict[str, Any]]) -> float:
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in events
        if event["name"] == "RunTask" and "tdur" in event and (event["pid"], event["tid"]) in threads
    ]
    assert tasks, "the trace holds no task"
    return max(tasks)
