"""A real browser, Debian's Chromium, and painted pages in a process of their own for it to look at."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provisioner.adapters.processes import dying_with_us
from tests.page.painted import SECRETS

PROGRAM = "chromium"
# No sandbox within the sandbox: tests may be root, and it looks at nothing but our own pages.
_OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]


def why_not() -> str:
    """Return why there is no browser on this machine; nothing where there is one."""
    if shutil.which(PROGRAM) is None:
        return f"there is no program {PROGRAM}; apt install {PROGRAM}"
    if importlib.util.find_spec("playwright") is None:
        return "the Python package playwright is missing"
    return ""


@contextmanager
def browser() -> Iterator[Any]:
    """Start a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which(PROGRAM), args=_OPTIONS)
        try:
            yield started
        finally:
            started.close()


class PaintedSite:
    """Painted pages that answer on a port."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = str(self._read()["url"])

    def change(self, *what: str) -> float:
        """Change something; return when that was, in UNIX seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return float(self._read()["at"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it has ended"
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def painted_site(folder: Path, nodes: int) -> Iterator[PaintedSite]:
    """Start painted pages."""
    command = dying_with_us(sys.executable, "-m", "tests.page.painted_process", str(folder), str(nodes))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield PaintedSite(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def log_in(page: Any, url: str, token: str = SECRETS["admin"]) -> None:
    """Show a token at the door, as a person does."""
    page.goto(url)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector("#rows")
