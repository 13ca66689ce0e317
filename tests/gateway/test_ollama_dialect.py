"""Ollama's own dialect before engines that speak OpenAI's: what is asked, what is told, what cannot be said."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.ledger import Outcome
from provisioner.domain.serving import Phase
from provisioner.gateway.limits import Limits
from provisioner.gateway.ollama_answers import OllamaAnswer, Unreadable
from provisioner.gateway.ollama_requests import Untranslatable, as_openai
from tests.gateway.engines import WORDS
from tests.gateway.site import QUICK, TOKEN, NodeAt, Site, a_site, until

ollama = pytest.importorskip("ollama", reason="the ollama package is not installed")

SAID = "".join(WORDS)
HELLO = [{"role": "user", "content": "Say hello."}]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
CALL = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
NODE = "llm-gpu-01"


@contextlib.asynccontextmanager
async def a_client(
    folder: Path, nodes: Mapping[str, NodeAt] | None = None, limits: Limits = QUICK, **more: str
) -> AsyncIterator[tuple[Site, Any]]:
    async with a_site(folder, nodes, limits=limits, **more) as site:  # type: ignore[arg-type]
        client = ollama.AsyncClient(host=site.url + "/ollama", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            yield site, client
        finally:
            await client.close()


class TestOllamasClient:
    """The package that people use, before llama.cpp's dialect."""

    def test_chats_and_generates_in_one_piece_and_as_it_comes(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_client(tmp_path) as (site, client):
                chat = await client.chat(model="tiny", messages=HELLO, options={"num_predict": 20, "num_ctx": 4096})
                assert (chat.message.content, chat.model, chat.done_reason) == (SAID, "tiny", "stop")
                assert (chat.prompt_eval_count, chat.eval_count) == (7, len(WORDS))
                parts = [part async for part in await client.chat(model="tiny", messages=HELLO, stream=True)]
                assert [part.message.content for part in parts[:-1]] == list(WORDS)
                assert (parts[-1].done, parts[-1].eval_count) == (True, len(WORDS))
                generated = await client.generate(model="tiny", prompt="Say hello.", system="Be brief.")
                assert (generated.response, generated.done) == (SAID, True)
                parts = [part.response async for part in await client.generate(model="tiny", prompt="Hi", stream=True)]
                assert "".join(parts) == SAID
                asked = site.engines[NODE].requests
                assert (asked[0]["model"], asked[0]["max_tokens"]) == ("gemma-2-2b-it.gguf", 20)
                assert "num_ctx" not in json.dumps(asked[0])
                assert [each["role"] for each in asked[2]["messages"]] == ["system", "user"]
            assert [entry.tokens_out for entry in site.ledger.entries] == [len(WORDS)] * 4

        asyncio.run(scenario())

    def test_embeds_loads_and_lists(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_client(tmp_path) as (_, client):
                embedded = await client.embed(model="tiny", input=["one", "two"])
                assert embedded.embeddings == [[0.5, 0.25]]
                assert (await client.embeddings(model="tiny", prompt="one")).embedding == [0.5, 0.25]
                loaded = await client.generate(model="tiny")
                assert (loaded.response, loaded.done_reason) == ("", "load")
                (listed, *_) = (await client.list()).models
                assert listed.model == "gemma-2-2b-it.gguf"
                assert next(each.model for each in (await client.ps()).models) == "gemma-2-2b-it.gguf"

        asyncio.run(scenario())

    def test_waits_for_a_cold_start_and_for_a_load(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_client(tmp_path, {NODE: NodeAt(Phase.ASLEEP)}) as (site, client):
                site.power.may_answer.clear()
                asyncio.get_running_loop().call_later(0.6, site.power.may_answer.set)
                stream = await client.chat(model="tiny", messages=HELLO, stream=True)
                assert "".join([part.message.content or "" async for part in stream]) == SAID
                site.power.be(NODE, Phase.ASLEEP)
                site.power.may_answer.clear()
                asyncio.get_running_loop().call_later(0.6, site.power.may_answer.set)
                (part,) = [part async for part in await client.chat(model="tiny", messages=[], stream=True)]
                assert (part.message.content, part.done_reason) == ("", "load")

        asyncio.run(scenario())

    def test_is_answered_by_a_node_that_stands_in(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            nodes = {
                NODE: NodeAt(Phase.ASLEEP, modes="chat"),
                "llm-cpu-01": NodeAt(gpu=False, extra=", role: fallback"),
            }
            async with a_client(tmp_path, nodes) as (site, _):
                asked = site.ask("mistral", "/ollama/api/chat", stream=False)
                async with site.http.post(**asked, headers={"X-Provisioner-Away": "fallback"}) as answer:
                    assert answer.headers["X-Provisioner-Fallback"] == "true"
                    assert (await answer.json())["message"]["content"] == SAID
                # What only Ollama understands waits for Ollama.
                asked["json"] = {"model": "mistral", "prompt": "def f(", "suffix": "return 1", "stream": False}
                asked["url"] = site.url + "/ollama/api/generate"
                async with site.http.post(**asked, headers={"X-Provisioner-Away": "fallback"}) as answer:
                    assert (answer.status, answer.headers["X-Provisioner-Node"]) == (200, NODE)

        asyncio.run(scenario())

    def test_raises_what_its_engine_says(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_client(tmp_path) as (site, client):
                site.engines[NODE].status = 400
                with pytest.raises(ollama.ResponseError, match="it says 400") as caught:
                    await client.chat(model="tiny", messages=HELLO)
                assert (caught.value.status_code, caught.value.error) == (400, "it says 400")
                with pytest.raises(ollama.ResponseError, match="it says 400") as caught:
                    [part async for part in await client.chat(model="tiny", messages=HELLO, stream=True)]
                assert (caught.value.status_code, caught.value.error) == (400, "it says 400")
                site.engines[NODE].status, site.engines[NODE].breaks_after = 200, 2
                with pytest.raises(ollama.ResponseError, match="broke off"):
                    [part async for part in await client.chat(model="tiny", messages=HELLO, stream=True)]
                site.engines[NODE].breaks_after, site.engines[NODE].cuts_answers = None, True
                with pytest.raises(ollama.ResponseError, match="broke off") as caught:
                    await client.chat(model="tiny", messages=HELLO)
                assert caught.value.status_code == 502
            assert {entry.outcome for entry in site.ledger.entries} == {Outcome.FAILED}

        asyncio.run(scenario())

    def test_is_told_what_cannot_be_said(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_client(tmp_path) as (site, client):
                with pytest.raises(
                    ollama.ResponseError, match=r'cannot take "suffix" here.*served by llama\.cpp'
                ) as caught:
                    await client.generate(model="tiny", prompt="def f(", suffix="return 1")
                assert caught.value.status_code == 400
                assert site.engines[NODE].requests == []

        asyncio.run(scenario())

    def test_that_leaves_is_noticed(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_client(tmp_path) as (site, client):
                engine = site.engines[NODE]
                engine.is_endless, engine.pause = True, 0.01
                stream = await client.chat(model="tiny", messages=HELLO, stream=True)
                await anext(stream)
                await stream.aclose()
                await until(lambda: engine.left == 1)
                await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.LEFT])

        asyncio.run(scenario())


def asked(path: str, **document: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(as_openai(path, json.dumps(document).encode(), "m").body)
    return found


class TestWhatIsAsked:
    def test_options_formats_and_tools(self) -> None:
        options = {"temperature": 0.1, "top_p": 0.9, "seed": 7, "stop": ["x"], "num_predict": -1, "top_k": 5}
        tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
        schema = {"type": "object"}
        found = asked("/api/chat", messages=HELLO, options=options, tools=tools, format=schema, stream=False)
        assert found == {
            "model": "m",
            "messages": HELLO,
            "tools": tools,
            "temperature": 0.1,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["x"],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        }
        streamed = asked("/api/chat", messages=HELLO, format="json")
        assert (streamed["stream"], streamed["stream_options"]) == (True, {"include_usage": True})
        assert streamed["response_format"] == {"type": "json_object"}

    def test_tools_are_called_and_answer(self) -> None:
        messages = [
            *HELLO,
            {"role": "assistant", "content": "", "tool_calls": [CALL, {"function": {"name": "now"}}]},
            {"role": "tool", "tool_name": "now", "content": "12:00"},
            {"role": "tool", "content": "3"},
        ]
        _, calling, now, add = asked("/api/chat", messages=messages)["messages"]
        assert [each["id"] for each in calling["tool_calls"]] == ["call_1", "call_2"]
        assert json.loads(calling["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "b": 2}
        assert (now["tool_call_id"], add["tool_call_id"]) == ("call_2", "call_1")

    def test_pictures(self) -> None:
        message = {"role": "user", "content": "What is it?", "images": [PNG]}
        (found,) = asked("/api/chat", messages=[message])["messages"]
        assert found["content"][0] == {"type": "text", "text": "What is it?"}
        assert found["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"

    def test_raw_prompts_and_vectors(self) -> None:
        raw = as_openai("/api/generate", b'{"prompt": "Once", "raw": true}', "m")
        assert (raw.path, json.loads(raw.body)["prompt"]) == ("/v1/completions", "Once")
        assert asked("/api/embed", input=["a"], dimensions=8) == {
            "model": "m",
            "encoding_format": "float",
            "input": ["a"],
            "dimensions": 8,
        }

    @pytest.mark.parametrize(
        ("path", "document", "what"),
        [
            ("/api/generate", {"prompt": "x", "context": [1]}, '"context"'),
            ("/api/generate", {"prompt": "x", "template": "t"}, '"template"'),
            ("/api/generate", {"prompt": 1}, "a prompt that is no text"),
            ("/api/chat", {"messages": "x"}, "messages that are no list"),
            ("/api/chat", {"messages": ["x"]}, "a message that is no object"),
            ("/api/chat", {"messages": [{"role": "user", "images": ["AAAA"]}]}, "neither PNG"),
            ("/api/chat", {"messages": [{"role": "user", "images": 5}]}, "images that are no list"),
            ("/api/chat", {"messages": [{"role": "tool", "content": "x"}]}, "nobody has called for"),
            ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [1]}]}, "without its function"),
            ("/api/chat", {"messages": HELLO, "options": []}, None),
            ("/api/chat", {"messages": HELLO, "options": "x"}, "options that are no object"),
        ],
    )
    def test_what_cannot_be_said_is_named(self, path: str, document: object, what: str | None) -> None:
        if what is None:
            as_openai(path, json.dumps(document).encode(), "m")
            return
        with pytest.raises(Untranslatable, match=what):
            as_openai(path, json.dumps(document).encode(), "m")


def event(**choice: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


def told(*pieces: bytes, path: str = "/api/chat") -> list[dict[str, Any]]:
    answer = OllamaAnswer(path, "m", streams=True, now=lambda: 1e9)
    text = b"".join([*(answer.piece(each) for each in pieces), answer.end()])
    return [json.loads(line) for line in text.splitlines()]


class TestWhatIsTold:
    def test_calls_of_tools_come_whole(self) -> None:
        def call(index: int, arguments: str, name: str | None = None) -> bytes:
            function = {"arguments": arguments} | ({"name": name} if name else {})
            return event(delta={"tool_calls": [{"index": index, "function": function}]})

        lines = told(
            call(0, "", "add"),
            call(0, '{"a": '),
            call(1, "{}", "now"),
            call(0, "1}"),
            event(delta={}, finish_reason="tool_calls"),
        )
        assert [each.get("message", {}).get("tool_calls") for each in lines] == [
            [{"function": {"name": "add", "arguments": {"a": 1}}}, {"function": {"name": "now", "arguments": {}}}],
            None,
        ]
        assert [each["done"] for each in lines] == [False, True]

    def test_thoughts_and_the_reason_of_the_end(self) -> None:
        lines = told(event(delta={"reasoning_content": "hm"}), event(delta={"content": "so"}, finish_reason="length"))
        assert [each["message"].get("thinking") for each in lines] == ["hm", None, None]
        assert (lines[-1]["done_reason"], lines[0]["created_at"]) == ("length", "2001-09-09T01:46:40Z")

    def test_events_may_be_cut_anywhere(self) -> None:
        whole = (
            event(delta={"content": "a"}) + event(delta={"content": "ü"}, finish_reason="stop") + b"data: [DONE]\n\n"
        )
        for at in range(len(whole)):
            assert "".join(each["message"]["content"] for each in told(whole[:at], whole[at:])) == "aü"

    def test_an_end_without_a_word_is_no_end(self) -> None:
        assert told(event(delta={"content": "a"}))[-1] == {
            "error": "the engine ended its answer before it was finished"
        }

    def test_an_error_in_the_midst_of_a_stream_is_the_last_that_is_told(self) -> None:
        lines = told(event(delta={"content": "a"}), b'data: {"error": {"message": "out of memory"}}\n', event(delta={}))
        assert lines[-1] == {"error": "out of memory"}
        assert len(lines) == 2

    @pytest.mark.parametrize(
        "said", [b"data: {\n", b"data: 5\n", b'data: {"choices": 5}\n', b'data: {"choices": ["x"]}\n', b"x" * 5_000_000]
    )
    def test_garbage_is_named(self, said: bytes) -> None:
        with pytest.raises(Unreadable):
            OllamaAnswer("/api/chat", "m", streams=True).piece(said)

    @pytest.mark.parametrize("part", ["name", "arguments"])
    @pytest.mark.parametrize("calls", [1, 100])
    def test_calls_of_tools_do_not_grow_without_end(self, part: str, calls: int) -> None:
        calling = [{"index": number % calls, "function": {part: "x" * 50_000}} for number in range(200)]
        with pytest.raises(Unreadable, match="without end"):
            told(*(event(delta={"tool_calls": [each]}) for each in calling))

    @pytest.mark.parametrize("said", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [5]}', b'{"data": [{}]}'])
    @pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"])
    def test_documents_that_are_none_are_named(self, said: bytes, path: str) -> None:
        with pytest.raises(Unreadable):
            OllamaAnswer(path, "m", streams=False).document(200, said)

    @pytest.mark.parametrize(
        "said",
        [
            b'{"error": {"message": "too long"}}',
            b'{"object": "error", "message": "too long"}',
            b'{"error": "too long"}',
            b"too long",
        ],
    )
    def test_complaints_of_every_engine_are_understood(self, said: bytes) -> None:
        found = json.loads(OllamaAnswer("/api/chat", "m", streams=True).document(400, said))
        assert found == {"error": "too long"}
