"""Who may ask the control service for what: scopes, tokens as they are known to us, and the caller they stand for.

Pure and shared by the API and the gateway. A secret is kept as its digest, so no table of ours can show one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Scope(Enum):
    """What a token may do; `admin` may everything."""

    READ = "read"
    """See the fleet and what happens in it."""
    ROUTE = "route"
    """Ask for a model, by the gateway or for an endpoint; what sleeps is woken for it."""
    WAKE = "wake"
    """Wake, hold and put to sleep nodes by their names."""
    ADMIN = "admin"
    """Change what nodes are for, force, make idle passes."""


EVERYTHING = frozenset(Scope)
# A pass ends within days: its time has ten digits until the year 2286.
_LONGEST_TIME = 12


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by the name of the token; `may` is what the fleet file allows it."""

    name: str
    may: frozenset[Scope]

    def is_allowed(self, scope: Scope) -> bool:
        """Say whether this caller may ask for something."""
        return scope in self.may or Scope.ADMIN in self.may


CALLER = "provisioner.caller"
"""The key by which our own door says of a request who sends it: a browser that has shown its token before."""

LOCAL = Caller("local", EVERYTHING)
"""Whoever reaches us on this machine where the fleet file names no token, or through our private socket."""


def digest(secret: str) -> bytes:
    """Return what is kept of a secret. Not salted: tokens are long and random, and each request is checked."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


class Callers:
    """The tokens that are known. Without any, everybody is `LOCAL`."""

    def __init__(self, tokens: Iterable[tuple[Caller, str]] = ()) -> None:
        self._known = tuple((caller, digest(secret)) for caller, secret in tokens)

    @property
    def are_open(self) -> bool:
        """No token is needed."""
        return not self._known

    def who(self, authorization: str | None) -> Caller | None:
        """Return who sends a header ``Authorization: Bearer TOKEN``; None when it is missing or nobody's.

        Every known token is compared, each in constant time, so neither the time nor the answer tells how close a
        guess was or whose token it resembles.
        """
        if self.are_open:
            return LOCAL
        scheme, _, presented = (authorization or "").partition(" ")
        given = digest(presented.strip())
        found: Caller | None = None
        for caller, known in self._known:
            if hmac.compare_digest(given, known):
                found = caller
        return found if scheme.lower() == "bearer" and presented.strip() else None

    def pass_for(self, presented: str, until: int) -> str | None:
        """Return what a browser may show in place of a token until a time (UNIX seconds); None for nobody's token.

        It is signed with the token's digest, so it needs no memory of ours, ends with the token, and holds no secret.
        """
        given = digest(presented.strip())
        found: str | None = None
        for _, known in self._known:
            if hmac.compare_digest(given, known):
                found = f"{until}.{_signature(known, until)}"
        return found

    def who_shows(self, shown: str, now: float) -> Caller | None:
        """Return who shows such a pass; None when it is nobody's, or over."""
        until, _, signature = shown.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= _LONGEST_TIME and signature.isascii()):
            return None
        found: Caller | None = None
        for caller, known in self._known:
            if hmac.compare_digest(signature, _signature(known, int(until))):
                found = caller
        return found if int(until) > now else None


def _signature(key: bytes, until: int) -> str:
    return hmac.new(key, f"provisioner browser pass {until}".encode(), hashlib.sha256).hexdigest()
