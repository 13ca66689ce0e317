"""Fetching an image from a server that breaks off, ignores ranges, or serves another file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provisioner.errors import InputError, OutsideError
from provisioner.lab.images.cloud import fetch_cloud_image

CONTENT = bytes(range(256)) * 5000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Mirror(ThreadingHTTPServer):
    """Serves CONTENT; `break_after` cuts the first answer, `ranges` says whether it resumes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.break_after: int | None = None
        self.ranges = True
        self.status = 200
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/images/node.qcow2"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if self.server.status != 200 or start >= len(CONTENT):
            self.send_error(self.server.status if self.server.status != 200 else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        cut, self.server.break_after = self.server.break_after, None
        self.wfile.write(CONTENT[start : start + cut] if cut is not None else CONTENT[start:])

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=10)


def test_an_image_is_fetched_once_and_kept_under_its_checksum(mirror: Mirror, tmp_path: Path) -> None:
    first = fetch_cloud_image(mirror.url, CHECKSUM, tmp_path)
    again = fetch_cloud_image(mirror.url, CHECKSUM, tmp_path)
    assert first.path.read_bytes() == CONTENT
    assert first.path.name == "node.qcow2"
    assert again == first
    assert len(mirror.asked) == 1


def test_a_broken_transfer_goes_on_where_it_stopped(mirror: Mirror, tmp_path: Path) -> None:
    mirror.break_after = 300_000
    fetched = fetch_cloud_image(mirror.url, CHECKSUM, tmp_path)
    assert fetched.path.read_bytes() == CONTENT
    first, second = mirror.asked
    assert first is None
    assert second is not None
    assert 200_000 < int(second.removeprefix("bytes=").rstrip("-")) <= 300_000


def test_what_an_earlier_run_left_is_used(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f".download-{CHECKSUM}.part").write_bytes(CONTENT[:1000])
    fetch_cloud_image(mirror.url, CHECKSUM, tmp_path)
    assert mirror.asked == ["bytes=1000-"]


def test_a_complete_leftover_needs_only_its_checksum(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f".download-{CHECKSUM}.part").write_bytes(CONTENT)
    assert fetch_cloud_image(mirror.url, CHECKSUM, tmp_path).path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    mirror.break_after = 300_000
    assert fetch_cloud_image(mirror.url, CHECKSUM, tmp_path).path.read_bytes() == CONTENT


def test_a_leftover_of_another_file_is_thrown_away(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f".download-{CHECKSUM}.part").write_bytes(b"something else")
    assert fetch_cloud_image(mirror.url, CHECKSUM, tmp_path).path.read_bytes() == CONTENT
    assert mirror.asked == ["bytes=14-", None]


def test_another_file_is_refused_and_not_kept(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=CHECKSUM):
        fetch_cloud_image(mirror.url, "0" * 64, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_missing_file_is_not_asked_for_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.status = 404
    with pytest.raises(OutsideError, match="404"):
        fetch_cloud_image(mirror.url, CHECKSUM, tmp_path)
    assert len(mirror.asked) == 1


@pytest.mark.parametrize(
    ("url", "checksum"),
    [("ftp://x/y", CHECKSUM), ("http://x/", CHECKSUM), ("http://x/y", "abc"), ("http://x/y", "Z" * 64)],
)
def test_malformed_orders_are_refused_unasked(url: str, checksum: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        fetch_cloud_image(url, checksum, tmp_path)
