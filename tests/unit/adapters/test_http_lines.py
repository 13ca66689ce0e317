"""Answers that come line by line, from a server that stops in the middle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from provisioner.adapters.web.http_client import HttpClient
from provisioner.ports.web import NoAnswer


@contextmanager
def server(status: int, lines: list[bytes], *, hangs: bool = False) -> Iterator[str]:
    """Answer every request with these lines, then end or hang."""
    go_on = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            for line in lines:
                self.wfile.write(line + b"\n")
                self.wfile.flush()
            if hangs:
                go_on.wait(10)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/api/pull"
    finally:
        go_on.set()
        running.shutdown()
        thread.join()
        running.server_close()


def test_lines_come_one_by_one_without_empty_ones() -> None:
    with server(200, [b'{"a": 1}', b"", b'{"b": 2}']) as url:
        assert list(HttpClient().lines("POST", url, {}, silence_seconds=5)) == ['{"a": 1}', '{"b": 2}']


def test_silence_in_the_middle_ends_the_wait() -> None:
    with server(200, [b"first"], hangs=True) as url:
        lines = HttpClient().lines("POST", url, {}, silence_seconds=0.3)
        assert next(lines) == "first"
        with pytest.raises(NoAnswer, match="no answer yet"):
            next(lines)


def test_another_status_is_told_with_its_words() -> None:
    with server(404, [b"no such thing"]) as url, pytest.raises(NoAnswer, match="HTTP 404 no such thing"):
        list(HttpClient().lines("POST", url, {}, silence_seconds=5))


def test_nobody_there_is_told() -> None:
    with server(200, []) as url:
        pass
    with pytest.raises(NoAnswer, match="connection refused"):
        list(HttpClient().lines("POST", url, {}, silence_seconds=5))
