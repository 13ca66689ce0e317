"""A running service's private socket, from the other side: how commands find it and speak to it.

The socket lies in the state folder and only its owner can open it: no token is needed there.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

SOCKET = "serve.sock"
LOCK = "serve.lock"
"""Locked by a service from before it listens until its process has ended."""
# Longer than a service that starts waits for its first look.
_KNOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """What the service said."""

    status: int
    value: dict[str, object]


class ServiceGone(Exception):
    """No service answers there, or it went away before it had answered.

    `was_there` is False only where nobody listens: its process has ended. One that does not answer may be busy.
    """

    def __init__(self, reason: str, *, was_there: bool = True) -> None:
        super().__init__(reason)
        self.was_there = was_there


@contextmanager
def in_folder(folder: Path) -> Iterator[str]:
    """Yield a short path of the socket: the kernel takes 107 bytes, and folders may have longer names."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


class PrivateService:
    """A service that runs with the same state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def exists(self) -> bool:
        """Say whether a socket is there; its service may have been killed."""
        return (self._folder / SOCKET).exists()

    def has_process(self) -> bool:
        """Say whether a service's process lives, also where nobody listens: it lets its requests end, or has begun."""
        try:
            descriptor = os.open(self._folder / LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # Shared: commands that ask at the same time do not take each other for a service.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def ask(
        self, method: str, path: str, body: object = None, *, seconds: float | None = _KNOCK_SECONDS
    ) -> ServiceAnswer:
        """Return the service's answer. Raises ServiceGone.

        Args:
            method: of HTTP.
            path: with its query.
            body: what is sent as JSON; nothing for None.
            seconds: how long an answer may take; None for ever.
        """
        with closing(self._connect(seconds)) as connection:
            try:
                sent = None if body is None else json.dumps(body)
                headers = {"Content-Type": "application/json"} if sent is not None else {}
                connection.request(method, path, sent, headers)
                answer = connection.getresponse()
                value = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ServiceGone(str(error) or type(error).__name__) from error
        return ServiceAnswer(answer.status, value if isinstance(value, dict) else {})

    def events(self, after: int, node: str | None) -> Iterator[dict[str, object]]:
        """Yield what is told after a number, until the iterator is closed or the service ends."""
        query = f"?after={after}" + (f"&node={node}" if node else "")
        with closing(self._connect(None)) as connection:
            try:
                connection.request("GET", f"/api/events{query}")
                answer = connection.getresponse()
                for line in answer:
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise ServiceGone(str(error) or type(error).__name__) from error

    def _connect(self, seconds: float | None) -> http.client.HTTPConnection:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(seconds)
        try:
            with in_folder(self._folder) as path:
                opened.connect(path)
        except OSError as error:
            opened.close()
            nobody = isinstance(error, (ConnectionRefusedError, FileNotFoundError))
            raise ServiceGone(str(error) or type(error).__name__, was_there=not nobody) from error
        connection = http.client.HTTPConnection("localhost", timeout=seconds)
        connection.sock = opened
        return connection
