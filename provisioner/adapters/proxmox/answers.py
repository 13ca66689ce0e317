"""Proxmox's refusals and the network's failures, in our words. The one place where they are told apart.

Proxmox says everything that matters in the reason phrase; most refusals are
plain 500s, so they are known by their text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import requests
from proxmoxer.core import ResourceException

from provisioner.adapters.proxmox.advice import verdict_on
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import (
    HypervisorError,
    LoginRefusedError,
    PermissionMissingError,
    ProvisionerError,
    UnreachableError,
    UntrustedError,
    VmidTakenError,
    VmMissingError,
)

_ALREADY_EXISTS = re.compile(
    r"unable to create (?:VM|CT) \d+( - (?:VM|CT) \d+ already exists|: config file already exists)"
)
_NO_CONFIG = re.compile(
    r"Configuration file 'nodes/[^']+/qemu-server/\d+\.conf' does not exist"
    r"|unable to find configuration file for VM \d+ on node"
)
_NO_TASK = re.compile(r".*upid: no such task")
_FINGERPRINTS = re.compile(r'Fingerprints did not match\. Expected "(\w+)", got "?(?:b\')?(\w+)')
_OBJECT = re.compile(r"^(?:<[^>]*>|\w+\([^)]*\)): ")
_SERVER = re.compile(r"/?nodes/([^/]+)/")

# Statuses that stand for "somebody behind the first server did not answer": the first three are pveproxy's
# own (no connection, broken off or out of time, anything else), the others a web proxy's in front of it.
NO_ANSWER = frozenset((595, 596, 597, 598, 599, 502, 503, 504))


class TaskMissing(HypervisorError):
    """Proxmox no longer knows the task: its log was rotated, or its server installed anew."""


@dataclass(frozen=True, slots=True)
class Words:
    """Who asked whom for what, as messages say it."""

    cluster: ClusterAddress
    login: str
    what: str
    path: str = ""

    @property
    def subject(self) -> str:
        """The cluster."""
        return f"cluster {self.cluster.name} ({self.cluster.api_url})"


def refusal(error: ResourceException, words: Words) -> ProvisionerError:
    """Return our error for an answer with a status of 400 or more."""
    text = str(error.content or "").strip()
    if isinstance(error.errors, dict) and error.status_code == 400:
        details = "; ".join(f"{name}: {str(reason).strip()}" for name, reason in error.errors.items())
        text = f"{text} {details}".strip()
    if error.status_code in NO_ANSWER:
        return no_answer(f"{error.status_code} {text}", words)
    if error.status_code == 401:
        return LoginRefusedError(
            f"cannot log in: Proxmox does not accept {words.login} ({text or '401'})",
            subject=words.subject,
            next_step=f"check id and secret at clusters.{words.cluster.name}.token; a rotated token has a new one",
        )
    if error.status_code == 403:
        return PermissionMissingError(
            f"cannot {words.what}: {text}",
            subject=f"{words.login} on {words.subject}",
            next_step="give the token, and its user, that privilege on that path (Datacenter > Permissions)",
        )
    if _NO_CONFIG.match(text):
        return VmMissingError(
            f"cannot {words.what}: {text}",
            subject=words.subject,
            next_step="the VM is gone or has moved to another server; run the same command again, it looks first",
            retryable=True,
        )
    if _NO_TASK.match(text):
        return TaskMissing(
            f"cannot {words.what}: Proxmox no longer knows the task",
            subject=words.subject,
            next_step="run the same command again, it looks first",
            retryable=True,
        )
    if _ALREADY_EXISTS.match(text):
        return VmidTakenError(
            f"cannot create the VM: {text}",
            subject=words.subject,
            next_step="give the node another vmid in the fleet file",
        )
    return verdict_on(text).error(f"cannot {words.what}: {text or error.status_code}", words.subject)


def not_ours(words: Words) -> UnreachableError:
    """Return our error for an answer that is not Proxmox's JSON. What it was meant for may have happened."""
    return UnreachableError(
        f"cannot {words.what}: cannot understand the answer, it is not Proxmox's JSON",
        subject=words.subject,
        next_step=f"check clusters.{words.cluster.name}.api: another service, or a proxy in between, answers there",
        retryable=True,
    )


def failure(error: requests.exceptions.RequestException, words: Words) -> ProvisionerError:
    """Return our error for a request that got no answer at all."""
    # A server that hangs up in the middle of TLS is away, not untrusted.
    if isinstance(error, requests.exceptions.SSLError) and "EOF occurred" not in str(error):
        return _untrusted(error, words)
    place = f"clusters.{words.cluster.name}"
    if isinstance(error, requests.exceptions.Timeout) and not isinstance(error, requests.exceptions.ConnectTimeout):
        return UnreachableError(
            f"cannot {words.what}: Proxmox took longer than {words.cluster.answer_seconds:g} s to answer",
            subject=words.subject,
            next_step="see how busy the server is; the act may have happened, so run the same command again, it looks "
            f"first ({place}.answer_within sets how long we wait)",
            retryable=True,
        )
    reason = root_cause(error)
    # Without a connection nothing was asked for, and asking again is safe.
    no_connection = isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in repr(error)
    doubt = "" if no_connection else "; the act may have happened, so run the same command again, it looks first"
    silence = UnreachableError(
        f"cannot reach Proxmox: {reason}",
        subject=words.subject,
        next_step=f"check that the server is up and that {place}.api is its address{doubt}",
        retryable=True,
    )
    silence.may_have_happened = not no_connection
    return silence


def no_answer(text: str, words: Words) -> UnreachableError:
    """Return our error for a server that says that the one behind it did not answer."""
    server = _SERVER.match(words.path)
    who = f"hypervisor {server[1]}" if server else "the server behind the API"
    return UnreachableError(
        f"cannot {words.what}: {who} did not answer ({text})",
        subject=words.subject,
        next_step=f"see whether {who} is up; it may have happened all the same, so run the same command again, "
        "it looks first",
        retryable=True,
    )


def _untrusted(error: requests.exceptions.SSLError, words: Words) -> ProvisionerError:
    place = f"clusters.{words.cluster.name}.tls.fingerprint"
    match = _FINGERPRINTS.search(str(error))
    if match is None:
        return UntrustedError(
            f"cannot trust the server's certificate: {root_cause(error)}",
            subject=words.subject,
            next_step=f"pin it: put the fingerprint that `pvenode cert info` shows on the server at {place}",
        )
    expected, got = (_colons(each) for each in match.groups())
    return UntrustedError(
        f"cannot trust the server: its certificate is {got}, the fleet file pins {expected}",
        subject=words.subject,
        next_step=f"if it was renewed, compare with `pvenode cert info` on the server, then mend {place}",
    )


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


def root_cause(error: BaseException) -> str:
    """Return the innermost sentence of a wrapped network error."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None) or next((a for a in seen.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    text = str(seen) or type(seen).__name__
    # Some name their connection object first.
    return _OBJECT.sub("", text)
