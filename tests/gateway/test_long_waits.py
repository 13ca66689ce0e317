"""Clients that want their answer in one piece while a node wakes: kept patient by blanks, whoever they are."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest

from provisioner.domain.ledger import Outcome
from provisioner.domain.serving import Phase
from provisioner.errors import HypervisorError
from tests.gateway.engines import WORDS
from tests.gateway.site import QUICK, TOKEN, NodeAt, Site, a_site, until

SAID = "".join(WORDS)
HELLO = [{"role": "user", "content": "Say hello."}]
ASLEEP = {"llm-gpu-01": NodeAt(Phase.ASLEEP)}
BRIEF = replace(QUICK, document_seconds=0.2)
HEADS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
BODY = json.dumps({"model": "tiny", "messages": HELLO})
PATH = "/v1/chat/completions"
NO_SPACE = HypervisorError("cannot start the VM: no space left", subject="vm 5001", next_step="make room")


@contextlib.asynccontextmanager
async def a_cold_start(folder: Path, seconds: float = 0.8, *, modes: str = "small") -> AsyncIterator[Site]:
    """Run a site whose one node takes so long to wake, counted from the first who waits."""
    async with a_site(folder, {"llm-gpu-01": NodeAt(Phase.ASLEEP, modes=modes)}, limits=BRIEF) as site:
        site.power.may_answer.clear()

        async def wake() -> None:
            await until(lambda: site.power.starts)
            await asyncio.sleep(seconds)
            site.power.may_answer.set()

        waking = asyncio.create_task(wake())
        try:
            yield site
        finally:
            waking.cancel()


async def program(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode or 0, said.decode()


def ask_by_http_client(url: str) -> tuple[int, str]:
    """Ask as requests and urllib do, without any patience: it may be silent for no longer than a moment."""
    place = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(place.netloc, timeout=0.5)) as connection:
        connection.request("POST", PATH, BODY, HEADS)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


class TestPatience:
    def test_openais_client_reads_over_the_blanks(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                client = openai.AsyncOpenAI(base_url=site.url + "/v1", api_key=TOKEN, max_retries=0, timeout=0.5)
                async with client:
                    chat = await client.chat.completions.create(model="tiny", messages=HELLO)
                assert chat.choices[0].message.content == SAID
            (entry,) = site.ledger.entries
            assert (entry.outcome, entry.woke, entry.tokens_out) == (Outcome.ANSWERED, True, len(WORDS))

        asyncio.run(scenario())

    def test_ollamas_client_reads_over_the_blanks(self, tmp_path: Path) -> None:
        ollama = pytest.importorskip("ollama", reason="the ollama package is not installed")

        async def scenario() -> None:
            async with a_cold_start(tmp_path, modes="chat") as site:
                client = ollama.AsyncClient(
                    host=site.url + "/ollama", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=0.5
                )
                try:
                    chat = await client.chat(model="mistral", messages=HELLO)
                finally:
                    await client.close()
                assert chat.message.content == SAID

        asyncio.run(scenario())

    def test_pythons_own_client_reads_over_the_blanks(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                status, said = await asyncio.to_thread(ask_by_http_client, site.url)
                assert (status, said[:2]) == (200, "  ")
                assert json.loads(said)["choices"][0]["message"]["content"] == SAID

        asyncio.run(scenario())

    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    def test_curl_prints_json(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                heads = [word for name, value in HEADS.items() for word in ("-H", f"{name}: {value}")]
                code, said = await program("curl", "-sS", site.url + PATH, *heads, "-d", BODY)
                assert (code, json.loads(said)["object"]) == (0, "chat.completion")

        asyncio.run(scenario())

    @pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
    @pytest.mark.parametrize("way", ["fetch", "http"])
    def test_nodes_clients_read_over_the_blanks(self, tmp_path: Path, way: str) -> None:
        scripts = {
            "fetch": """
                fetch(url, {method: "POST", headers, body}).then(answer => answer.json()).then(told, failed);
            """,
            # What axios stands on, and with it n8n.
            "http": """
                const asked = require("http").request(url, {method: "POST", headers, timeout: 500}, answer => {
                  let text = "";
                  answer.on("data", piece => text += piece).on("end", () => told(JSON.parse(text)));
                });
                asked.on("timeout", () => failed("silent for too long")).on("error", failed).end(body);
            """,
        }

        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                given = f"const url = {json.dumps(site.url + PATH)}, headers = {json.dumps(HEADS)}, "
                given += f"body = {json.dumps(BODY)};\n"
                given += "const told = it => { console.log(it.choices[0].message.content); process.exit(0) };\n"
                given += "const failed = it => { console.log(String(it)); process.exit(1) };\n"
                assert await program("node", "-e", given + scripts[way]) == (0, SAID + "\n")

        asyncio.run(scenario())

    def test_a_proxy_that_gives_up_after_a_silence_does_not(self, tmp_path: Path) -> None:
        if shutil.which("nginx") is None:
            pytest.skip("nginx is not installed")

        async def scenario() -> None:
            async with (
                a_cold_start(tmp_path, 2.5) as site,
                an_nginx(tmp_path, site.url, 1) as url,
                site.http.post(url + PATH, json=json.loads(BODY)) as answer,
            ):
                assert answer.status == 200
                assert json.loads(await answer.read())["choices"][0]["message"]["content"] == SAID

        asyncio.run(scenario())


class TestWhatIsKept:
    def test_an_answer_that_comes_in_time_begins_with_itself(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, limits=BRIEF) as site, site.http.post(**site.ask()) as answer:
                assert (await answer.read())[:1] == b"{"
                assert "Content-Length" in answer.headers
                assert answer.headers["X-Provisioner-Node"] == "llm-gpu-01"

        asyncio.run(scenario())

    def test_what_goes_wrong_in_time_has_its_status(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, ASLEEP, limits=BRIEF) as site:
                site.power.fails_with[site.gateway.table.offers[0].node] = NO_SPACE
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 503
                    assert "no space left" in (await answer.json())["error"]["message"]

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        ("path", "more"), [("/v1/audio/speech", {}), ("/v1/audio/transcriptions", {}), ("/v1/anything/else", {})]
    )
    def test_what_need_not_be_json_is_waited_for_in_silence(
        self, tmp_path: Path, path: str, more: dict[str, object]
    ) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site, site.http.post(**site.ask(path=path, **more)) as answer:
                assert answer.status == 200
                assert (await answer.read())[:1] == b"{"

        asyncio.run(scenario())

    def test_a_client_of_an_older_http_is_answered_in_one_piece(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                place = urlsplit(site.url)
                reader, writer = await asyncio.open_connection(place.hostname, place.port)
                heads = "".join(f"{name}: {value}\r\n" for name, value in HEADS.items())
                writer.write(f"POST {PATH} HTTP/1.0\r\n{heads}Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode())
                head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
                writer.close()
                assert b"chunked" not in head.lower()
                assert json.loads(body)["object"] == "chat.completion"

        asyncio.run(scenario())

    def test_who_leaves_while_blanks_come_is_noticed(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, ASLEEP, limits=BRIEF) as site:
                site.power.may_start.clear()
                async with site.http.post(**site.ask()) as answer:
                    assert await answer.content.readexactly(1) == b" "
                    answer.close()
                await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.LEFT])
                site.power.may_start.set()
                await until(lambda: site.power.nodes[site.gateway.table.offers[0].node].phase is Phase.ASLEEP)
                assert site.power.starts == []

        asyncio.run(scenario())


def _wake_fails(site: Site) -> None:
    site.power.fails_with[site.gateway.table.offers[0].node] = NO_SPACE


def _engine_refuses(site: Site) -> None:
    site.engines["llm-gpu-01"].status = 400


class TestWhatGoesWrongLate:
    """The status is out; no client may take the answer for a good one, and whoever asks again is told why."""

    @pytest.mark.parametrize(("spoil", "why"), [(_wake_fails, "no space left"), (_engine_refuses, "it says 400")])
    def test_the_answer_says_why_and_does_not_end(
        self, tmp_path: Path, spoil: Callable[[Site], None], why: str
    ) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                spoil(site)
                async with site.http.post(**site.ask()) as answer:
                    assert answer.status == 200
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await answer.read()
                assert site.ledger.entries[-1].outcome is Outcome.FAILED
                site.power.may_answer.set()
                async with site.http.post(**site.ask()) as again:
                    assert again.status in (400, 503)
                    assert why in await again.text()

        asyncio.run(scenario())

    def test_openais_client_asks_again_by_itself_and_raises_the_reason(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                _wake_fails(site)
                async with openai.AsyncOpenAI(base_url=site.url + "/v1", api_key=TOKEN, max_retries=1) as client:
                    with pytest.raises(openai.InternalServerError, match="no space left"):
                        await client.chat.completions.create(model="tiny", messages=HELLO)

        asyncio.run(scenario())

    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    def test_a_person_at_curl_reads_why(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_cold_start(tmp_path) as site:
                _wake_fails(site)
                heads = [word for name, value in HEADS.items() for word in ("-H", f"{name}: {value}")]
                code, said = await program("curl", "-sSN", site.url + PATH, *heads, "-d", BODY)
                assert code == 18, "curl's word for an answer that broke off"
                assert "no space left" in said

        asyncio.run(scenario())

    def test_the_end_of_the_service_breaks_it_off(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with a_site(tmp_path, ASLEEP, limits=BRIEF) as site:
                site.power.may_answer.clear()
                async with site.http.post(**site.ask()) as answer:
                    await answer.content.readexactly(1)
                    (serving,) = [task for task in asyncio.all_tasks() if "run_asgi" in repr(task)]
                    serving.cancel()
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await answer.read()
                assert site.ledger.entries[-1].outcome is Outcome.FAILED
                site.power.may_answer.set()

        asyncio.run(scenario())


_NGINX = """\
user root; daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass {url}; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout {silence}s;
    }}
  }}
}}
"""


@contextlib.asynccontextmanager
async def an_nginx(folder: Path, url: str, silence: int) -> AsyncIterator[str]:
    """Run nginx before a gateway, as it comes but for its patience (seconds)."""
    with contextlib.closing(await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)) as free:
        port = free.sockets[0].getsockname()[1]
    settings = folder / "nginx.conf"
    settings.write_text(_NGINX.format(folder=folder, port=port, url=url, silence=silence))
    process = await asyncio.create_subprocess_exec("nginx", "-c", str(settings), stderr=asyncio.subprocess.DEVNULL)
    try:

        def listens() -> bool:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
                try:
                    connection.connect()
                except OSError:
                    return False
            return True

        await until(listens)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
