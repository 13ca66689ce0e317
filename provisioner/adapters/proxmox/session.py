"""One cluster's API over proxmoxer: trust, connection reuse, call counting, and errors in our words.

No proxmoxer or requests exception leaves this module. Proxmox says everything
that matters in the reason phrase; most refusals are plain 500s, so they are
told apart by their text, matched exactly.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from proxmoxer import ProxmoxAPI
from proxmoxer.backends.https import ProxmoxHTTPAuthBase
from proxmoxer.core import ResourceException
from requests.adapters import HTTPAdapter
from requests.cookies import cookiejar_from_dict

from provisioner.adapters.proxmox.advice import next_step_for
from provisioner.adapters.secrets import SecretText
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import HypervisorError, PermissionMissingError, UntrustedError, VmidTakenError

# The proxy in front of Proxmox gives up after 30 s; with queueing in front of it, twice that is an answer.
_TIMEOUT_SECONDS = 60
_ALREADY_EXISTS = re.compile(r"unable to create VM \d+( - VM \d+ already exists|: config file already exists)")
_NO_CONFIG = re.compile(r"Configuration file 'nodes/[^']+/qemu-server/\d+\.conf' does not exist")
_FINGERPRINTS = re.compile(r'Fingerprints did not match\. Expected "(\w+)", got "?(?:b\')?(\w+)')

# At INFO proxmoxer logs request bodies, keys and passwords included.
logging.getLogger("proxmoxer").setLevel(logging.WARNING)


class VmMissing(HypervisorError):
    """Proxmox has no such VM on the node asked: it is gone, or on another server."""


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """An API token, ``USER@REALM!TOKENID``."""

    token_id: str
    secret: SecretText

    @property
    def words(self) -> str:
        """Who this is, in the words of messages."""
        return f"token {self.token_id}"


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A person's login, ``USER@REALM``: for what no token may do, such as acting as ``root@pam``."""

    user: str
    password: SecretText
    otp: str | None = None

    @property
    def words(self) -> str:
        """Who this is, in the words of messages."""
        return f"user {self.user}"


