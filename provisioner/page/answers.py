"""Answers of the pages: their headers, and their packing."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

# Everything on a page is ours and stands in files of ours: no script or style within it runs, whatever a name or an
# event may hold, and nobody may frame it. Our own origin is told to nobody else, but to us, who ask for it.
SAFETY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FOR_EVER = "public, max-age=31536000, immutable"
_WORTH_PACKING = 1024
# Packs to a tenth in a millisecond or two; more effort would cost more than it saves on a wire at home.
_EFFORT = 4


def page(text: str, request: Request, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a page, or a piece of one."""
    return packed(text.encode(errors="replace"), "text/html; charset=utf-8", request, status, headers)


def packed(
    body: bytes, media_type: str, request: Request, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return what nobody may keep, by gzip where the browser reads that."""
    more = {**SAFETY, "Cache-Control": "no-store", "Vary": "Accept-Encoding, Cookie", **(headers or {})}
    if len(body) >= _WORTH_PACKING and takes_gzip(request):
        body = gzip.compress(body, _EFFORT, mtime=0)
        more["Content-Encoding"] = "gzip"
    return Response(body, status, more, media_type)


def takes_gzip(request: Request) -> bool:
    """Say whether a browser reads gzip."""
    offers = (each.partition(";") for each in request.headers.get("accept-encoding", "").split(","))
    return any(name.strip() == "gzip" and not rest.replace(" ", "").startswith("q=0") for name, _, rest in offers)


def see(path: str) -> Response:
    """Send a browser on with GET."""
    return RedirectResponse(path, 303, {**SAFETY, "Cache-Control": "no-store"})
