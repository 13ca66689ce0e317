"""A lab inside a test: in a thread of its own, on a free port, gone afterwards.

with RunningLab(tmp_path) as lab:
    ProxmoxAPI(lab.host, port=lab.port, user="provisioner@pve", token_name="fleet",
               token_value=lab.token(), verify_ssl=str(lab.certificate_file))
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from provisioner.lab.core import Lab, LabOptions
from provisioner.lab.dispatch import Dispatcher
from provisioner.lab.faults import FaultPlan
from provisioner.lab.guests.base import GuestBackend
from provisioner.lab.guests.simulated import SimulatedBackend
from provisioner.lab.initial import PROVISIONER_TOKEN
from provisioner.lab.model import TaskRecord
from provisioner.lab.running import Address, Served

T = TypeVar("T")
_START_SECONDS = 60


class RunningLab:
    """A context manager around one lab."""

    def __init__(
        self,
        state_dir: Path,
        *,
        pve: str = "9.1",
        state: Mapping[str, Any] | None = None,
        task_seconds: float = 0.0,
        lock_seconds: float = 10.0,
        boot_seconds: float = 0.0,
        engine_seconds: float = 0.0,
        shutdown_seconds: float = 0.0,
        storage_limits: Mapping[str, int] | None = None,
        faults: Sequence[Mapping[str, object]] | Mapping[str, object] = (),
        backend: Callable[[Path], GuestBackend] | None = None,
        stop_guests: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.state_dir = state_dir
        self.faults = FaultPlan.read(faults)
        self.options = LabOptions(
            state_dir,
            pve=pve,
            task_seconds=task_seconds,
            lock_seconds=lock_seconds,
            auth_delay_seconds=0.0,
            initial_state=state,
            storage_limits=storage_limits or {},
            faults=self.faults,
        )
        self._make_backend = backend or (
            lambda run_dir: SimulatedBackend(
                run_dir,
                boot_seconds=boot_seconds,
                engine_seconds=engine_seconds,
                shutdown_seconds=shutdown_seconds,
                faults=self.faults.guest_faults,
            )
        )
        self._stop_guests = stop_guests
        self._wanted = Address(host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab", daemon=True)
        self._served: Served | None = None
        self._address = self._wanted

    def __enter__(self) -> RunningLab:
        self._thread.start()
        self._address = self.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the lab; safe to call twice."""
        if self._loop.is_closed():
            return
        if self._served is not None:
            self.run(self._served.close(stop_guests=self._stop_guests))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the lab's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_SECONDS)

    @property
    def served(self) -> Served:
        """The lab with its server."""
        if self._served is None:
            raise RuntimeError("the lab is not running")
        return self._served

    @property
    def lab(self) -> Lab:
        """The lab itself; touch it only through `run`."""
        return self.served.lab

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT``."""
        return self._address.url

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self._address.host

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._address.port

    @property
    def fingerprint(self) -> str:
        """The SHA-256 fingerprint of its certificate."""
        return self.served.fingerprint

    @property
    def certificate_file(self) -> Path:
        """Its certificate, to verify against."""
        return self.served.certificate_file

    @property
    def credentials(self) -> dict[str, str]:
        """Identity to password or token secret."""
        return self.served.credentials()

    def token(self, name: str = PROVISIONER_TOKEN) -> str:
        """Return the secret of a token."""
        return self.credentials[name]

    def requests(self) -> list[dict[str, Any]]:
        """Return every API request since the start, or since `forget_requests`."""
        return self.run(_now(self.lab.journal.all))

    def forget_requests(self) -> None:
        """Start counting anew."""
        self.run(_now(self.lab.journal.clear))

    def call(self, method: str, path: str, /, *, who: str = "root@pam", **params: object) -> Any:
        """Call the API as somebody without the detour over HTTPS; refusals are raised as `Refusal`."""
        return self.run(Dispatcher(self.lab).call(who, method, path, params))

    def befall(self, name: str, **arguments: object) -> None:
        """Let something happen to the cluster, by its name in a fault plan."""
        self.run(self.lab.befall(name, arguments))

    def finish(self, upid: str) -> TaskRecord:
        """Return a task once it is over."""
        return self.run(self.lab.tasks.finished(upid))

    def get(self, path: str, token: str = PROVISIONER_TOKEN) -> Any:
        """Fetch a path over HTTPS and return the data of the answer."""
        context = ssl.create_default_context(cafile=str(self.certificate_file))
        request = urllib.request.Request(  # noqa: S310 - our own https address
            f"{self.url}/api2/json{path}",
            headers={"Authorization": f"PVEAPIToken={token}={self.token(token)}"},
        )
        with urllib.request.urlopen(request, context=context, timeout=_START_SECONDS) as answer:  # noqa: S310
            return json.load(answer)["data"]

    async def _open(self) -> Address:
        self._served = Served(self.options, self._make_backend(self.state_dir / "guests"))
        return await self._served.open(self._wanted.host, self._wanted.port)


async def _now(question: Callable[[], T]) -> T:
    return question()
