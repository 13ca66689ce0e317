"""A lab with its server: what the command and the test harness both start."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from provisioner.lab import initial, tls
from provisioner.lab.core import Lab, LabOptions
from provisioner.lab.guests.base import GuestBackend
from provisioner.lab.server import ApiServer


@dataclass(frozen=True, slots=True)
class Address:
    """Where a lab listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Return the base of the API without its path."""
        return f"https://{self.host}:{self.port}"


class Served:
    """One lab behind HTTPS."""

    def __init__(self, options: LabOptions, backend: GuestBackend) -> None:
        self.lab = Lab(options, backend)
        self._cert, self._key = tls.certificate(options.state_dir)
        self.fingerprint = tls.fingerprint(self._cert)
        self.certificate_file = self._cert
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._context = tls.server_context(self._cert, self._key)
        self._comeback: asyncio.Task[None] | None = None
        self._address = Address("", 0)
        self.lab.front = self

    async def open(self, host: str, port: int) -> Address:
        """Load the cluster, find guests, listen; port 0 takes a free one."""
        await self.lab.open()
        self._runner = web.AppRunner(ApiServer(self.lab).application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await self._listen(self._runner, host, port)
        except OSError:
            await self.close()
            raise
        bound = self._runner.addresses[0]
        self._address = Address(host, bound[1])
        return self._address

    async def _listen(self, runner: web.AppRunner, host: str, port: int) -> None:
        self._site = web.TCPSite(runner, host, port, ssl_context=self._context, reuse_address=True)
        await self._site.start()

    async def restart(self, seconds: float) -> None:
        """Cut every connection and refuse new ones for a while, as a restart of the API's server does."""
        if self._runner is None or self._site is None or self._comeback is not None:
            return
        await self._site.stop()
        self._cut(self._runner)
        self._comeback = asyncio.get_running_loop().create_task(self._come_back(self._runner, seconds))

    async def _come_back(self, runner: web.AppRunner, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen(runner, self._address.host, self._address.port)
        self._comeback = None

    async def renew_certificate(self) -> None:
        """Show another certificate from the next connection on; those that are open are cut."""
        with tempfile.TemporaryDirectory() as folder:
            self._context.load_cert_chain(*tls.certificate(Path(folder)))
        if self._runner is not None:
            self._cut(self._runner)

    async def show_first_certificate(self) -> None:
        """Take a renewed certificate back."""
        self._context.load_cert_chain(self._cert, self._key)

    @staticmethod
    def _cut(runner: web.AppRunner) -> None:
        for connection in list(runner.server.connections) if runner.server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()

    async def close(self, *, stop_guests: bool = False) -> None:
        """Stop listening and let go of everything."""
        if self._comeback is not None:
            self._comeback.cancel()
        if self._runner is not None:
            await self._hang_up(self._runner)
        await self.lab.close(stop_guests=stop_guests)

    @staticmethod
    async def _hang_up(runner: web.AppRunner) -> None:
        """Finish what is being answered, then cut: a client that keeps its connection would hold TLS open for 30 s."""
        connections = runner.server.connections if runner.server is not None else []
        transports = [connection.transport for connection in connections]
        await runner.cleanup()
        for transport in transports:
            # Up to Python 3.11.3 a transport that is gone already has no protocol left to abort.
            with suppress(AttributeError):
                if transport is not None:
                    transport.abort()
        # Aborted transports are closed by the loop's next turns.
        for _ in range(3):
            await asyncio.sleep(0)

    def credentials(self) -> dict[str, str]:
        """Return identity to password or token secret."""
        return initial.credentials(self.lab.cluster)


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)


def write_credentials(path: Path, credentials: dict[str, str]) -> None:
    """Write who is known by which secret."""
    write_private(path, json.dumps(credentials, indent=2) + "\n")
