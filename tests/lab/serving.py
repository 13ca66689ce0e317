"""A control service as a process of its own, and a client of its API."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

_SECONDS = 60


class Surroundings(Protocol):
    """What a service needs of a site."""

    @property
    def environment(self) -> dict[str, str]:
        """Fleet file and state folder, for a command line."""
        ...


@dataclass(frozen=True)
class Answer:
    """What came back. `value` is JSON, or text where it is none."""

    status: int
    value: Any
    headers: Mapping[str, str]


@dataclass
class Client:
    """Somebody who asks the API."""

    url: str
    token: str | None = None
    certificate: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def connect(self, seconds: float = _SECONDS) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        if place.scheme == "https":
            context = ssl.create_default_context(cafile=self.certificate)
            context.check_hostname = False
            return http.client.HTTPSConnection(place.netloc, timeout=seconds, context=context)
        return http.client.HTTPConnection(place.netloc, timeout=seconds)

    def heads(self, more: Mapping[str, str]) -> dict[str, str]:
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {**bearer, **self.headers, **more}

    def ask(self, method: str, path: str, body: object = None, **more: str) -> Answer:
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if sent is not None else {}
        named = {key.replace("_", "-"): value for key, value in more.items()}
        with closing(self.connect()) as connection:
            connection.request(method, path, sent, self.heads({**kind, **named}))
            answer = connection.getresponse()
            text = answer.read().decode()
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        return Answer(answer.status, value, dict(answer.headers.items()))

    def get(self, path: str, **more: str) -> Answer:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: object = None, **more: str) -> Answer:
        return self.ask("POST", path, body, **more)

    def events(self, query: str = "", **more: str) -> Iterator[dict[str, Any]]:
        """Yield events as they come."""
        named = {key.replace("_", "-"): value for key, value in more.items()}
        with closing(self.connect()) as connection:
            connection.request("GET", f"/api/events{query}", headers=self.heads(named))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])


@dataclass
class RunningService:
    """A service that answers."""

    process: subprocess.Popen[str]
    client: Client

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_SECONDS)

    def kill(self) -> None:
        """Have it end without a word."""
        self.process.kill()
        self.process.wait(_SECONDS)


@contextmanager
def running_service(
    site: Surroundings,
    *,
    listen: str = "127.0.0.1:0",
    token: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningService]:
    """Start a service for a site; it is gone afterwards."""
    command = [sys.executable, "-m", "provisioner", "serve", "--json", "--listen", listen]
    with subprocess.Popen(
        command, env={**site.environment, **(environment or {})}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "it did not start"
            yield RunningService(process, Client(json.loads(line)["ready"]["url"], token))
        finally:
            if process.poll() is None:
                process.kill()
