"""From a request's query and body to parameters, with the habits of Proxmox's own decoder.

The query counts for every method and outranks the body. Pairs are parted by ``&`` and by ``;``, and what follows a
second ``=`` in a pair is lost; a name without any ``=`` has no value and counts as left out.
"""

from __future__ import annotations

import json
import re
from urllib.parse import unquote_plus

from aiohttp import web

from provisioner.lab.refusals import Refusal, failed
from provisioner.lab.schema.language import ParamTable

BODY_LIMIT = 512 * 1024


async def decoded(request: web.Request, table: ParamTable) -> dict[str, object]:
    """Return the parameters of a request that is no upload. Raises Refusal."""
    query = _collected(_pairs(request.rel_url.raw_query_string), table)
    if request.method in ("GET", "DELETE"):
        if request.body_exists and await request.content.read(1):
            raise Refusal(501, f"Unexpected content for method '{request.method}'")
        return query
    body = await _read(request)
    if request.content_type == "application/json":
        return {**_from_json(body, table), **query}
    return {**_collected(_pairs(body.decode("utf-8", "replace")), table), **query}


async def _read(request: web.Request) -> bytes:
    if (request.content_length or 0) > BODY_LIMIT:
        raise Refusal(501, "for data too large")
    body = b""
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise Refusal(501, "for data too large")
    return body


def _pairs(text: str) -> list[tuple[str, str]]:
    found = []
    for pair in re.split("[&;]", text):
        name, *values = pair.split("=")
        if values:
            found.append((unquote_plus(name), unquote_plus(values[0], errors="replace")))
    return found


def _collected(pairs: list[tuple[str, str]], table: ParamTable) -> dict[str, object]:
    """Gather repeated keys: a list for arrays, joined for ``-list`` strings, else the array that does not fit."""
    gathered: dict[str, list[str]] = {}
    for key, value in pairs:
        gathered.setdefault(key, []).append(value)
    params: dict[str, object] = {}
    for key, values in gathered.items():
        param = table.find(key)
        if param is not None and param.type == "array":
            params[key] = values
        elif len(values) > 1:
            joins = param is not None and (param.format or "").endswith("-list")
            params[key] = ",".join(values) if joins else values
        else:
            params[key] = values[0]
    return params


def _from_json(body: bytes, table: ParamTable) -> dict[str, object]:
    if not body:
        return {}
    try:
        document = json.loads(body)
    except ValueError:
        raise failed("malformed JSON string in request body") from None
    if not isinstance(document, dict):
        raise failed("the request body is no JSON object")
    params: dict[str, object] = {}
    for key, value in document.items():
        if value is None:
            continue
        param = table.find(key)
        if param is not None and param.type == "array" and not isinstance(value, list):
            value = [value]
        params[key] = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    return params
