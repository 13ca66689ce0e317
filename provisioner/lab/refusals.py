"""How the lab says no: a status, one line of text, and errors by parameter.

Proxmox puts the text in the reason phrase of the status line and repeats it in
the body; clients branch on both, so every refusal in the lab is one of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

VERIFICATION_FAILED = "Parameter verification failed."


class Refusal(Exception):
    """An answer with a status of 400 or more."""

    def __init__(self, status: int, message: str, errors: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = dict(errors) if errors else None


def bad_parameters(errors: Mapping[str, str]) -> Refusal:
    """Return the refusal for parameters that break the schema or a rule about one of them."""
    return Refusal(400, VERIFICATION_FAILED, errors)


def denied(what: str | None = None) -> Refusal:
    """Return the refusal for missing rights; `what` is what stands in the brackets."""
    return Refusal(403, f"Permission check failed ({what})" if what else "Permission check failed")


def denied_privilege(path: str, privileges: Iterable[str]) -> Refusal:
    """Return the refusal that names the path and the privileges of which one is needed."""
    return denied(f"{path}, {'|'.join(privileges)}")


def failed(message: str) -> Refusal:
    """Return the refusal of a handler: Proxmox answers 500 to everything it merely does not want."""
    return Refusal(500, message)


def not_implemented(method: str, path: str) -> Refusal:
    """Return the refusal for a path or method nobody serves."""
    return Refusal(501, f"Method '{method} {path}' not implemented")
