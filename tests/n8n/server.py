"""A running n8n with an owner and an API key, driven without a browser."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.n8n.install import node_bin, program

_START_SECONDS = 300
_STOP_SECONDS = 30
SCOPES = [
    *(f"workflow:{verb}" for verb in ("create", "read", "update", "delete", "list", "activate", "deactivate")),
    *("workflowTags:update", "workflowTags:list"),
    *(f"tag:{verb}" for verb in ("create", "read", "update", "delete", "list")),
    *(f"credential:{verb}" for verb in ("create", "read", "update", "delete", "list")),
    *("execution:read", "execution:list", "execution:delete"),
]
"""What our API key must be allowed."""


@dataclass
class RunningN8n:
    """An n8n that answers."""

    url: str
    key: str
    session: requests.Session

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask its public API as a person with a key would."""
        answer = requests.request(
            method, f"{self.url}/api/v1{path}", json=body, headers={"X-N8N-API-KEY": self.key}, timeout=30
        )
        assert answer.status_code < 400, (method, path, answer.status_code, answer.text[:500])
        return answer.json() if answer.text else None

    def workflows(self) -> dict[str, dict[str, Any]]:
        """Return all workflows by name."""
        return {each["name"]: each for each in self.api("GET", "/workflows?limit=250")["data"]}

    def delete(self, identity: str) -> None:
        """Delete a workflow as a person would: again, when n8n is still taking it from the public."""
        self.api("POST", f"/workflows/{identity}/deactivate")
        deadline = time.monotonic() + _START_SECONDS
        while True:
            url, shown = f"{self.url}/api/v1/workflows/{identity}", {"X-N8N-API-KEY": self.key}
            answer = requests.delete(url, headers=shown, timeout=30)
            if answer.status_code != 409 or time.monotonic() > deadline:
                assert answer.status_code < 400, answer.text
                return
            time.sleep(0.2)

    def new_key(self, scopes: list[str]) -> str:
        """Make another API key."""
        body = {"label": secrets.token_hex(4), "expiresAt": None, "scopes": scopes}
        answer = self.session.post(f"{self.url}/rest/api-keys", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["rawApiKey"])


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        return int(opened.getsockname()[1])


@contextmanager
def running_n8n(home: Path, *, more: Mapping[str, str] | None = None) -> Iterator[RunningN8n]:
    """Start an n8n on a fresh database; it is gone afterwards."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    off = (
        *("DIAGNOSTICS", "VERSION_NOTIFICATIONS", "TEMPLATES", "PERSONALIZATION", "HIRING_BANNER", "DYNAMIC_BANNERS"),
        "COMMUNITY_PACKAGES",
    )
    environment = {
        "HOME": str(home),
        "PATH": f"{node_bin()}{os.pathsep}{os.environ['PATH']}",
        "N8N_USER_FOLDER": str(home),
        "N8N_ENCRYPTION_KEY": secrets.token_hex(32),
        "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_HOST": "127.0.0.1",
        "N8N_PORT": str(port),
        "N8N_PROTOCOL": "http",
        "N8N_SECURE_COOKIE": "false",
        "N8N_WEBHOOK_URL": f"{url}/",
        "N8N_EDITOR_BASE_URL": url,
        **{f"N8N_{name}_ENABLED": "false" for name in off},
        # These ask the makers' servers at each start.
        "N8N_DISABLED_MODULES": "mcp-registry,instance-ai,agents",
        "N8N_RUNNERS_BROKER_PORT": str(free_port()),
        "DB_TYPE": "sqlite",
        "TZ": "UTC",
        "GENERIC_TIMEZONE": "UTC",
        # Keeps the expression engine's isolation, and takes a third of its time.
        "N8N_EXPRESSION_ENGINE": "vm",
        "N8N_EXPRESSION_ENGINE_LAZY_ACQUIRE": "true",
        "N8N_EXPRESSION_ENGINE_COMPILE_CACHE": "true",
        "N8N_EXPRESSION_ENGINE_POOL_SIZE": "2",
        **(more or {}),
    }
    with (home / "n8n.log").open("w") as log:
        process = subprocess.Popen(
            [node_bin() / "node", program(), "start"], env=environment, cwd=home, stdout=log, stderr=log
        )
    try:
        _until_ready(url, process, home / "n8n.log")
        session = requests.Session()
        key = _owner(url, session)
        yield RunningN8n(url, key, session)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            # Its /healthz answers before the database is there.
            if requests.get(f"{url}/healthz/readiness", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)


def _owner(url: str, session: requests.Session) -> str:
    password = f"Aa1{secrets.token_hex(12)}"
    person = {"email": "owner@example.org", "firstName": "Own", "lastName": "Er", "password": password}
    made = session.post(f"{url}/rest/owner/setup", json=person, timeout=30)
    assert made.status_code == 200, made.text
    body = {"label": "provisioner", "expiresAt": None, "scopes": SCOPES}
    answer = session.post(f"{url}/rest/api-keys", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(json.loads(answer.text)["data"]["rawApiKey"])
