"""Forms as browsers send them, read within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

_LONGEST = 16 * 1024
_MOST_FIELDS = 20
_SECONDS = 15.0
_KIND = "application/x-www-form-urlencoded"


class NoForm(Exception):
    """What was sent is no form of ours."""


async def read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form. Raises NoForm."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _KIND:
        raise NoForm("what was sent is no form")
    raw = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for piece in request.stream():
                raw += piece
                if len(raw) > _LONGEST:
                    raise NoForm("the form is too long")
    except TimeoutError:
        raise NoForm("the form came too slowly") from None
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise NoForm("what was sent is no form") from None
