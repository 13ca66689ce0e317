"""What clients and engines should not send: a clear answer, bounded memory, and others unharmed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

import provisioner.gateway.server_protocol as server_protocol
from provisioner.domain.ledger import Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.serving import Phase
from provisioner.gateway.limits import Limits
from tests.gateway.site import TOKEN, NodeAt, Site, a_site, until

NODE = NodeName("llm-gpu-01")


@contextlib.asynccontextmanager
async def a_connection(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def error_of(site: Site, status: int, code: str, **asked: object) -> str:
    """Send a request that must be refused; return the words."""
    url = site.url + str(asked.pop("path", "/v1/chat/completions"))
    method = str(asked.pop("method", "POST"))
    async with site.http.request(method, url, **asked) as answer:  # type: ignore[arg-type]
        assert answer.status == status, await answer.text()
        error = (await answer.json())["error"]
        assert error["code"] == code
        return str(error["message"])


class TestWhatCannotBeUnderstood:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"{", "bad_json"),
            (b"[1, 2]", "bad_json"),
            (b'"tiny"', "bad_json"),
            (b"\xff\xfe{}", "bad_json"),
            (b"[" * 100_000, "bad_json"),
            (b'{"a":' * 50_000, "bad_json"),
            (b'{"model": ' + b"9" * 10_000 + b"}", "bad_json"),
            (b'{"model": 5}', "bad_model"),
            (b'{"model": {"$ne": ""}}', "bad_model"),
            (b'{"messages": []}', "model_missing"),
            (b'{"model": ""}', "model_missing"),
            (b'{"model": null}', "model_missing"),
            (b"", "model_missing"),
            (b'{"model": "' + b"x" * 300 + b'"}', "bad_model"),
        ],
        ids=lambda value: repr(value)[:24],
    )
    def test_a_body_is_refused_with_its_reason(self, tmp_path: Path, body: bytes, code: str) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                await error_of(site, 400, code, data=body, headers={"Content-Type": "application/json"})
                assert site.engines["llm-gpu-01"].requests == []

        asyncio.run(scenario())

    @pytest.mark.parametrize("modes", ["small", "chat, small"])
    def test_what_would_have_to_be_translated_is_json(self, tmp_path: Path, modes: str) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(modes=modes)}) as site:
                url, form = site.url + "/ollama/api/chat?model=tiny", aiohttp.FormData()
                form.add_field("model", "tiny", content_type="text/plain")
                for asked in (site.http.get(url), site.http.post(url), site.http.post(url, data=form)):
                    async with asked as answer:
                        assert answer.status == 400
                        assert "is not JSON" in (await answer.json())["error"]
                assert site.engines["llm-gpu-01"].requests == []

        asyncio.run(scenario())

    def test_another_method_is_told_which_there_are(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site, site.http.delete(site.url + "/v1/chat/completions") as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")

        asyncio.run(scenario())

    def test_an_unknown_model_is_told_which_there_are(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                words = await error_of(site, 404, "model_not_found", json={"model": "gpt-9\r\nX: y"})
                assert "gemma-2-2b-it.gguf, gpt-4o-mini, tiny" in words
                async with site.http.get(site.url + "/v1/models/gpt-9") as answer:
                    assert answer.status == 404

        asyncio.run(scenario())

    def test_a_model_that_no_node_has_is_unknown_though_a_mode_names_it(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                await error_of(site, 404, "model_not_found", json={"model": "big.gguf"})

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/../metrics",
            "/v1/chat//completions",
            "/v1/%2e%2e/slots",
            "/v1/a%0d%0aX-Evil:%201",
            "/v1/a%20HTTP/1.1",
            "/v1",
        ],
    )
    def test_a_path_that_could_lead_elsewhere_is_not_passed_on(self, tmp_path: Path, path: str) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site, a_connection(site) as (reader, writer):
                body = b'{"model": "tiny"}'
                head = (
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}"
                )
                writer.write(head.encode() + b"\r\n\r\n" + body)
                status = (await reader.readline()).split()[1]
                assert status in (b"400", b"404"), status
                assert site.engines["llm-gpu-01"].requests == []

        asyncio.run(scenario())

    def test_headers_of_ours_say_what_they_may(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                for name in ("Away", "Prefer", "Wake"):
                    ask = {"json": {"model": "tiny"}, "headers": {f"X-Provisioner-{name}": "perhaps"}}
                    assert "one of" in await error_of(site, 400, "bad_header", **ask)

        asyncio.run(scenario())

    def test_ollamas_store_is_not_managed_through_us(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(modes="chat")}) as site:
                for path in (
                    "/api/pull",
                    "/api/delete",
                    "/api/create",
                    "/api/push",
                    "/api/copy",
                    "/api/blobs/sha256:1",
                ):
                    async with site.http.post(site.url + "/ollama" + path, json={"model": "mistral"}) as answer:
                        assert answer.status == 404
                        assert "fleet file" in (await answer.json())["error"]
                assert site.engines["llm-gpu-01"].requests == []

        asyncio.run(scenario())


class TestWhoMayComeIn:
    @pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic dGVzdHM=", f"Token {TOKEN}", TOKEN])
    def test_nobody_without_a_valid_token(self, tmp_path: Path, header: str | None) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                site.http.headers.popall("Authorization")
                headers = {"Authorization": header} if header is not None else {}
                words = await error_of(site, 401, "invalid_token", json={"model": "tiny"}, headers=headers)
                assert words == "cannot let this in: no valid token; next: send Authorization"
                assert site.engines["llm-gpu-01"].requests == []

        asyncio.run(scenario())

    def test_anthropics_way_to_show_a_token_counts_too(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                site.http.headers.popall("Authorization")
                async with site.http.post(**site.ask(path="/v1/messages"), headers={"X-Api-Key": TOKEN}) as answer:
                    assert answer.status == 200

        asyncio.run(scenario())

    def test_who_may_only_look_sees_the_models_and_uses_none(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                looks = {"Authorization": "Bearer token-that-may-only-look"}
                async with site.http.get(site.url + "/v1/models", headers=looks) as answer:
                    assert answer.status == 200
                await error_of(site, 403, "scope_missing", json={"model": "tiny"}, headers=looks)

        asyncio.run(scenario())


class TestBounds:
    def test_a_body_over_the_limit_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with (
                a_site(tmp_path, limits=Limits(body_bytes=100_000)) as site,
                a_connection(site) as (reader, writer),
            ):
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
                writer.write(head.encode() + b"Content-Length: 99999999999\r\n\r\n")
                assert b"413" in await reader.readline()

        asyncio.run(scenario())

    def test_a_body_over_the_limit_is_refused_though_it_did_not_announce_itself(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with (
                a_site(tmp_path, limits=Limits(body_bytes=100_000)) as site,
                a_connection(site) as (reader, writer),
            ):
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
                writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(20):
                    writer.write(b"2000\r\n" + b"x" * 8192 + b"\r\n")
                assert b"413" in await reader.readline()

        asyncio.run(scenario())

    def test_a_body_that_does_not_come_is_not_waited_for(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with (
                a_site(tmp_path, limits=Limits(body_seconds=0.2)) as site,
                a_connection(site) as (reader, writer),
            ):
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
                writer.write(head.encode() + b"Content-Length: 500\r\n\r\n{")
                assert b"408" in await reader.readline()

        asyncio.run(scenario())

    def test_bodies_that_wait_fill_no_more_than_they_may(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            limits = Limits(held_bytes=250_000)
            async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}, limits=limits) as site:
                site.power.may_answer.clear()
                ask = site.ask(padding="x" * 100_000)
                waiting = [asyncio.create_task(site.http.post(**ask)) for _ in range(2)]
                await until(lambda: site.flight.of(NODE).waiting == 2)
                async with site.http.post(**ask) as answer:
                    assert answer.status == 429
                site.power.may_answer.set()
                assert [(await each).status for each in waiting] == [200, 200]
                await until(lambda: site.gateway.parts.held == 0)

        asyncio.run(scenario())

    def test_a_head_without_end_is_cut_off(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site, a_connection(site) as (reader, writer):
                writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n")
                said = b""
                # It may be cut off while we still write; then there is only the cut to see.
                with contextlib.suppress(ConnectionError):
                    for number in range(200):
                        writer.write(f"X-{number}: {'y' * 1000}\r\n".encode())
                        await writer.drain()
                        await asyncio.sleep(0)
                    writer.write(b"\r\n")
                    said = await reader.read()
                assert said == b"" or b" 431 " in said
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200

        asyncio.run(scenario())

    def test_a_slow_loris_is_cut_off_and_others_are_served_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_protocol, "HEAD_SECONDS", 0.3)

        async def scenario() -> None:
            async with a_site(tmp_path) as site, contextlib.AsyncExitStack() as stack:
                slow = [await stack.enter_async_context(a_connection(site)) for _ in range(50)]
                for _, writer in slow:
                    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                begun = time.monotonic()
                for reader, _ in slow:
                    assert b"408" in await reader.readline()
                    assert await asyncio.wait_for(reader.read(), 5) is not None
                assert time.monotonic() - begun < 10, "one after the other they take 15 s"

        asyncio.run(scenario())

    def test_idle_connections_cost_nobody_an_answer(self, tmp_path: Path) -> None:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        count = min(1000, allowed // 4)

        async def scenario() -> None:
            async with a_site(tmp_path) as site, contextlib.AsyncExitStack() as stack:
                for _ in range(count):
                    await stack.enter_async_context(a_connection(site))
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200

        asyncio.run(scenario())

    def test_an_answer_that_nobody_reads_is_not_gathered(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site, a_connection(site) as (reader, writer):
                engine = site.engines["llm-gpu-01"]
                engine.is_endless, engine.words = True, ("x" * 65536,)
                body = b'{"model": "tiny", "stream": true}'
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
                writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                assert b"200" in await reader.readline()
                before = -1
                async with asyncio.timeout(10):
                    while engine.written != before:
                        before = engine.written
                        await asyncio.sleep(0.3)
                assert 0 < before < 500, f"{before * 64} KiB went where nobody reads"
                # Others are served while it is stuck in its client's buffers.
                engine.is_endless = False
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                writer.transport.abort()
                await until(lambda: engine.running == 0)

        asyncio.run(scenario())


class TestEnginesThatMisbehave:
    def test_the_engines_own_refusal_is_passed_on(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                site.engines["llm-gpu-01"].status = 400
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 400
                    assert (await answer.json())["error"]["message"] == "it says 400"
                assert site.ledger.entries[0].outcome is Outcome.FAILED

        asyncio.run(scenario())

    def test_one_that_is_full_and_alone_is_asked_again_until_it_has_room(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                engine = site.engines["llm-gpu-01"]
                engine.status = 503
                client = asyncio.create_task(site.http.post(**site.ask()))
                await until(lambda: len(engine.requests) == 2)
                engine.status = 200
                assert (await client).status == 200

        asyncio.run(scenario())

    def test_one_that_stays_full_is_believed_in_the_end(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, limits=Limits(overload_seconds=0.3)) as site:
                site.engines["llm-gpu-01"].status = 429
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 429

        asyncio.run(scenario())

    def test_one_that_falls_silent_in_the_midst_of_a_stream_is_ended(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, limits=Limits(silence_seconds=0.2)) as site:
                site.engines["llm-gpu-01"].pause = 30.0
                async with site.http.post(**site.ask(stream=True)) as answer:
                    text = await answer.text()
                assert "it was silent for 0.2 s" in text
                assert text.endswith("data: [DONE]\n\n")

        asyncio.run(scenario())

    def test_half_an_answer_ends_its_connection(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                site.engines["llm-gpu-01"].cuts_answers = True
                with pytest.raises(aiohttp.ClientPayloadError):
                    async with site.http.post(**site.ask()) as answer:
                        await answer.read()
                await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.FAILED])

        asyncio.run(scenario())

    def test_no_prompt_is_in_the_ledger(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site:
                messages = [{"role": "user", "content": "a secret of mine"}]
                async with site.http.post(
                    site.url + "/v1/chat/completions", json={"model": "tiny", "messages": messages}
                ):
                    pass
                await until(lambda: bool(site.ledger.entries))
                assert "secret" not in json.dumps([entry.as_dict() for entry in site.ledger.entries])

        asyncio.run(scenario())
