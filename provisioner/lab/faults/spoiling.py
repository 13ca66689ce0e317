"""What a fault makes of one request: late, cut off, refused, or answered with something strange."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from provisioner.lab.answers import answered, dropped, plain, refused
from provisioner.lab.faults.plan import RequestFault, values_in
from provisioner.lab.faults.reasons import REASONS
from provisioner.lab.faults.rules import FaultRule

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_HTML = "<html><head><title>Welcome to nginx!</title></head><body>It works.</body></html>"


async def spoiled(
    lab: Lab,
    request: web.Request,
    path: str,
    fault: RequestFault,
    answer: Callable[[], Awaitable[web.StreamResponse]],
    note: Callable[[int], None],
) -> web.StreamResponse:
    """Return what the client gets to see.

    Args:
        lab: whose happenings are let loose.
        request: as it came.
        path: below the API's base.
        fault: what befalls it.
        answer: does the work and returns the true answer.
        note: told the status of an answer that the plan gives instead.
    """
    if fault.delay_seconds:
        await asyncio.sleep(fault.delay_seconds)
    for happening in fault.happens:
        await lab.befall(happening.name, happening.arguments)
    if request.transport is None or request.transport.is_closing():
        # The API went away under it.
        return web.Response()
    rule = fault.ending
    if rule is None:
        return await answer()
    if rule.drop is not None:
        if rule.drop == "after":
            await answer()
        return dropped(request)
    if rule.answers is not None:
        true = await answer() if rule.work != "undone" else None
        return _strange(rule.answers, true)
    refusal = _refusal(rule, path)
    if rule.work == "done":
        await answer()
    else:
        note(refusal.status)
    return refusal


def _refusal(rule: FaultRule, path: str) -> web.Response:
    if rule.says is not None:
        refusal = REASONS[rule.says].refusal(values_in(path))
        # What a proxy says has no body; what a handler says has one.
        return plain(refusal.status, refusal.message) if refusal.status > 501 else refused(refusal)
    status = rule.status or 500
    return plain(status, rule.reason or "Internal Server Error")


def _strange(kind: str, true: web.StreamResponse | None) -> web.Response:
    match kind:
        case "html":
            return web.Response(text=_HTML, content_type="text/html")
        case "nothing":
            return answered(200, "OK", {"data": None})
        case "garbage":
            return web.Response(body=b"\x00\xff{]", content_type="application/json")
        case _:
            whole = true.body if isinstance(true, web.Response) and isinstance(true.body, bytes) else b'{"data": '
            return web.Response(body=whole[: max(1, len(whole) // 2)], content_type="application/json")
