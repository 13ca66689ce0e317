"""What a kill -9 takes of what was told to the ledger and to the journal: real processes, killed at random moments."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisioner.adapters.storage.event_log import SqliteEventLog
from provisioner.adapters.storage.ledger import COMMIT_SECONDS, SqliteLedger
from provisioner.adapters.storage.sqlite import open_database

ROUNDS = 4
# Two commits on a disk that others use too.
SLOW_DISK_SECONDS = 0.5

# Tells something every millisecond, with a number and the time, until it is killed.
TELLS = """
import sys, time
from pathlib import Path
from provisioner.adapters.storage.event_log import SqliteEventLog
from provisioner.adapters.storage.ledger import SqliteLedger
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.services.journaling import Journal

path, number = Path(sys.argv[2]), 0
if sys.argv[1] == "ledger":
    ledger = SqliteLedger(path)
    def tell():
        ledger.add(LedgerEntry(time.monotonic(), "x", "/", str(number), Outcome.ANSWERED, 200, 0.0))
else:
    journal = Journal(SqliteEventLog(path), SystemClock())
    journal.start()
    def tell():
        journal.add(NewEntry(Kind.STEP, detail=str(number), facts={"at": time.monotonic()}))
print("tells", flush=True)
while True:
    tell()
    number += 1
    time.sleep(0.001)
"""


def kept_of(what: str, path: Path) -> list[tuple[int, float]]:
    """Return number and time of all that is kept."""
    if what == "ledger":
        ledger = SqliteLedger(path)
        found = [(int(each.model), each.at) for each in ledger.since(0.0)]
        ledger.close()
        return found
    entries = SqliteEventLog(path).after(0, limit=100_000)
    return [(int(each.detail), float(each.facts["at"] or 0)) for each in entries]


@pytest.mark.parametrize("what", ["ledger", "journal"])
def test_a_kill_takes_no_more_than_the_last_moment(what: str, tmp_path: Path) -> None:
    chance = random.Random(what)
    for turn in range(ROUNDS):
        path = tmp_path / f"{turn}.sqlite"
        with subprocess.Popen([sys.executable, "-c", TELLS, what, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"tells\n"
            time.sleep(0.3 + chance.random() * 0.3)
            killed_at = time.monotonic()
            process.kill()
        kept = kept_of(what, path)
        assert [number for number, _ in kept] == list(range(len(kept))), "nothing in between is missing"
        assert killed_at - kept[-1][1] < COMMIT_SECONDS + SLOW_DISK_SECONDS


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    opened = open_database(tmp_path / "any.sqlite", "CREATE TABLE IF NOT EXISTS any (thing TEXT) STRICT")
    assert opened.execute("PRAGMA synchronous").fetchone() == (2,)
    assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    opened.close()
