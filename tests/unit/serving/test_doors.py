"""Who gets in where no token is needed, and what a process that serves takes for itself."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from provisioner.domain.service import read_listen_address
from provisioner.serving.door import listening
from provisioner.serving.hosts import HostGuard
from provisioner.serving.process import allow_many_files


def passes(path: str, **headers: str) -> bool:
    """Say whether a request gets through to what is guarded."""
    reached: list[str] = []

    async def app(scope: MutableMapping[str, Any], receive: object, send: object) -> None:
        reached.append(scope["path"])

    async def send(message: MutableMapping[str, Any]) -> None:
        """Drop the refusal."""

    sent = {"host": "127.0.0.1:8700", **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
    guard = HostGuard(app, read_listen_address("127.0.0.1:8700"))
    asyncio.run(guard({"type": "http", "path": path, "headers": pairs}, None, send))
    return bool(reached)


def test_a_picture_on_a_foreign_page_wakes_no_node() -> None:
    assert not passes("/v1/images?model=tiny", sec_fetch_site="cross-site")
    assert not passes("/ollama/api/tags", sec_fetch_site="cross-site")


@pytest.mark.parametrize("headers", [{}, {"sec_fetch_site": "none"}, {"sec_fetch_site": "same-origin"}])
def test_programs_and_our_own_pages_get_in(headers: dict[str, str]) -> None:
    assert passes("/v1/models", **headers)


def test_a_link_on_a_foreign_page_may_lead_to_ours() -> None:
    assert passes("/api", sec_fetch_site="cross-site")


def test_a_local_page_at_another_port_gets_in_and_a_foreign_one_does_not() -> None:
    assert passes("/v1/chat/completions", origin="http://localhost:3000", sec_fetch_site="cross-site")
    assert not passes("/v1/chat/completions", origin="https://example.com", sec_fetch_site="cross-site")
    assert not passes("/v1/chat/completions", origin="null")


@pytest.fixture
def few_files() -> Iterator[int]:
    """Allow as many open files as a shell does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_service_allows_itself_more_connections_than_a_shell_does(few_files: int) -> None:
    if few_files == 256:
        pytest.skip("no more than 256 files are allowed here at all")
    allow_many_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256


def test_a_client_whose_power_is_cut_does_not_keep_its_connection() -> None:
    with (
        contextlib.closing(listening(read_listen_address("127.0.0.1:0"))) as door,
        socket.create_connection(door.getsockname()[:2]),
    ):
        assert select.select([door], [], [], 5)[0]
        accepted, _ = door.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, pause, count = (
                accepted.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + pause * count <= 120
