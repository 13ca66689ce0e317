"""One cluster's API over proxmoxer: trust, login, connection reuse, call counting, and patience with a silent server.

No proxmoxer or requests exception leaves this module; `answers` turns them into
ours. What may be asked twice without harm is asked again while the patience of
the fleet file lasts; for the rest, `acts` looks whether it happened.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from proxmoxer import ProxmoxAPI
from proxmoxer.backends.https import ProxmoxHTTPAuthBase
from proxmoxer.core import ResourceException
from requests.adapters import HTTPAdapter
from requests.cookies import cookiejar_from_dict
from urllib3.util.ssl_ import create_urllib3_context

from provisioner.adapters.proxmox.answers import TaskMissing, Words, failure, not_ours, refusal
from provisioner.adapters.secrets import SecretText
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import HypervisorError, LoginRefusedError, UnreachableError
from provisioner.ports.clock import Clock
from provisioner.waiting import Pace

__all__ = ["PasswordLogin", "ProxmoxSession", "TaskMissing", "TokenLogin"]

AGAIN = Pace(first=0.05, growth=2.0, longest=2.0)
"""Pauses between two tries of the same request."""

_OK = 200

# At INFO proxmoxer logs request bodies, keys and passwords included.
logging.getLogger("proxmoxer").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """An API token, ``USER@REALM!TOKENID``."""

    token_id: str
    secret: SecretText

    @property
    def words(self) -> str:
        """Who this is, in the words of messages."""
        return f"token {self.token_id}"

    def same_as(self, other: TokenLogin | PasswordLogin) -> bool:
        """Say whether another login would get the same answer."""
        return (
            isinstance(other, TokenLogin)
            and other.token_id == self.token_id
            and other.secret.reveal() == self.secret.reveal()
        )


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

    def same_as(self, other: TokenLogin | PasswordLogin) -> bool:
        """Say whether another login would get the same answer; a second factor is good for one only."""
        return other is self


@dataclass(frozen=True, slots=True)
class _Reader:
    """What a plain GET needs, prepared once for each connection."""

    api: Any
    pool: Any
    base: str
    headers: dict[str, str]


class ProxmoxSession:
    """Sends requests to one cluster. Safe to share between threads: each gets a connection of its own.

    Args:
        cluster: where it is, how it is trusted, how patient we are.
        login: who we are.
        renewed_login: reads the login again, for when Proxmox no longer takes it: a rotated token has a new secret.
        clock: time, for the pauses between two tries.
    """

    def __init__(
        self,
        cluster: ClusterAddress,
        login: TokenLogin | PasswordLogin,
        *,
        renewed_login: Callable[[], TokenLogin | PasswordLogin] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._cluster = cluster
        self._login = login
        self._renewed_login = renewed_login
        self._clock = clock or SystemClock()
        self._local = threading.local()
        self._has_answered = False

    @property
    def calls(self) -> int:
        """Requests that the current thread has sent: work on one node is one thread's, and is counted by itself."""
        return getattr(self._local, "calls", 0)

    @property
    def subject(self) -> str:
        """The cluster, in the words of messages."""
        return self._words("").subject

    @property
    def cluster(self) -> ClusterAddress:
        """The cluster, with our patience for it."""
        return self._cluster

    def call(self, method: str, path: str, /, *, purpose: str | None = None, **parameters: Any) -> Any:
        """Send one request and return its ``data``.

        Reading is tried again while no answer comes, and so is whatever was never sent, once the server has
        answered before: a first contact that fails is a wrong address more often than a server that restarts.

        Args:
            method: GET, POST, PUT or DELETE.
            path: below ``/api2/json``, such as ``nodes/pve1/qemu``.
            purpose: what it is for, such as ``start VM 5001``, for messages; by default the request itself.
            parameters: underscores in names become hyphens; None is left out; booleans become 1 and 0.

        Raises:
            VmMissingError: the VM in the path does not exist there.
            TaskMissing: the task in the path is not known.
            UnreachableError: no answer came; unless the method was GET, it may have happened.
            HypervisorError: with a branch for what the caller can act on.
        """
        words = self._words(purpose or f"{method} {path}", path)
        wire = {
            name.replace("_", "-"): int(value) if isinstance(value, bool) else value
            for name, value in parameters.items()
        }
        deadline = self._clock.monotonic() + self._cluster.retry_seconds
        pause = AGAIN.first
        may_renew = True
        while True:
            try:
                return self._sent(method, path, wire, words)
            except LoginRefusedError:
                if not may_renew or not self._renew_login():
                    raise
                may_renew = False
            except UnreachableError as silence:
                safe = method == "GET" if silence.may_have_happened else self._has_answered
                left = deadline - self._clock.monotonic()
                if not safe or left <= 0:
                    raise
                self._clock.sleep(min(pause, left))
                pause = min(pause * AGAIN.growth, AGAIN.longest)

    def read(self, path: str, *, purpose: str | None = None) -> Any:
        """Return the ``data`` of a GET without parameters, at a third of what `call` costs.

        A thousand nodes are as many of these, and most of what requests and proxmoxer do for one is the same each
        time. Whatever is not answered as it should be is asked again by `call`, which knows what that means.
        """
        try:
            reader = self._reader()
            self._local.calls = self.calls + 1
            answer = reader.pool.urlopen(
                "GET",
                f"{reader.base}/{path}",
                headers=reader.headers,
                timeout=self._cluster.answer_seconds,
                retries=False,
                redirect=False,
                assert_same_host=False,
            )
            if answer.status == _OK:
                data = json.loads(answer.data)["data"]
                if data is not None:
                    self._has_answered = True
                    return data
        except (urllib3.exceptions.HTTPError, requests.exceptions.RequestException, OSError, ValueError, LookupError):
            pass
        return self.call("GET", path, purpose=purpose)

    def _reader(self) -> _Reader:
        api = self._api()
        reader: _Reader | None = getattr(self._local, "reader", None)
        if reader is None or reader.api is not api:
            session, base = api._store["session"], api._store["base_url"]
            # One request prepared by requests: the trust, headers and login of all.
            prepared = session.prepare_request(requests.Request("GET", base, cookies=session.auth.get_cookies()))
            adapter = session.get_adapter(base)
            pool = adapter.get_connection_with_tls_context(prepared, verify=session.auth.verify_ssl)
            reader = self._local.reader = _Reader(api, pool, urlsplit(base).path, dict(prepared.headers))
        return reader

    def _sent(self, method: str, path: str, wire: dict[str, Any], words: Words) -> Any:
        self._local.calls = self.calls + 1
        try:
            resource = self._api()(path)
            send = {"GET": resource.get, "POST": resource.post, "PUT": resource.put, "DELETE": resource.delete}[method]
            answer = send(**wire)
        except ResourceException as error:
            self._has_answered = True
            raise refusal(error, words) from error
        except requests.exceptions.RequestException as error:
            raise failure(error, words) from error
        # proxmoxer hands through a 200 that is no JSON, and makes nothing of a redirection: something else
        # listens there. Whatever we read from Proxmox is there, if only as an empty list.
        if (isinstance(answer, dict) and set(answer) == {"errors"}) or (answer is None and method == "GET"):
            raise not_ours(words)
        self._has_answered = True
        return answer

    def _words(self, what: str, path: str = "") -> Words:
        return Words(self._cluster, self._login.words, what, path)

    def _renew_login(self) -> bool:
        """Make the next try log in anew; return whether there is any hope in that. Raises InputError."""
        used = getattr(self._local, "login", None)
        if used is self._login:
            renewed = self._renewed_login() if self._renewed_login is not None else used
            # A ticket goes stale with its password still good; a second factor cannot be shown twice.
            is_stale = isinstance(used, PasswordLogin) and used.otp is None and self._local.api is not None
            if renewed.same_as(used) and not is_stale:
                return False
            self._login = renewed
        # Else another thread has renewed it, and only this one's connection is of yesterday.
        self._local.api = None
        return True

    def _api(self) -> Any:
        api = getattr(self._local, "api", None)
        if api is None:
            self._local.api, self._local.login = None, self._login
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
            timeout=self._cluster.answer_seconds,
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
        session.auth = _TicketAuth(self._cluster.answer_seconds, verify_ssl)
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
        return _TicketAuth(
            self._cluster.answer_seconds, verify_ssl, str(answer["ticket"]), str(answer["CSRFPreventionToken"])
        )

    def _asked_for_ticket(self, session: Any, base_url: str, **form: str) -> dict[str, Any]:
        response = session.request("POST", f"{base_url}/access/ticket", data=form, timeout=self._cluster.answer_seconds)
        if response.status_code != 200:
            raise LoginRefusedError(
                f"cannot log in: Proxmox does not accept {self._login.words} "
                f"({response.reason or response.status_code})",
                subject=self.subject,
                next_step="check the user, its realm (root@pam, NAME@pve) and the password",
            )
        return dict(response.json()["data"])


class _TicketAuth(ProxmoxHTTPAuthBase):  # type: ignore[misc]
    """Sends a login's ticket, good for two hours, longer than anything that a person logs in for here."""

    def __init__(
        self, timeout: float, verify_ssl: bool | str, ticket: str | None = None, csrf: str | None = None
    ) -> None:
        super().__init__(timeout=timeout, verify_ssl=verify_ssl)
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
        # Left to itself, each connection would load the system's authorities, which cannot vouch for this
        # certificate and take 30 ms.
        self._context = create_urllib3_context(cert_reqs=ssl.CERT_NONE)
        super().__init__()

    def init_poolmanager(self, *args: Any, **keywords: Any) -> None:
        super().init_poolmanager(*args, assert_fingerprint=self._fingerprint, ssl_context=self._context, **keywords)

    def proxy_manager_for(self, *args: Any, **keywords: Any) -> Any:
        return super().proxy_manager_for(
            *args, assert_fingerprint=self._fingerprint, ssl_context=self._context, **keywords
        )