class ProxmoxSession:
    """Sends requests to one cluster. Safe to share between threads: each gets a connection of its own."""

    def __init__(self, cluster: ClusterAddress, login: TokenLogin | PasswordLogin) -> None:
        self._cluster = cluster
        self._login = login
        self._local = threading.local()

    @property
    def calls(self) -> int:
        """Requests that the current thread has sent: work on one node is one thread's, and is counted by itself."""
        return getattr(self._local, "calls", 0)

    @property
    def subject(self) -> str:
        """The cluster, in the words of messages."""
        return f"cluster {self._cluster.name} ({self._cluster.api_url})"

    def call(self, method: str, path: str, **parameters: Any) -> Any:
        """Send one request and return its ``data``.

        Args:
            method: GET, POST, PUT or DELETE.
            path: below ``/api2/json``, such as ``nodes/pve1/qemu``.
            parameters: underscores in names become hyphens; None is left out; booleans become 1 and 0.

        Raises:
            VmMissing: the VM in the path does not exist there.
            HypervisorError: with a branch for what the caller can act on.
        """
        self._local.calls = self.calls + 1
        wire = {
            name.replace("_", "-"): int(value) if isinstance(value, bool) else value
            for name, value in parameters.items()
        }
        try:
            resource = self._api()(path)
            send = {"GET": resource.get, "POST": resource.post, "PUT": resource.put, "DELETE": resource.delete}[method]
            answer = send(**wire)
        except ResourceException as error:
            raise self._translated(error, f"{method} {path}") from error
        except requests.exceptions.SSLError as error:
            raise self._untrusted(error) from error
        except requests.exceptions.RequestException as error:
            raise HypervisorError(
                f"cannot reach Proxmox: {_root_cause(error)}",
                subject=self.subject,
                next_step="check that the server is up and that clusters."
                f"{self._cluster.name}.api is its address; the act may have happened, so run the same command again",
                retryable=True,
            ) from error
        if isinstance(answer, dict) and set(answer) == {"errors"}:
            # proxmoxer hands through a 200 that is no JSON: something else listens there.
            raise HypervisorError(
                "cannot understand the answer: it is not Proxmox's JSON",
                subject=self.subject,
                next_step=f"check clusters.{self._cluster.name}.api: another service answers there",
            )
        return answer

    def _api(self) -> Any:
        api = getattr(self._local, "api", None)
        if api is None:
            api = self._local.api = self._connected()
        return api

    def _connected(self) -> Any:
        trust = self._cluster.tls
        login = self._login
        if isinstance(login, TokenLogin):
            user, _, token = login.token_id.partition("!")
            secret = login.secret.reveal()
        else:
            user, token, secret = login.user, "none", "none"
        address = urlsplit(self._cluster.api_url)
        host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
        api = ProxmoxAPI(
            host,
            port=address.port or 443,
            user=user,
            token_name=token,
            token_value=secret,
            # With a pinned fingerprint the chain says nothing more: Proxmox signs its certificates itself.
            verify_ssl=trust.fingerprint is None and (str(trust.ca_file) if trust.ca_file else True),
            timeout=_TIMEOUT_SECONDS,
        )
        session = api._store["session"]
        # The server is on the local network: a proxy meant for the internet has no way there.
        session.trust_env = False
        if trust.fingerprint is not None:
            # proxmoxer offers no pinning; the session under it does.
            session.mount("https://", _PinnedAdapter(trust.fingerprint))
        if isinstance(login, PasswordLogin):
            # proxmoxer would send the password over a connection of its own, without the pinned certificate.
            session.auth = self._ticket(session, api._store["base_url"], login)
        return api

    def _ticket(self, session: Any, base_url: str, login: PasswordLogin) -> _TicketAuth:
        verify_ssl = session.auth.verify_ssl
        session.auth = _TicketAuth(verify_ssl)
        answer = self._asked_for_ticket(session, base_url, username=login.user, password=login.password.reveal())
        if answer.get("NeedTFA"):
            if login.otp is None:
                raise HypervisorError(
                    "cannot log in: this user has a second factor",
                    subject=f"{login.words} on {self.subject}",
                    next_step="give the six digits of the authenticator app with --otp, or use an API token",
                )
            answer = self._asked_for_ticket(
                session,
                base_url,
                username=login.user,
                password=f"totp:{login.otp}",
                **{"tfa-challenge": answer["ticket"]},
            )
        return _TicketAuth(verify_ssl, str(answer["ticket"]), str(answer["CSRFPreventionToken"]))

    def _asked_for_ticket(self, session: Any, base_url: str, **form: str) -> dict[str, Any]:
        response = session.request("POST", f"{base_url}/access/ticket", data=form, timeout=_TIMEOUT_SECONDS)
        if response.status_code != 200:
            raise HypervisorError(
                f"cannot log in: Proxmox does not accept {self._login.words} "
                f"({response.reason or response.status_code})",
                subject=self.subject,
                next_step="check the user, its realm (root@pam, NAME@pve) and the password",
            )
        return dict(response.json()["data"])

    def _translated(self, error: ResourceException, call: str) -> Exception:
        text = str(error.content or "").strip()
        if isinstance(error.errors, dict) and error.status_code == 400:
            details = "; ".join(f"{name}: {str(reason).strip()}" for name, reason in error.errors.items())
            text = f"{text} {details}".strip()
        if _NO_CONFIG.match(text):
            return VmMissing(
                f"cannot {call}: {text}",
                subject=self.subject,
                next_step="the VM is gone or has moved to another server; run the same command again, it looks first",
                retryable=True,
            )
        if _ALREADY_EXISTS.match(text):
            return VmidTakenError(
                f"cannot create the VM: {text}",
                subject=self.subject,
                next_step="give the node another vmid in the fleet file",
            )
        if error.status_code == 401:
            return HypervisorError(
                f"cannot log in: Proxmox does not accept {self._login.words} ({text or '401'})",
                subject=self.subject,
                next_step=f"check id and secret at clusters.{self._cluster.name}.token; a rotated token has a new one",
            )
        if error.status_code == 403:
            return PermissionMissingError(
                f"cannot {call}: {text}",
                subject=f"{self._login.words} on {self.subject}",
                next_step="give the token, and its user, that privilege on that path (Datacenter > Permissions)",
            )
        if error.status_code in (595, 596, 599):
            return HypervisorError(
                f"cannot {call}: the server behind the API did not answer ({error.status_code} {text})",
                subject=self.subject,
                next_step="it may have happened all the same; run the same command again, it looks first",
                retryable=True,
            )
        return HypervisorError(f"cannot {call}: {text}", subject=self.subject, next_step=next_step_for(text))

    def _untrusted(self, error: requests.exceptions.SSLError) -> UntrustedError:
        place = f"clusters.{self._cluster.name}.tls.fingerprint"
        match = _FINGERPRINTS.search(str(error))
        if match is None:
            return UntrustedError(
                f"cannot trust the server's certificate: {_root_cause(error)}",
                subject=self.subject,
                next_step=f"pin it: put the fingerprint that `pvenode cert info` shows on the server at {place}",
            )
        expected, got = (_colons(each) for each in match.groups())
        return UntrustedError(
            f"cannot trust the server: its certificate is {got}, the fleet file pins {expected}",
            subject=self.subject,
            next_step=f"if it was renewed, compare with `pvenode cert info` on the server, then mend {place}",
        )


class _TicketAuth(ProxmoxHTTPAuthBase):  # type: ignore[misc]
    """Sends a login's ticket, good for two hours, longer than anything that a person logs in for here."""

    def __init__(self, verify_ssl: bool | str, ticket: str | None = None, csrf: str | None = None) -> None:
        super().__init__(timeout=_TIMEOUT_SECONDS, verify_ssl=verify_ssl)
        self._ticket = ticket
        self._csrf = csrf

    def get_cookies(self) -> Any:
        return cookiejar_from_dict({"PVEAuthCookie": self._ticket} if self._ticket else {})  # type: ignore[no-untyped-call]

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if request.method != "GET" and self._csrf:
            request.headers["CSRFPreventionToken"] = self._csrf
        return request


class _PinnedAdapter(HTTPAdapter):
    """Accepts one certificate: the one with this SHA-256 fingerprint."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *args: Any, **keywords: Any) -> None:
        super().init_poolmanager(*args, assert_fingerprint=self._fingerprint, **keywords)

    def proxy_manager_for(self, *args: Any, **keywords: Any) -> Any:
        return super().proxy_manager_for(*args, assert_fingerprint=self._fingerprint, **keywords)


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


def _root_cause(error: BaseException) -> str:
    """Return the innermost sentence of a wrapped network error."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None) or next((a for a in seen.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    text = str(seen) or type(seen).__name__
    return text.split(": ", 1)[1] if text.startswith("<") and ": " in text else text
