"""Lets a browser in that has shown its token once: a cookie stands for the token from then on, in all of the service.

A cookie comes along by itself, whoever wrote the page that asks, so it counts only for what our own pages ask:
`SameSite=Strict` keeps other sites out, and since other ports of one machine are the same site to a browser, what
changes something must name our own origin besides. What a page asks of the gateway by GET wakes nodes: there it counts
for POST alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from provisioner.domain.callers import CALLER, Caller, Callers

COOKIE, SAFE_COOKIE = "provisioner", "__Host-provisioner"
"""Where we speak TLS ourselves the cookie has the name that browsers give only to who speaks TLS."""
PASS_SECONDS = 7 * 86400
_LOOKED_AT = (b"authorization", b"x-api-key", b"cookie", b"host", b"origin", b"sec-fetch-site")
_LONGEST_COOKIES = 8192
_SAFE_METHODS = ("GET", "HEAD")
_OF_OUR_OWN = ("same-origin", "none")


class BrowserDoor:
    """Notes in a request's scope, under `CALLER`, which browser's it is; everything else is as it was."""

    def __init__(
        self, app: Any, callers: Callers, now: Callable[[], float], *, is_gateway: Callable[[str], bool]
    ) -> None:
        """Stand before an application.

        Args:
            app: the whole service.
            callers: the tokens.
            now: UNIX seconds.
            is_gateway: says of a path that asking there wakes nodes.
        """
        self._app = app
        self._callers = callers
        self._now = now
        self._is_gateway = is_gateway

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not self._callers.are_open:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _LOOKED_AT}
            # Who shows a token is who the token says.
            if b"cookie" in headers and not {b"authorization", b"x-api-key"} & headers.keys():
                caller = self._caller(headers, scope["method"], scope["path"])
                if caller is not None:
                    scope[CALLER] = caller
        await self._app(scope, receive, send)

    def _caller(self, headers: Mapping[bytes, str], method: str, path: str) -> Caller | None:
        shown = _cookie(headers[b"cookie"])
        if not shown or not is_ours(headers, method) or (self._is_gateway(path) and method in _SAFE_METHODS):
            return None
        return self._callers.who_shows(shown, self._now())


def is_ours(headers: Mapping[bytes, str], method: str) -> bool:
    """Say whether a request comes from a page of ours, as far as its browser tells."""
    if headers.get(b"sec-fetch-site", "none") not in _OF_OUR_OWN:
        return False
    if method in _SAFE_METHODS:
        # Somebody else's page cannot read the answer.
        return True
    try:
        origin = urlsplit(headers.get(b"origin", "")).netloc.lower()
    except ValueError:
        return False
    return bool(origin) and origin == headers.get(b"host", "").lower()


def _cookie(header: str) -> str:
    # By hand: other programs on this machine share the jar, and what they keep in it need not be well-formed.
    found = dict(part.strip().partition("=")[::2] for part in header[:_LONGEST_COOKIES].split(";"))
    return found.get(SAFE_COOKIE) or found.get(COOKIE) or ""
