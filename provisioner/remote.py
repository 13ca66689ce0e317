"""Acts on a fleet through the control service that runs for it: what a command does while `provisioner serve` does too.

The service knows what runs through it; a command beside it would not, and would put a node to sleep under somebody's
request. Where no service runs, or it serves another fleet file, the fleet itself acts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from provisioner.adapters.web.private_socket import PrivateService, ServiceGone
from provisioner.domain.names import NodeName
from provisioner.errors import EngineError, NotReadyError, ProvisionerError, RefusedError
from provisioner.fleet import Fleet
from provisioner.planning.idle import IdleDecision, IdleVerdict
from provisioner.services.events import Event, OnEvent, Phase, ignore
from provisioner.services.mode_switching import ModeReport
from provisioner.services.proving import Endpoint
from provisioner.services.sleeping import SleepReport
from provisioner.services.waking import WakeReport

# What was told before the answer came is on its way; a watcher that is slower than this is not waited for.
_LAST_WORDS_SECONDS = 2.0


class Power(Protocol):
    """What `Fleet` and `RemoteFleet` both do."""

    def wake_report(
        self, node: str | None = None, *, model: str | None = None, on_event: OnEvent = ignore
    ) -> WakeReport:
        """Return when a node's model has answered."""
        ...

    def sleep(self, node: str, *, force: bool = False, on_event: OnEvent = ignore) -> SleepReport:
        """Shut a node down cleanly."""
        ...

    def mode(self, node: str, mode: str, *, force: bool = False, on_event: OnEvent = ignore) -> ModeReport:
        """Switch what a node's GPUs are for."""
        ...

    def idle(self, *, dry_run: bool = False, on_event: OnEvent = ignore) -> tuple[IdleDecision, ...]:
        """Make one idle pass."""
        ...


def power_over(fleet: Fleet) -> Power:
    """Return who acts on a fleet: the service that runs for it in the same state folder, else the fleet itself.

    Raises:
        NotReadyError: a service is there and does not answer, or is ending. Acting beside it would cut off what runs
            through it.
    """
    found = service_of(fleet)
    return RemoteFleet(fleet, *found) if found is not None else fleet


def service_of(fleet: Fleet) -> tuple[PrivateService, str] | None:
    """Return the service that runs for a fleet, and the number of its process; None where there is none.

    Raises:
        NotReadyError: a service is there and does not answer, or is ending.
    """
    folder = fleet.settings.state_folder
    service = PrivateService(folder)
    if not service.exists():
        return None
    try:
        about = service.ask("GET", "/api/service")
    except ServiceGone as gone:
        if gone.was_there:
            raise _not_ready(folder, f"it is there and does not answer ({gone})") from gone
        if service.has_process():
            # It lets no new connection in while what runs through it comes to its end.
            raise _not_ready(folder, "it is just beginning or ending") from gone
        # It was killed, and its socket is left.
        return None
    if about.status != HTTPStatus.OK:
        raise _not_ready(folder, f"it answers {about.status} when it is asked what it is")
    if about.value.get("fleet_file") != str(fleet.spec.path.resolve()):
        return None
    if about.value.get("draining"):
        raise _not_ready(folder, "it is ending")
    return service, str(about.value.get("pid"))


def require_no_service(fleet: Fleet, what: str) -> None:
    """Let what takes a node from under its requests pass only where no service knows of any.

    Raises:
        RefusedError: a service runs for the fleet.
        NotReadyError: as `service_of`.
    """
    found = service_of(fleet)
    if found is not None:
        raise RefusedError(
            f"cannot {what} beside the control service (process {found[1]}): what runs through it would be cut off",
            subject=f"state folder {fleet.settings.state_folder}",
            next_step="stop the service, which lets its requests end; run the same command again; start it again",
        )


def _not_ready(folder: Path, why: str) -> NotReadyError:
    return NotReadyError(
        f"cannot go through the control service: {why}",
        subject=f"state folder {folder}",
        next_step="run the same command again in a moment; if that does not help, stop the service first",
        retryable=True,
    )


