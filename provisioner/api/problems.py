"""Problem documents (RFC 9457): one table from kinds of errors to HTTP status, in which every answer is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from provisioner.errors import (
    ConfigChangedError,
    EngineError,
    GpuTakenError,
    GuestError,
    InputError,
    NotReadyError,
    OutsideError,
    OvertakenError,
    ProvisionerError,
    QueueFullError,
    RefusedError,
    ShutdownIgnoredError,
    StorageFullError,
    TaskOverdueError,
    UnknownNameError,
    VmidTakenError,
    VmLockedError,
)

PROBLEM = "urn:provisioner:problem:"
MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_SECONDS = 5

# The first row that an error is an instance of counts, so a branch stands before the one it grows from.
_STATUS: tuple[tuple[type[ProvisionerError], HTTPStatus], ...] = (
    (UnknownNameError, HTTPStatus.NOT_FOUND),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (OvertakenError, HTTPStatus.CONFLICT),
    (RefusedError, HTTPStatus.CONFLICT),
    (GpuTakenError, HTTPStatus.CONFLICT),
    (VmLockedError, HTTPStatus.CONFLICT),
    (VmidTakenError, HTTPStatus.CONFLICT),
    (ConfigChangedError, HTTPStatus.CONFLICT),
    (QueueFullError, HTTPStatus.TOO_MANY_REQUESTS),
    (NotReadyError, HTTPStatus.GATEWAY_TIMEOUT),
    (TaskOverdueError, HTTPStatus.GATEWAY_TIMEOUT),
    (ShutdownIgnoredError, HTTPStatus.GATEWAY_TIMEOUT),
    (StorageFullError, HTTPStatus.INSUFFICIENT_STORAGE),
    (GuestError, HTTPStatus.BAD_GATEWAY),
    (EngineError, HTTPStatus.BAD_GATEWAY),
    (OutsideError, HTTPStatus.BAD_GATEWAY),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal as a client gets it."""

    status: HTTPStatus
    document: dict[str, object]
    headers: dict[str, str]


def status_of(error: ProvisionerError) -> HTTPStatus:
    """Return the status that an error is answered with."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem_of(error: ProvisionerError) -> Problem:
    """Return an error as a problem document: what happened, on what, what next."""
    status = status_of(error)
    headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)} if error.retryable else {}
    more = {key: value for key, value in error.as_dict().items() if key not in ("error", "summary")}
    return Problem(status, _document(status, error.kind(), error.summary) | more, headers)


def problem(status: HTTPStatus, kind: str, detail: str, *, headers: dict[str, str] | None = None) -> Problem:
    """Return a problem of HTTP itself: no such path, a body that is none, a token that is missing."""
    return Problem(status, _document(status, kind, detail), headers or {})


def _document(status: HTTPStatus, kind: str, detail: str) -> dict[str, object]:
    return {
        "type": f"{PROBLEM}{kind}",
        "title": kind.replace("-", " "),
        "status": status.value,
        "detail": detail,
    }
