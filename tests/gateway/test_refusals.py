"""What becomes of refusals that are not the client's business, and of requests that are held when the service ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.ledger import Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.serving import Phase
from tests.gateway.site import TOKEN, NodeAt, a_site, until

NODE, OTHER = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")


def test_an_engine_that_refuses_our_key_is_not_taken_for_a_client_without_a_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, key="an-old-key") as site:
            site.engines["llm-gpu-01"].key = "a-new-key"
            async with site.http.post(**site.ask()) as answer:
                assert answer.status == 502
                assert "it refuses our API key (HTTP 401)" in await answer.text()

    asyncio.run(scenario())


def test_what_an_engine_says_may_repeat_its_prompt_so_it_is_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path) as site:
            engine = site.engines["llm-gpu-01"]
            engine.delay, engine.status = 0.3, 400
            async with site.http.post(**site.ask(stream=True)) as answer:
                assert "it says 400" in await answer.text()
            (entry,) = site.ledger.entries
            assert entry.reason == "llm-gpu-01 answers 400"

    asyncio.run(scenario())


def test_a_node_that_is_full_is_not_avoided_by_those_that_come_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, {NODE: NodeAt(), OTHER: NodeAt()}) as site:
            site.engines[NODE].status = 429
            async with site.http.post(**site.ask()) as answer:
                assert answer.headers["X-Provisioner-Node"] == OTHER
            assert site.ledger.entries[-1].tries == 2
            assert site.power.doubted == []

    asyncio.run(scenario())


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_is_still_held_when_the_drain_is_over_is_told_to_ask_again(tmp_path: Path, is_stream: bool) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, {NODE: NodeAt(Phase.ASLEEP)}) as site:
            site.power.may_answer.clear()
            body = json.dumps({"model": "tiny", "stream": is_stream}).encode()
            arriving = [{"type": "http.request", "body": body}]
            sent: list[MutableMapping[str, Any]] = []

            async def receive() -> MutableMapping[str, Any]:
                if not arriving:
                    await asyncio.Event().wait()
                return arriving.pop()

            async def send(message: MutableMapping[str, Any]) -> None:
                sent.append(message)

            headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
            scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
            task = asyncio.create_task(site.gateway(scope, receive, send))
            await until(lambda: site.flight.of(NODE).waiting == 1 and (len(sent) > 1 or not is_stream))
            task.cancel()
            await task
            assert sent[0]["status"] == (200 if is_stream else 503)
            assert is_stream or (b"retry-after", b"1") in sent[0]["headers"]
            assert b"the service is stopped" in sent[-1]["body"]
            assert not sent[-1].get("more_body", False)
            assert site.ledger.entries[-1].outcome is Outcome.FAILED
            assert not site.flight.of(NODE).is_busy

    asyncio.run(scenario())
