"""What the API does not take, by itself: no act is reached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any, cast

import pytest

import provisioner.api.app as app
from provisioner.api.control import Control
from provisioner.domain.callers import Callers


def answers(
    method: str, path: str, query: str, arriving: list[MutableMapping[str, Any]]
) -> list[MutableMapping[str, Any]]:
    """Return what the API sends; a client that has nothing more to say is silent."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if not arriving:
            await asyncio.Event().wait()
        return arriving.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
    asyncio.run(app.Api(cast(Control, None), Callers(), "1")(scope, receive, send))
    return sent


def kind(sent: list[MutableMapping[str, Any]]) -> str:
    return str(json.loads(sent[1]["body"])["type"]).rpartition(":")[2]


@pytest.mark.parametrize("number", ["9" * 16, "9" * 5000, "-1", "1.0", "²"])
def test_a_number_to_begin_after_that_is_none_is_refused_however_long_it_is(number: str) -> None:
    sent = answers("GET", "/api/events", f"after={number}", [])
    assert (sent[0]["status"], kind(sent)) == (400, "bad-number")


def test_a_body_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_BODY_SECONDS", 0.05)
    sent = answers("POST", "/api/route", "", [{"type": "http.request", "body": b"{", "more_body": True}])
    assert (sent[0]["status"], kind(sent)) == (408, "body-too-slow")


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error_of_ours() -> None:
    sent = answers("POST", "/api/route", "", [{"type": "http.disconnect"}])
    assert sent == []
