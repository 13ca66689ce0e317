"""The clients that people use, unchanged: the openai and ollama packages, and curl."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provisioner.domain.serving import Phase
from provisioner.errors import HypervisorError
from tests.gateway.engines import WORDS
from tests.gateway.site import TOKEN, NodeAt, Site, a_site, until

openai = pytest.importorskip("openai", reason="the openai package is not installed")
ollama = pytest.importorskip("ollama", reason="the ollama package is not installed")

SAID = "".join(WORDS)
HELLO = [{"role": "user", "content": "Say hello."}]
ASLEEP = {"llm-gpu-01": NodeAt(Phase.ASLEEP)}
OLLAMA_NODE = {"llm-gpu-01": NodeAt(modes="chat"), "llm-gpu-02": NodeAt()}


def an_openai(site: Site, path: str = "/v1") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=site.url + path, api_key=TOKEN, max_retries=0)


@contextlib.asynccontextmanager
async def an_ollama(site: Site) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=site.url + "/ollama", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        yield client
    finally:
        await client.close()


class TestOpenAi:
    @pytest.mark.parametrize("path", ["/v1", "/ollama/v1"])
    def test_chats_streams_embeds_and_lists(self, tmp_path: Path, path: str) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path) as site, an_openai(site, path) as client:
                chat = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
                assert chat.choices[0].message.content == SAID
                stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
                words = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
                assert words == list(WORDS)
                vectors = await client.embeddings.create(model="tiny", input="words", encoding_format="float")
                assert vectors.data[0].embedding == [0.5, 0.25]
                listed = [model.id async for model in client.models.list()]
                assert listed == ["gemma-2-2b-it.gguf", "gpt-4o-mini", "tiny"]
                assert (await client.models.retrieve("tiny")).id == "tiny"

        asyncio.run(scenario())

    def test_reads_over_the_signs_of_life_of_a_cold_start(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, ASLEEP) as site, an_openai(site) as client:
                site.power.may_answer.clear()
                asyncio.get_running_loop().call_later(0.8, site.power.may_answer.set)
                stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
                assert [chunk.choices[0].delta.content async for chunk in stream if chunk.choices] == list(WORDS)

        asyncio.run(scenario())

    def test_raises_what_went_wrong(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, ASLEEP) as site, an_openai(site) as client:
                with pytest.raises(openai.NotFoundError, match="use one of: gemma"):
                    await client.chat.completions.create(model="gpt-9", messages=HELLO)
                wrong = openai.AsyncOpenAI(base_url=site.url + "/v1", api_key="wrong", max_retries=0)
                with pytest.raises(openai.AuthenticationError):
                    await wrong.models.list()
                await wrong.close()
                error = HypervisorError("cannot start the VM: no space left", subject="vm 5001", next_step="make room")
                site.power.fails_with[site.gateway.table.offers[0].node] = error
                site.power.may_answer.clear()
                asyncio.get_running_loop().call_later(0.5, site.power.may_answer.set)
                stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
                with pytest.raises(openai.APIError, match="no space left"):
                    [chunk async for chunk in stream]

        asyncio.run(scenario())

    def test_listing_shows_sleeping_models_and_wakes_nobody(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, ASLEEP) as site, an_openai(site) as client:
                listed = await client.models.list()
                assert listed.data[0].model_extra["provisioner"] == {
                    "model": "gemma-2-2b-it.gguf",
                    "state": "sleeping",
                    "nodes": {"llm-gpu-01": "asleep"},
                }
                assert site.power.starts == []
                assert not site.flight.all()
                assert site.engines["llm-gpu-01"].looks == 0

        asyncio.run(scenario())


class TestOllama:
    def test_chats_streams_generates_and_lists(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, OLLAMA_NODE) as site, an_ollama(site) as client:
                chat = await client.chat(model="llama3.1:8b", messages=HELLO)
                assert chat.message.content == SAID
                stream = await client.chat(model="mistral", messages=HELLO, stream=True)
                assert "".join([part.message.content or "" async for part in stream]) == SAID
                # Whichever engine serves it, each may be asked for here.
                known = ["gemma-2-2b-it.gguf", "llama3.1:8b", "mistral:latest", "gpt-4o-mini", "tiny"]
                assert [model.model for model in (await client.list()).models] == known
                assert [model.model for model in (await client.ps()).models] == known
                assert (await client.show("mistral")).capabilities == ["completion"]

        asyncio.run(scenario())

    def test_reads_over_the_blanks_of_a_cold_start(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            asleep = {"llm-gpu-01": NodeAt(Phase.ASLEEP, modes="chat")}
            async with a_site(tmp_path, asleep) as site, an_ollama(site) as client:
                assert (await client.ps()).models == []
                site.power.may_answer.clear()
                asyncio.get_running_loop().call_later(0.8, site.power.may_answer.set)
                stream = await client.chat(model="mistral", messages=HELLO, stream=True)
                assert "".join([part.message.content or "" async for part in stream]) == SAID

        asyncio.run(scenario())

    def test_raises_what_went_wrong(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, OLLAMA_NODE) as site, an_ollama(site) as client:
                with pytest.raises(ollama.ResponseError, match="use one of"):
                    await client.chat(model="nothing", messages=HELLO)
                site.engines["llm-gpu-01"].breaks_after = 2
                with pytest.raises(ollama.ResponseError, match="broke off"):
                    [part async for part in await client.chat(model="mistral", messages=HELLO, stream=True)]

        asyncio.run(scenario())


class TestCurl:
    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    def test_streams_through_a_cold_start(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, ASLEEP) as site:
                site.power.may_answer.clear()
                process = await asyncio.create_subprocess_exec(
                    *("curl", "-sSN", "--max-time", "20", site.url + "/v1/chat/completions"),
                    *("-H", f"Authorization: Bearer {TOKEN}", "-H", "Expect: 100-continue"),
                    *("-d", json.dumps({"model": "tiny", "messages": HELLO, "stream": True})),
                    *("-H", "Content-Type: application/json"),
                    stdout=asyncio.subprocess.PIPE,
                )
                assert process.stdout is not None
                assert (await process.stdout.readline()).startswith(b": llm-gpu-01 is ")
                site.power.may_answer.set()
                rest = await process.stdout.read()
                assert await process.wait() == 0
                assert rest.endswith(b"data: [DONE]\n\n")
                # One that is stopped in the midst of a wait leaves no trace.
                site.power.be("llm-gpu-01", Phase.ASLEEP)
                site.power.may_start.clear()
                process = await asyncio.create_subprocess_exec(
                    *("curl", "-sS", site.url + "/v1/chat/completions", "-H", f"Authorization: Bearer {TOKEN}"),
                    *("-d", '{"model": "tiny"}', "-H", "Content-Type: application/json"),
                    stdout=asyncio.subprocess.DEVNULL,
                )
                await until(lambda: any(each.waiting for each in site.flight.all().values()))
                process.kill()
                await process.wait()
                await until(lambda: not any(each.is_busy for each in site.flight.all().values()))

        asyncio.run(scenario())
