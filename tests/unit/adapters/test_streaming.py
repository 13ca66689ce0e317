"""Answers that come bit by bit, from a server that does what it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from provisioner.adapters.web.streaming import HttpStreams
from provisioner.ports.web import NoAnswer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextmanager
def server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[tuple[str, threading.Event]]:
    """Serve one connection; the event lets a test tell the server to go on."""
    go_on = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                # To its end: a connection that is closed with something unread in it is reset.
                asked = b""
                while not asked.endswith(b"\r\n\r\n{}"):
                    asked += connection.recv(1 << 16)
                talk(connection, go_on)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/", go_on
        go_on.set()
        thread.join(10)


@pytest.mark.parametrize("head", [CHUNKED, HEAD + b"Connection: close\r\n\r\n"], ids=["chunked", "until it closes"])
def test_each_line_is_there_before_the_next_is_sent(head: bytes) -> None:
    wrap = chunk if head is CHUNKED else bytes

    def talk(connection: socket.socket, go_on: threading.Event) -> None:
        connection.sendall(head + wrap(b"data: one\r\n"))
        assert go_on.wait(10)
        connection.sendall(wrap(b"data: t") + wrap(b"wo\n\n") + (b"0\r\n\r\n" if head is CHUNKED else b""))

    with server(talk) as (url, go_on), HttpStreams().open(url, {}, seconds=10) as lines:
        assert next(lines) == "data: one"
        go_on.set()
        assert list(lines) == ["data: two", ""]


def test_an_error_is_told_with_its_words() -> None:
    body = b'{"error": "model is loading"}'

    def talk(connection: socket.socket, go_on: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with (
        server(talk) as (url, _),
        pytest.raises(NoAnswer, match=r"HTTP 503 .*model is loading"),
        HttpStreams().open(url, {}, seconds=10),
    ):
        pass


def test_a_stream_that_breaks_off_is_told() -> None:
    def talk(connection: socket.socket, go_on: threading.Event) -> None:
        connection.sendall(CHUNKED + chunk(b"data: one\n"))

    with server(talk) as (url, _), HttpStreams().open(url, {}, seconds=10) as lines:
        assert next(lines) == "data: one"
        with pytest.raises(NoAnswer, match="the connection was closed"):
            next(lines)


def test_silence_is_borne_for_so_long_and_no_longer() -> None:
    def talk(connection: socket.socket, go_on: threading.Event) -> None:
        connection.sendall(CHUNKED + chunk(b"data: one\n"))
        go_on.wait(10)

    with server(talk) as (url, _), HttpStreams().open(url, {}, seconds=0.2) as lines:
        assert next(lines) == "data: one"
        with pytest.raises(NoAnswer, match="it fell silent"):
            next(lines)


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with (
        pytest.raises(NoAnswer, match="connection refused"),
        HttpStreams().open(f"http://127.0.0.1:{port}/", {}, seconds=1),
    ):
        pass
