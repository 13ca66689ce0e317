"""``python -m tests.page.pictures FOLDER``: pictures of the pages and of the terminal, over a painted fleet."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from provisioner.adapters.system_clock import SystemClock
from provisioner.cli.status_watch import Screen, picture, row_of
from provisioner.services.day_history import DayHistory
from tests.page.browser import browser, log_in, painted_site
from tests.page.painted import Painted, paint_a_day

DESK, PHONE = {"width": 1360, "height": 900}, {"width": 390, "height": 844}


def main(target: Path) -> None:
    """Take them."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1300, "height": 700})
        page.set_content(terminal(Path(folder)))
        page.locator("svg.rich-terminal").screenshot(path=str(target / "status-watch.png"))
    with tempfile.TemporaryDirectory() as folder, painted_site(Path(folder), 6) as site, browser() as chromium:
        for name, size, scheme in (
            ("desk-light", DESK, "light"),
            ("desk-dark", DESK, "dark"),
            ("phone-light", PHONE, "light"),
            ("phone-dark", PHONE, "dark"),
        ):
            context = chromium.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1)
            page = context.new_page()
            page.goto(site.url)
            if name == "desk-light":
                _take(page, target / "page-door.png")
            log_in(page, site.url)
            page.wait_for_selector("#link-state:not([hidden])")
            _take(page, target / f"fleet-{name}.png")
            _take(page, target / f"page-{name}.png", full=True)
            if name == "desk-light":
                page.goto(f"{site.url}/nodes/llm-gpu-01")
                _take(page, target / "page-node.png", full=True)
                page.goto(f"{site.url}/events?q=ready")
                _take(page, target / "page-events.png")
                page.goto(site.url)
                page.locator('[data-node="llm-gpu-01"] a[data-act="sleep"]').first.click()
                _take(page, target / "page-dialog.png")
            if name == "desk-dark":
                page.locator('[data-node="llm-gpu-03"] details.menu summary').click()
                _take(page, target / "page-menu.png")
            context.close()


def terminal(folder: Path) -> str:
    """Return what `status --watch` shows, as SVG."""
    site = Painted(folder, 6, clock=SystemClock())
    paint_a_day(site)
    now = site.clock.now()
    screen = Screen(
        tuple(row_of(each, now) for each in site.control.nodes()),
        dict(DayHistory(site.journal, site.ledger, site.clock).days(site.names)),
        site.log.latest(limit=6),
        None,
        "the control service (process 4211)",
    )
    console = Console(record=True, width=150, file=io.StringIO(), force_terminal=True)
    console.print(picture(screen))
    return console.export_svg(title="provisioner status --watch")


def _take(page: Any, path: Path, *, full: bool = False) -> None:
    page.screenshot(path=str(path), full_page=full, animations="disabled")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
