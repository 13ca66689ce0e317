"""What a fleet file may say of the key that an engine's clients send, and how it travels."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from provisioner.adapters.ansible.variables import variables_text
from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.web.http_client import HttpClient
from provisioner.adapters.web.streaming import HttpStreams
from provisioner.domain.fleet import SecretReference, SecretSource
from provisioner.domain.names import NodeName
from provisioner.engines.registry import ENGINES
from provisioner.errors import EngineKeyError
from provisioner.services.engine_web import EngineKey, EngineStreams, EngineWeb
from tests.fleets import FLEET, SUM, fleet_from

NAME, OTHER = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")
OLLAMA = FLEET.replace("engine: llama.cpp, model", "engine: ollama, model").replace("llama.cpp:", "ollama:")


def test_a_node_names_its_own_or_gets_the_default(tmp_path: Path) -> None:
    text = FLEET.replace("  idle_after: 20m", "  idle_after: 20m\n  api_key: env:LLM_KEY")
    text = text.replace("modes: [small], gateway", "modes: [small], api_key: file:own.key, gateway")
    fleet = fleet_from(tmp_path, text)
    assert str(fleet.nodes[NAME].api_key) == f"file:{tmp_path / 'own.key'}"
    assert str(fleet.nodes[OTHER].api_key) == "env:LLM_KEY"
    assert fleet_from(tmp_path).nodes[NAME].api_key is None


def test_a_key_itself_never_stands_in_the_file_and_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError, match="env:NAME or file:PATH") as caught:
        fleet_from(tmp_path, FLEET.replace("modes: [small], gateway", "modes: [small], api_key: sk-secret, gateway"))
    assert "sk-secret" not in str(caught.value) + json.dumps(caught.value.as_dict())


def test_a_key_for_an_engine_that_asks_nobody_is_refused_on_the_node_and_idle_as_a_default(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError, match="runs ollama, which asks nobody for a key") as caught:
        fleet_from(tmp_path, OLLAMA.replace("modes: [small], gateway", "modes: [small], api_key: env:LLM_KEY, gateway"))
    assert "a key is asked for by: llama.cpp, tgi, vllm" in str(caught.value)
    fleet_from(tmp_path, OLLAMA.replace("  idle_after: 20m", "  idle_after: 20m\n  api_key: env:LLM_KEY"))


def test_exported_variables_hold_where_the_key_is_and_not_the_key(tmp_path: Path) -> None:
    reference = SecretReference(SecretSource.ENV, "LLM_KEY")
    secrets = {"OPENAI_API_KEYS": [reference, "none"]}
    text = variables_text({"engine_launches": [{"unit": "x", "sha": SUM, "secrets": secrets}]})
    (found,) = yaml.safe_load(text)["engine_launches"]
    assert found["secrets"]["OPENAI_API_KEYS"] == ["{{ lookup('ansible.builtin.env', 'LLM_KEY') | trim }}", "none"]


@contextmanager
def engine(key: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """An HTTP server that asks for a key everywhere but at its health, as llama.cpp's does; and what it was sent."""
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent = self.headers.get("Authorization", "")
            seen.append((self.path, sent))
            self.send_response(200 if self.path == "/health" or sent == f"Bearer {key}" else 401)
            self.end_headers()
            self.wfile.write(b"data: one\n")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", seen
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def ask_everything(web: EngineWeb, streams: EngineStreams, address: str) -> list[str]:
    """Ask in every way that there is; return what came back, or the words of the refusal."""

    def stream() -> str:
        with streams.open(f"{address}/v1/chat/completions", {}, seconds=5) as lines:
            return "".join(lines)

    told = []
    for ask in (
        lambda: web.get(f"{address}/v1/models", seconds=5).text,
        lambda: web.post_json(f"{address}/v1/chat/completions", {}, seconds=5).text,
        lambda: web.send("POST", f"{address}/v1/load", None, seconds=5).text,
        lambda: "".join(web.lines("POST", f"{address}/v1/pull", {}, silence_seconds=5)),
        stream,
    ):
        try:
            told.append(ask().strip())
        except EngineKeyError as refused:
            told.append(refused.summary)
    return told


def test_every_way_to_an_engine_sends_the_key_and_names_its_refusal(tmp_path: Path) -> None:
    text = FLEET.replace("  idle_after: 20m", "  idle_after: 20m\n  api_key: env:LLM_KEY")
    node = fleet_from(tmp_path, text).nodes[NAME]
    keys = {"LLM_KEY": "right"}
    key = EngineKey(node, ENGINES["llama.cpp"], lambda reference: keys[reference.name])
    web, streams = EngineWeb(HttpClient(), key), EngineStreams(HttpStreams(), key)
    with engine("right") as (address, seen):
        assert web.get(f"{address}/health", seconds=5).status == 200
        assert seen == [("/health", "")]
        assert ask_everything(web, streams, address) == ["data: one"] * 5
        keys["LLM_KEY"] = "wrong"
        told = ask_everything(web, streams, address)
    assert len([each for each in told if "HTTP 401" in each and "not the one in env:LLM_KEY" in each]) == 5, told
    assert "wrong" not in "".join(told)
