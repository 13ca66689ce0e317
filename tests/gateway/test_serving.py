"""Requests through a real gateway to real engines: answers, streams, wakes, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path

import aiohttp
import pytest

from provisioner.domain.ledger import Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.serving import Phase
from provisioner.errors import HypervisorError
from provisioner.gateway.limits import Limits
from tests.gateway.engines import WORDS, Garbler
from tests.gateway.site import NodeAt, a_site, until

SAID = "".join(WORDS)
NODE = NodeName("llm-gpu-01")
TWO = {"llm-gpu-01": NodeAt(), "llm-gpu-02": NodeAt()}


async def said(response: aiohttp.ClientResponse) -> str:
    """Return what a stream said, and raise what it complains of."""
    words = []
    async for line in response.content:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            words += [choice["delta"]["content"] for choice in event["choices"]]
    return "".join(words)


class TestAReadyNode:
    def test_answers(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site, site.http.post(**site.ask("gemma-2-2b-it.gguf")) as answer:
                assert answer.status == 200
                assert answer.headers["X-Provisioner-Node"] == "llm-gpu-01"
                document = await answer.json()
                assert document["choices"][0]["message"]["content"] == SAID
            (entry,) = site.ledger.entries
            assert (entry.outcome, entry.node, entry.caller, entry.model) == (
                Outcome.ANSWERED,
                "llm-gpu-01",
                "tests",
                "gemma-2-2b-it.gguf",
            )
            assert (entry.tokens_in, entry.tokens_out, entry.tries, entry.woke) == (7, 6, 1, False)
            assert not site.flight.of(NODE).is_busy

        asyncio.run(scenario())

    def test_is_found_by_an_alias_and_its_engine_is_asked_by_its_own_name(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site, site.http.post(**site.ask("gpt-4o-mini", temperature=0.5)) as answer:
                assert answer.status == 200
                (asked,) = site.engines["llm-gpu-01"].requests
                assert (asked["model"], asked["temperature"]) == ("gemma-2-2b-it.gguf", 0.5)

        asyncio.run(scenario())

    def test_streams_every_word_as_it_comes(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                site.engines["llm-gpu-01"].pause = 0.05
                times: list[float] = []
                async with site.http.post(**site.ask(stream=True)) as answer:
                    async for line in answer.content:
                        times += [time.monotonic()] if b"content" in line else []
                assert len(times) == len(WORDS)
                gaps = [after - before for before, after in itertools.pairwise(times)]
                assert min(gaps) > 0.01, "words were held back and came together"

        asyncio.run(scenario())

    def test_gets_the_engines_key_and_never_ours(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, key="key-of-the-engine") as site:
                site.engines["llm-gpu-01"].key = "key-of-the-engine"
                more = {"X-Forwarded-For": "1.2.3.4", "Cookie": "a=b"}
                async with site.http.post(**site.ask(), headers=more) as answer:
                    assert answer.status == 200
                (headers,) = site.engines["llm-gpu-01"].headers
                assert headers["authorization"] == "Bearer key-of-the-engine"
                assert not {"cookie", "x-forwarded-for"} & set(headers)

        asyncio.run(scenario())

    def test_shows_no_key_to_an_engine_that_asks_nobody(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            nodes = {"llm-gpu-01": NodeAt(modes="chat"), "llm-gpu-02": NodeAt()}
            async with a_site(tmp_path, nodes, key="key-of-the-engines") as site:
                for path in ("/v1/chat/completions", "/ollama/api/chat"):
                    async with site.http.post(**site.ask("mistral", path)) as answer:
                        assert answer.status == 200
                assert [headers.get("authorization") for headers in site.engines["llm-gpu-01"].headers] == [None, None]

        asyncio.run(scenario())

    def test_takes_who_hangs_up_after_the_last_word_for_answered(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                site.engines["llm-gpu-01"].lingers = 30.0
                async with site.http.post(**site.ask(stream=True)) as answer:
                    while (line := await answer.content.readline()) != b"data: [DONE]\n":
                        assert line
                    answer.close()
                await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.ANSWERED])
                assert site.ledger.entries[0].tokens_out

        asyncio.run(scenario())

    def test_sees_its_client_leave(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                engine = site.engines["llm-gpu-01"]
                engine.is_endless, engine.pause = True, 0.01
                async with site.http.post(**site.ask(stream=True)) as answer:
                    await answer.content.readline()
                    assert engine.running == 1
                    answer.close()
                await until(lambda: engine.left == 1)
                await until(lambda: not site.flight.of(NODE).is_busy)
                await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.LEFT])

        asyncio.run(scenario())

    def test_sees_a_client_leave_that_has_no_answer_yet(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                engine = site.engines["llm-gpu-01"]
                engine.delay = 20.0
                with pytest.raises(TimeoutError):
                    await site.http.post(**site.ask(), timeout=aiohttp.ClientTimeout(total=0.2))
                await until(lambda: engine.left == 1)

        asyncio.run(scenario())

    def test_takes_forms_and_embeddings_too(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                form = aiohttp.FormData()
                form.add_field("file", b"\x00\x01RIFF", filename="a.wav", content_type="audio/wav")
                form.add_field("model", "tiny")
                async with site.http.post(site.url + "/v1/audio/transcriptions", data=form) as answer:
                    assert answer.status == 200
                raw = site.engines["llm-gpu-01"].requests[0]["raw"]
                assert b"gemma-2-2b-it.gguf" in raw
                assert b"RIFF" in raw
                ask = site.ask(path="/v1/embeddings", input="some words")
                async with site.http.post(**ask) as answer:
                    assert (await answer.json())["data"][0]["embedding"] == [0.5, 0.25]

        asyncio.run(scenario())


class TestASleepingNode:
    def test_is_started_once_for_five_hundred_clients(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            limits = Limits(waiting=450)
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}, limits=limits) as site:
                site.power.may_answer.clear()
                connector = aiohttp.TCPConnector(limit=0)
                async with aiohttp.ClientSession(connector=connector, headers=site.http.headers) as http:
                    slowest = 0.0

                    async def one() -> int:
                        nonlocal slowest
                        begun = time.monotonic()
                        async with http.post(**site.ask()) as answer:
                            if answer.status == 429:
                                assert int(answer.headers["Retry-After"]) >= 1
                                slowest = max(slowest, time.monotonic() - begun)
                            elif answer.status == 200:
                                assert (await answer.json())["choices"][0]["message"]["content"] == SAID
                            return answer.status

                    clients = [asyncio.create_task(one()) for _ in range(500)]
                    await until(lambda: sum(client.done() for client in clients) == 50, 20)
                    assert site.flight.of(NODE).waiting == 450
                    site.power.may_answer.set()
                    statuses = await asyncio.gather(*clients)
                assert site.power.starts == [NODE]
                assert (statuses.count(200), statuses.count(429)) == (450, 50)
                assert not site.flight.of(NODE).is_busy

        asyncio.run(scenario())

    def test_a_stream_gets_signs_of_life_while_it_waits_and_then_the_answer(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}) as site:
                site.power.may_answer.clear()
                async with site.http.post(**site.ask(stream=True)) as answer:
                    assert answer.status == 200
                    first = await answer.content.readline()
                    assert first.startswith(b": llm-gpu-01 is booting: ")
                    await answer.content.readline()
                    assert (await answer.content.readline()).startswith(b": ")
                    site.power.may_answer.set()
                    assert await said(answer) == SAID
                assert site.ledger.entries[-1].woke

        asyncio.run(scenario())

    def test_ollamas_stream_waits_in_blanks(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            nodes = {"llm-gpu-01": NodeAt(Phase.ASLEEP, modes="chat")}
            async with a_site(tmp_path, nodes) as site:
                site.power.may_answer.clear()
                async with site.http.post(**site.ask("llama3.1:8b", "/ollama/api/chat")) as answer:
                    assert await answer.content.readexactly(2) == b"  "
                    site.power.may_answer.set()
                    lines = [json.loads(line) async for line in answer.content]
                assert "".join(line["message"]["content"] for line in lines) == SAID
                assert (site.ledger.entries[-1].tokens_in, site.ledger.entries[-1].tokens_out) == (7, 6)

        asyncio.run(scenario())

    def test_is_not_started_when_the_last_client_leaves_before(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}) as site:
                site.power.may_start.clear()
                clients = [asyncio.create_task(site.http.post(**site.ask())) for _ in range(3)]
                await until(lambda: site.flight.of(NODE).waiting == 3)
                for client in clients:
                    client.cancel()
                await until(lambda: not site.flight.of(NODE).is_busy)
                site.power.may_start.set()
                await until(lambda: not site.power.desk.is_under_way(NODE))
                assert site.power.starts == []

        asyncio.run(scenario())

    def test_is_started_when_only_some_leave(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}) as site:
                site.power.may_start.clear()
                stays, goes = (asyncio.create_task(site.http.post(**site.ask())) for _ in range(2))
                await until(lambda: site.flight.of(NODE).waiting == 2)
                goes.cancel()
                await until(lambda: site.flight.of(NODE).waiting == 1)
                site.power.may_start.set()
                assert (await stays).status == 200
                assert site.power.starts == [NODE]

        asyncio.run(scenario())

    def test_that_cannot_come_is_named_with_its_cause_and_not_tried_again_at_once(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}) as site:
                error = HypervisorError("cannot start the VM: no space left", subject="vm 5001", next_step="make room")
                site.power.fails_with[NODE] = error
                for _ in range(3):
                    async with site.http.post(**site.ask()) as answer:
                        assert answer.status == 503
                        assert 1 <= int(answer.headers["Retry-After"]) <= 5
                        assert "no space left" in (await answer.json())["error"]["message"]
                assert site.power.starts == [NODE]

        asyncio.run(scenario())

    def test_a_stream_that_has_begun_hears_of_a_failed_wake_inside(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}) as site:
                error = HypervisorError("cannot start the VM: no space left", subject="vm 5001", next_step="make room")
                site.power.fails_with[NODE] = error
                site.power.may_answer.clear()
                async with site.http.post(**site.ask(stream=True)) as answer:
                    assert answer.status == 200
                    await answer.content.readline()
                    site.power.may_answer.set()
                    with pytest.raises(RuntimeError, match="no space left"):
                        await said(answer)

        asyncio.run(scenario())

    def test_is_left_asleep_for_who_asks_not_to_wake(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}) as site:
                async with site.http.post(**site.ask(), headers={"X-Provisioner-Wake": "no"}) as answer:
                    assert answer.status == 503
                assert site.power.starts == []

        asyncio.run(scenario())

    def test_whose_gate_closed_is_woken_again_for_the_next_request(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                site.flight.close(NODE)
                site.power.be("llm-gpu-01", Phase.DRAINING)
                site.power.may_start.clear()
                client = asyncio.create_task(site.http.post(**site.ask()))
                await until(lambda: site.flight.of(NODE).waiting == 1)
                assert site.flight.of(NODE).running == 0
                site.flight.open(NODE)
                site.power.may_start.set()
                assert (await client).status == 200
                assert site.power.starts == [NODE]

        asyncio.run(scenario())


class TestFailingOver:
    def test_a_dead_node_costs_its_client_next_to_nothing(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                await site.engines["llm-gpu-01"].stop()
                for _ in range(3):
                    async with site.http.post(**site.ask()) as answer:
                        assert answer.status == 200
                        assert answer.headers["X-Provisioner-Node"] == "llm-gpu-02"
                assert [entry.tries for entry in site.ledger.entries] == [2, 1, 1]
                assert site.power.doubted == [NODE]

        asyncio.run(scenario())

    def test_a_hung_node_costs_one_client_once(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                site.engines["llm-gpu-01"].is_hung = True
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                assert [entry.tries for entry in site.ledger.entries] == [2, 1]

        asyncio.run(scenario())

    def test_a_slow_node_that_is_well_is_waited_for(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                site.engines["llm-gpu-01"].delay = 0.8
                async with site.http.post(**site.ask()) as answer:
                    assert answer.headers["X-Provisioner-Node"] == "llm-gpu-01"
                assert site.ledger.entries[0].tries == 1

        asyncio.run(scenario())

    @pytest.mark.parametrize("status", [500, 502, 503, 429])
    def test_another_node_is_asked_when_one_says_no(self, tmp_path: Path, status: int) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                site.engines["llm-gpu-01"].status = status
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                    assert answer.headers["X-Provisioner-Node"] == "llm-gpu-02"

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        "words", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b""]
    )
    def test_another_node_is_asked_when_one_talks_garbage(self, tmp_path: Path, words: bytes) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                engine = site.engines["llm-gpu-01"]
                await engine.stop()
                async with Garbler(engine.host, engine.port, words), site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                    assert answer.headers["X-Provisioner-Node"] == "llm-gpu-02"

        asyncio.run(scenario())

    def test_a_node_that_is_back_serves_again(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                engine = site.engines["llm-gpu-01"]
                await engine.stop()
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                assert site.gateway.parts.health.trouble(NODE)
                await engine.start()
                await until(lambda: not site.gateway.parts.health.trouble(NODE))
                async with site.http.post(**site.ask()) as answer:
                    assert answer.headers["X-Provisioner-Node"] == "llm-gpu-01"

        asyncio.run(scenario())

    def test_the_only_node_is_held_for_until_it_is_back(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                engine = site.engines["llm-gpu-01"]
                await engine.stop()
                site.power.may_answer.clear()
                client = asyncio.create_task(site.http.post(**site.ask()))
                await until(lambda: site.flight.of(NODE).waiting == 1)
                await engine.start()
                site.power.may_answer.set()
                assert (await client).status == 200

        asyncio.run(scenario())

    def test_after_the_first_byte_nothing_is_asked_again_and_the_client_is_told(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                site.engines["llm-gpu-01"].breaks_after = 2
                site.engines["llm-gpu-01"].pause = 0.02
                async with site.http.post(**site.ask(stream=True)) as answer:
                    with pytest.raises(RuntimeError, match="llm-gpu-01 broke off"):
                        await said(answer)
                assert len(site.engines["llm-gpu-02"].requests) == 0
                await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.FAILED])

        asyncio.run(scenario())

    def test_a_node_that_fails_one_request_after_the_other_is_given_up(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                engine = site.engines["llm-gpu-01"]
                await engine.stop()
                async with (
                    Garbler(engine.host, engine.port, b"nonsense\r\n\r\n"),
                    site.http.post(**site.ask()) as answer,
                ):
                    assert answer.status == 502
                    assert "tries" in (await answer.json())["error"]["message"]

        asyncio.run(scenario())

    def test_requests_go_to_the_node_with_the_fewest(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, TWO) as site:
                for engine in site.engines.values():
                    engine.delay = 0.2
                answers = await asyncio.gather(*(site.http.post(**site.ask()) for _ in range(10)))
                served = [answer.headers["X-Provisioner-Node"] for answer in answers]
                assert served.count("llm-gpu-01") == served.count("llm-gpu-02") == 5

        asyncio.run(scenario())


WITH_FALLBACK = {
    "llm-gpu-01": NodeAt(Phase.ASLEEP, modes="big"),
    "llm-cpu-01": NodeAt(gpu=False, extra=", role: fallback"),
}


class TestTheFallback:
    def test_answers_at_once_with_its_own_model_and_says_so(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, WITH_FALLBACK, big=", away: fallback") as site:
                async with site.http.post(**site.ask("big.gguf")) as answer:
                    assert answer.status == 200
                    assert answer.headers["X-Provisioner-Fallback"] == "true"
                    assert (await answer.json())["model"] == "gemma-2-2b-it.gguf"
                assert site.power.starts == []
                assert site.ledger.entries[0].is_fallback

        asyncio.run(scenario())

    def test_answers_while_the_gpu_is_woken(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, WITH_FALLBACK, big=", away: fallback-and-wake") as site:
                async with site.http.post(**site.ask("big.gguf")) as answer:
                    assert answer.headers["X-Provisioner-Fallback"] == "true"
                await until(lambda: site.power.nodes[NODE].phase is Phase.READY)
                async with site.http.post(**site.ask("big.gguf")) as answer:
                    assert "X-Provisioner-Fallback" not in answer.headers
                assert site.power.starts == [NODE]

        asyncio.run(scenario())

    def test_the_caller_may_say_otherwise(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, WITH_FALLBACK) as site:
                ask = site.ask("big.gguf")
                async with site.http.post(**ask, headers={"X-Provisioner-Away": "fallback"}) as answer:
                    assert answer.headers["X-Provisioner-Node"] == "llm-cpu-01"
                async with site.http.post(**ask) as answer:
                    assert answer.headers["X-Provisioner-Node"] == "llm-gpu-01"

        asyncio.run(scenario())

    def test_answers_when_the_wake_has_failed(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, WITH_FALLBACK) as site:
                error = HypervisorError("cannot start the VM", subject="vm 5001", next_step="look")
                site.power.fails_with[NODE] = error
                async with site.http.post(**site.ask("big.gguf")) as answer:
                    assert answer.status == 200
                    assert answer.headers["X-Provisioner-Fallback"] == "true"

        asyncio.run(scenario())

    def test_never_answers_for_vectors(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, WITH_FALLBACK, big=", away: fallback") as site:
                ask = site.ask("big.gguf", "/v1/embeddings", input="words")
                async with site.http.post(**ask) as answer:
                    assert answer.headers["X-Provisioner-Node"] == "llm-gpu-01"

        asyncio.run(scenario())


def test_clients_are_promised_no_more_than_the_limits_keep() -> None:
    limits = Limits()
    assert limits.first_byte_seconds < 2
    assert limits.heartbeat_seconds < 10
    # A hung node costs at most this, once: the look at its health begins after the one and takes the other.
    assert limits.suspect_seconds + limits.probe_seconds < 1.5
