"""Where no token is needed, a page in somebody's browser must not get in: only our own address may be asked for.

A foreign page reaches loopback in two ways: under a name of its own that it has pointed here (then `Host` is that
name), or straight: then `Origin` is its own, or, where it only has a picture fetched, `Sec-Fetch-Site` says that it is
another's. Browsers send that to loopback always, and nobody else does.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from provisioner.api.problems import MEDIA_TYPE, problem
from provisioner.domain.service import ListenAddress


class HostGuard:
    """Answers requests for other hosts, or from other origins, with 403."""

    def __init__(self, app: Any, address: ListenAddress) -> None:
        self._app = app
        ip = f"[{address.ip}]" if address.ip.version == 6 else str(address.ip)
        self._ours = {"localhost", ip, "127.0.0.1", "[::1]"}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ()) if name in _LOOKED_AT}
        if scope["type"] == "http" and not self._is_ours(headers, scope["path"]):
            words = "this service needs no token, so it answers only under its own address, and no foreign page"
            document = json.dumps(problem(HTTPStatus.FORBIDDEN, "foreign-host", words).document).encode()
            heads = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(document)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": heads})
            await send({"type": "http.response.body", "body": document})
            return
        await self._app(scope, receive, send)

    def _is_ours(self, headers: dict[bytes, str], path: str) -> bool:
        if _name(headers.get(b"host", "")) not in self._ours:
            return False
        origin = headers.get(b"origin")
        if origin is None:
            # A GET of the gateway's wakes nodes; all others only show what a foreign page cannot read.
            return not (headers.get(b"sec-fetch-site") == "cross-site" and path.startswith(_WAKING))
        try:
            return _name(urlsplit(origin).netloc) in self._ours
        except ValueError:
            return False


_WAKING = ("/v1/", "/ollama/")
_LOOKED_AT = (b"host", b"origin", b"sec-fetch-site")


def _name(host: str) -> str:
    """Return a host without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()
