"""Answers in Proxmox's shapes.

The reason phrase carries the text of every refusal, and the connection is
closed behind it, as the real server does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from provisioner.lab.refusals import Refusal


def refused(refusal: Refusal) -> web.Response:
    """Return how a refusal is told."""
    if refusal.status == 401:
        return plain(401, refusal.message)
    body: dict[str, object] = {"data": None, "message": f"{refusal.message}\n"}
    if refusal.errors is not None:
        body["errors"] = refusal.errors
    return answered(refusal.status, refusal.message, body)


def answered(status: int, reason: str, body: Mapping[str, object]) -> web.Response:
    """Return an answer with a JSON body."""
    response = web.Response(
        status=status,
        reason=_one_line(reason),
        body=json.dumps(body).encode(),
        content_type="application/json",
        charset="UTF-8",
        headers={"Cache-Control": "max-age=0", "Pragma": "no-cache", "Server": "pve-api-daemon/3.0"},
    )
    if status >= 400:
        response.force_close()
    return response


def plain(status: int, reason: str) -> web.Response:
    """Return an answer that is nothing but its status line."""
    response = web.Response(status=status, reason=_one_line(reason), headers={"Server": "pve-api-daemon/3.0"})
    response.force_close()
    return response


def dropped(request: web.Request) -> web.Response:
    """Hang up without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _one_line(text: str) -> str:
    line = text.split("\n", 1)[0].strip()
    return "".join(sign if 32 <= ord(sign) < 127 else "?" for sign in line)
