"""The yard that faults are tried in, and the table they make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.faults.bench import Yard

TABLE = Path(__file__).resolve().parents[3] / "build" / "faults.json"


class Yards:
    """Hands out one yard after the other; a yard that a test has left in order serves the next one too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._stack = ExitStack()
        self._yard: Yard | None = None

    def take(self) -> Yard:
        """Return a yard; it is thrown away unless `give_back` is called."""
        yard, self._yard = self._yard, None
        if yard is None:
            self.close()
            self._made += 1
            folder = self._folder / str(self._made)
            folder.mkdir()
            images = self._stack.enter_context(served_folder(folder))
            yard = Yard.laid_out(self._stack.enter_context(RunningLab(folder / "lab")), folder, images)
        return yard

    def give_back(self, yard: Yard) -> None:
        """Say that it is in order."""
        self._yard = yard

    def close(self) -> None:
        """Let go of the lab."""
        self._stack.close()
        self._stack = ExitStack()


# Not for the session: the last yard's node would sit on the address that the next module's nodes get.
@pytest.fixture(scope="module")
def yards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yards]:
    """Yards for as long as a module's tests run."""
    made = Yards(tmp_path_factory.mktemp("yards"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def table() -> Iterator[list[dict[str, object]]]:
    """What was found out about each fault; written to ``build/faults.json`` in the end."""
    rows: list[dict[str, object]] = []
    yield rows
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many faults ended well."""
    reports = [
        (outcome, report)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if "/faults/test_faults.py" in report.nodeid
    ]
    if reports:
        good = sum(outcome == "passed" for outcome, _ in reports)
        terminalreporter.line(f"faults: {good} of {len(reports)} named, safe and recovered; see {TABLE}")