class RemoteFleet:
    """A fleet that a service acts on; raises what the service's own act raised."""

    def __init__(self, fleet: Fleet, service: PrivateService, pid: str) -> None:
        self._fleet = fleet
        self._service = service
        self._subject = f"the control service (process {pid})"

    def wake_report(
        self, node: str | None = None, *, model: str | None = None, on_event: OnEvent = ignore
    ) -> WakeReport:
        """Return when a node's model has answered."""
        # Not the service's route: that names a fallback too, does not try at once what has just failed, and would have
        # woken the node before it is asked whether that was needed.
        name = self._fleet.node_to_wake(node, model).name
        found = self._ask("POST", f"/api/nodes/{quote(name)}/wake", {}, on_event, node=name)
        return WakeReport(
            endpoint=_endpoint(found["endpoint"]),
            started=found["started"],
            seconds=found["seconds"],
            added_seconds=found["added_seconds"],
            calls=found["api_calls"],
            reason=found["reason"],
        )

    def sleep(self, node: str, *, force: bool = False, on_event: OnEvent = ignore) -> SleepReport:
        """Shut a node down cleanly."""
        name = self._fleet.spec.node(node).name
        found = self._ask("POST", f"/api/nodes/{quote(name)}/sleep", {"force": force}, on_event, node=name)
        return SleepReport(
            found["node"],
            found["was_running"],
            found["seconds"],
            found.get("rested") or "",
            tuple(found.get("stay_on", ())),
        )

    def mode(self, node: str, mode: str, *, force: bool = False, on_event: OnEvent = ignore) -> ModeReport:
        """Switch what a node's GPUs are for."""
        name = self._fleet.spec.node(node).name
        body = {"mode": mode, "force": force}
        found = self._ask("POST", f"/api/nodes/{quote(name)}/mode", body, on_event, node=name)
        endpoint = found["endpoint"]
        return ModeReport(**(found | {"endpoint": _endpoint(endpoint) if endpoint else None}))

    def idle(self, *, dry_run: bool = False, on_event: OnEvent = ignore) -> tuple[IdleDecision, ...]:
        """Make one idle pass."""
        found = self._ask("POST", "/api/idle", {"dry_run": dry_run}, on_event)
        return tuple(
            IdleDecision(self._fleet.spec.node(each["node"]), IdleVerdict(each["verdict"]), each["reason"])
            for each in found["decisions"]
        )

    def _ask(
        self, method: str, path: str, body: object, on_event: OnEvent, *, node: NodeName | None = None
    ) -> dict[str, Any]:
        try:
            first = self._last_event()
            watcher = _Watcher(self._service, first, node, on_event)
            watcher.start()
            answer = self._service.ask(method, path, body, seconds=None)
            watcher.finish(self._last_event())
        except ServiceGone as gone:
            raise NotReadyError(
                f"cannot say how it ended: the service went away before it had answered ({gone})",
                subject=self._subject,
                next_step="run the same command again; it finds what was done",
                retryable=True,
            ) from gone
        if answer.status >= 400:
            raise _error(answer.value, self._subject)
        return answer.value

    def _last_event(self) -> int:
        found = self._service.ask("GET", "/api/service").value.get("last_event", 0)
        return found if isinstance(found, int) else 0


class _Watcher(threading.Thread):
    """Hands on what the service tells of steps."""

    def __init__(self, service: PrivateService, after: int, node: NodeName | None, on_event: OnEvent) -> None:
        super().__init__(name="watch", daemon=True)
        self._service = service
        self._after = after
        self._node = node
        self._on_event = on_event
        self._heard = after
        self._last: int | None = None
        self._news = threading.Condition()

    def run(self) -> None:
        """Hear until there is no more."""
        try:
            for event in self._events():
                if event["kind"] == "step" and self._node in (None, event["node"]):
                    facts = event["facts"]
                    self._on_event(
                        Event(
                            NodeName(event["node"]),
                            facts["step"],
                            Phase(event["phase"]),
                            event["detail"],
                            facts["changed"],
                            facts["seconds"],
                        )
                    )
                with self._news:
                    self._heard = event["number"]
                    self._news.notify_all()
                    if self._last is not None and self._heard >= self._last:
                        return
        except ServiceGone:
            # The answer itself says so too.
            return

    def finish(self, last: int) -> None:
        """Wait until what was told up to a number has been handed on."""
        with self._news:
            self._last = last
            self._news.wait_for(lambda: self._heard >= last, _LAST_WORDS_SECONDS)

    def _events(self) -> Iterator[dict[str, Any]]:
        return self._service.events(self._after, None)


def _endpoint(found: dict[str, Any]) -> Endpoint:
    return Endpoint(found["node"], found["url"], found["api"], found["model"], bool(found.get("needs_key")))


def _error(document: dict[str, object], subject: str) -> ProvisionerError:
    kind = str(document.get("type", "")).rpartition(":")[2]
    error = _known_errors().get(kind, ProvisionerError)(
        str(document.get("detail", "cannot do it: the service says no more")),
        subject=str(document.get("subject", subject)),
        next_step=str(document.get("next_step", "see the service's own log")),
        retryable=bool(document.get("retryable", False)),
    )
    if isinstance(error, EngineError) and document.get("diagnosis"):
        error.diagnosis = str(document["diagnosis"])
    return error


def _known_errors(base: type[ProvisionerError] = ProvisionerError) -> dict[str, type[ProvisionerError]]:
    found = {base.kind(): base}
    for each in base.__subclasses__():
        # Those of other files may be made another way.
        if each.__module__ == ProvisionerError.__module__:
            found |= _known_errors(each)
    return found
