"""Sending records to a database that is there, away, or particular."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import provisioner.adapters.web.record_sender as record_sender
from provisioner.adapters.web.record_sender import RecordSender, SentCounts
from provisioner.domain.service import RecordSpec
from provisioner.waiting import Pace


class Database:
    """Takes lines; answers 400 to a batch with a bad one, as InfluxDB does, having written the others."""

    def __init__(self) -> None:
        self.written: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        self.status = 204
        database = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                lines = self.rfile.read(int(self.headers["Content-Length"])).decode().split("\n")
                database.asked.append((self.path, self.headers["Authorization"]))
                status = database.status
                if status == 204:
                    database.written.update(each for each in lines if not each.startswith("bad"))
                    status = 400 if any(each.startswith("bad") for each in lines) else 204
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(record_sender, "_GATHER_SECONDS", 0.02)
    monkeypatch.setattr(record_sender, "_FIRST_PAUSE", 0.02)
    found = Database()
    yield found
    found.server.shutdown()
    found.server.server_close()


def until(sender: RecordSender, is_so: Callable[[SentCounts], bool]) -> SentCounts:
    import time

    deadline = time.monotonic() + 10
    while not is_so(sender.counts()):
        assert time.monotonic() < deadline, sender.counts()
        time.sleep(Pace().first)
    return sender.counts()


def test_what_is_added_is_sent_in_batches(database: Database) -> None:
    sender = RecordSender(RecordSpec(database.url, database="llm"), "")
    for number in range(50):
        sender.add(f"line {number}")
    until(sender, lambda counts: counts.sent == 50)
    assert database.written == {f"line {number}" for number in range(50)}
    assert len(database.asked) < 10
    assert database.asked[0] == ("/write?db=llm&precision=ns", None)
    sender.close()


@pytest.mark.parametrize(
    ("spec", "path", "shown"),
    [
        ({"database": "llm", "user": "us"}, "/write?db=llm&precision=ns", "Basic dXM6aHVzaA=="),
        ({"bucket": "b", "organization": "o"}, "/api/v2/write?org=o&bucket=b&precision=ns", "Token hush"),
    ],
)
def test_each_version_is_asked_in_its_own_way(database: Database, spec: dict[str, str], path: str, shown: str) -> None:
    sender = RecordSender(RecordSpec(database.url, **spec), "hush")
    sender.add("line")
    until(sender, lambda counts: counts.sent == 1)
    assert database.asked == [(path, shown)]
    sender.close()


def test_one_bad_line_costs_no_other(database: Database) -> None:
    sender = RecordSender(RecordSpec(database.url, database="llm"), "")
    for number in range(20):
        sender.add("bad" if number == 7 else f"line {number}")
    counts = until(sender, lambda counts: counts.sent + counts.refused == 20)
    assert (counts.sent, counts.refused, counts.waiting) == (19, 1, 0)
    sender.close()


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_database_that_is_away_or_not_made_yet_gets_everything_later(database: Database, status: int) -> None:
    database.status = status
    sender = RecordSender(RecordSpec(database.url, database="llm"), "")
    sender.add("line")
    until(sender, lambda counts: len(database.asked) >= 2)
    assert sender.counts().sent == 0
    database.status = 204
    until(sender, lambda counts: counts.sent == 1)
    assert database.written == {"line"}
    sender.close()


def test_what_waits_too_long_makes_room_for_what_is_new(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_sender, "_MOST_WAITING", 5)
    database.status = 503
    sender = RecordSender(RecordSpec(database.url, database="llm"), "")
    for number in range(12):
        sender.add(f"line {number}")
    until(sender, lambda counts: bool(database.asked))
    database.status = 204
    until(sender, lambda counts: counts.sent + counts.dropped == 12)
    assert "line 11" in database.written
    assert sender.counts().dropped >= 1
    sender.close()


def test_a_service_that_ends_sends_what_waits_and_is_not_held_up_by_who_is_away(database: Database) -> None:
    sender = RecordSender(RecordSpec(database.url, database="llm"), "")
    sender.add("last words")
    sender.close()
    assert database.written == {"last words"}
    away = RecordSender(RecordSpec("http://127.0.0.1:9", database="llm"), "")
    away.add("lost")
    away.close()
