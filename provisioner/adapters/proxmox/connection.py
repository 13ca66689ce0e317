"""Opens a connection to one cluster's API: who we are, how its certificate is trusted, the ticket of a person.

proxmoxer's own login would send a password over a connection without the
pinned certificate, and it knows no pinning; the session under it does both.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from proxmoxer import ProxmoxAPI
from proxmoxer.backends.https import ProxmoxHTTPAuthBase
from requests.adapters import HTTPAdapter
from requests.cookies import cookiejar_from_dict
from urllib3.util.ssl_ import create_urllib3_context

from provisioner.adapters.proxmox.answers import NO_ANSWER, Words, no_answer, not_ours
from provisioner.adapters.secrets import SecretText
from provisioner.domain.fleet import ClusterAddress
from provisioner.errors import HypervisorError, LoginRefusedError

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


def connected(cluster: ClusterAddress, login: TokenLogin | PasswordLogin) -> Any:
    """Return a proxmoxer API over a session of its own; a token's is opened by its first request.

    Raises:
        LoginRefusedError: the password is not accepted.
        requests.exceptions.RequestException: nobody answered the login.
    """
    trust = cluster.tls
    if isinstance(login, TokenLogin):
        user, _, token = login.token_id.partition("!")
        secret = login.secret.reveal()
    else:
        user, token, secret = login.user, "none", "none"
    address = urlsplit(cluster.api_url)
    host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
    api = ProxmoxAPI(
        host,
        port=address.port or 443,
        user=user,
        token_name=token,
        token_value=secret,
        # With a pinned fingerprint the chain says nothing more: Proxmox signs its certificates itself.
        verify_ssl=trust.fingerprint is None and (str(trust.ca_file) if trust.ca_file else True),
        timeout=cluster.answer_seconds,
    )
    session = api._store["session"]
    # The server is on the local network: a proxy meant for the internet has no way there.
    session.trust_env = False
    if trust.fingerprint is not None:
        session.mount("https://", _PinnedAdapter(trust.fingerprint))
    if isinstance(login, PasswordLogin):
        session.auth = _ticket(cluster, session, api._store["base_url"], login)
    return api


def _ticket(cluster: ClusterAddress, session: Any, base_url: str, login: PasswordLogin) -> _TicketAuth:
    verify_ssl = session.auth.verify_ssl
    session.auth = _TicketAuth(cluster.answer_seconds, verify_ssl)
    words = Words(cluster, login.words, "log in")

    def ask(password: str, **more: str) -> dict[str, Any]:
        form = {"username": login.user, "password": password, **more}
        response = session.request("POST", f"{base_url}/access/ticket", data=form, timeout=cluster.answer_seconds)
        if response.status_code in NO_ANSWER:
            raise no_answer(f"{response.status_code} {response.reason}", words)
        if response.status_code != 200:
            raise LoginRefusedError(
                f"cannot log in: Proxmox does not accept {login.words} ({response.reason or response.status_code})",
                subject=words.subject,
                next_step="check the user, its realm (root@pam, NAME@pve) and the password",
            )
        try:
            return dict(response.json()["data"])
        except (ValueError, LookupError, TypeError) as error:
            raise not_ours(words) from error

    answer = ask(login.password.reveal())
    if answer.get("NeedTFA"):
        if login.otp is None:
            raise HypervisorError(
                "cannot log in: this user has a second factor",
                subject=f"{login.words} on {words.subject}",
                next_step="give the six digits of the authenticator app with --otp, or use an API token",
            )
        answer = ask(f"totp:{login.otp}", **{"tfa-challenge": str(answer["ticket"])})
    return _TicketAuth(cluster.answer_seconds, verify_ssl, str(answer["ticket"]), str(answer["CSRFPreventionToken"]))


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
