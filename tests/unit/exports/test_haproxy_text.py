"""The configuration for HAProxy, as text; a real HAProxy reads it in tests/lab/test_serve_haproxy.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.service import read_listen_address
from provisioner.engines.registry import ENGINES
from provisioner.errors import RefusedError
from provisioner.exports.haproxy import HaproxyWishes, configuration
from tests.fleets import FLEET, SUM, fleet_from


def written(folder: Path, text: str = FLEET, listen: str = "127.0.0.1:8780") -> str:
    fleet = fleet_from(folder, text)
    return configuration(fleet, ENGINES, HaproxyWishes(read_listen_address(listen), fleet.service.listen))


def test_nodes_stand_before_the_gateway(tmp_path: Path) -> None:
    lines = written(tmp_path).splitlines()
    at = lines.index("backend model-gemma-2-2b-it.gguf")
    servers = [line.split()[1:] for line in lines[at:] if line.startswith("    server ")]
    assert servers[:3] == [
        ["llm-gpu-01", "10.10.90.1:8080", "check"],
        ["llm-gpu-02", "10.10.90.2:8080", "check"],
        ["gateway", "127.0.0.1:8700", "backup"],
    ]
    assert lines[-1] == "    server gateway 127.0.0.1:8700"


def test_a_node_whose_engine_has_a_key_is_left_to_the_gateway(tmp_path: Path) -> None:
    text = FLEET.replace("modes: [small], gateway", "modes: [small], api_key: env:KEY, gateway")
    config = written(tmp_path, text)
    assert "server llm-gpu-01" not in config
    assert "server llm-gpu-02" in config


def test_a_key_that_an_engine_does_not_ask_for_keeps_nobody_away(tmp_path: Path) -> None:
    text = FLEET.replace("defaults:\n", "defaults:\n  api_key: env:KEY\n")
    ollama = f"engines:\n  ollama: {{source: ollama.tar.zst, sha256: {SUM}}}\n"
    text = text.replace("engines:\n", ollama).replace(
        "modes:\n", "modes:\n  chat: {engine: ollama, models: [llama3.1:8b]}\n"
    )
    config = written(tmp_path, text.replace("modes: [small]}", "modes: [chat]}"))
    assert "server llm-gpu-01" not in config
    assert "server llm-gpu-02" in config


def test_only_tokens_that_may_use_models_come_in_and_none_is_written(tmp_path: Path) -> None:
    tokens = (
        "service: {tokens: {a: {secret: env:A_TOKEN, may: [route]}, b: {secret: file:b.token, may: [admin]}, "
        "c: {secret: env:C_TOKEN, may: [read]}}}\n"
    )
    config = written(tmp_path, FLEET + tokens, "0.0.0.0:8780")
    assert '-m str "${A_TOKEN}"' in config
    assert f'-m str -f "{tmp_path}/b.token"' in config
    assert "C_TOKEN" not in config
    assert "deny_status 401 unless knows_a_token" in config


def test_nobody_is_let_in_from_outside_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no token may use models"):
        written(tmp_path, listen="0.0.0.0:8780")
