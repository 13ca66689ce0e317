"""Whom Prometheus scrapes beside the service."""

from __future__ import annotations

from pathlib import Path

from provisioner.engines.registry import ENGINES
from provisioner.planning.prometheus_targets import target_groups
from tests.fleets import FLEET, SUM, fleet_from


def found(folder: Path, text: str) -> list[dict[str, object]]:
    fleet = fleet_from(folder, text)
    return target_groups(fleet, ENGINES, fleet.nodes.values())


def test_an_engine_with_figures_is_a_target_with_labels_that_take_nothing_from_its_own(tmp_path: Path) -> None:
    assert found(tmp_path, FLEET)[0] == {
        "targets": ["10.10.90.1:8080"],
        "labels": {
            "__metrics_path__": "/metrics",
            "gpu_node": "llm-gpu-01",
            "vmid": "5001",
            "hypervisor": "pve1",
            "engine": "llama.cpp",
            "mode": "small",
        },
    }


def test_an_engine_that_tells_figures_in_no_such_form_is_none(tmp_path: Path) -> None:
    text = FLEET.replace("engine: llama.cpp, model: gemma-2-2b-it.gguf", "engine: ollama, model: tiny")
    text = text.replace("engines:\n", f"engines:\n  ollama: {{source: ollama.tar.zst, sha256: {SUM}}}\n")
    assert found(tmp_path, text) == []


def test_an_engine_that_wants_a_key_for_its_figures_is_none(tmp_path: Path) -> None:
    text = FLEET.replace("llm-gpu-01: {", "llm-gpu-01: {api_key: env:KEY, ")
    assert [each["labels"]["gpu_node"] for each in found(tmp_path, text)] == ["llm-gpu-02"]  # type: ignore[index]


def test_without_nodes_there_is_an_empty_list(tmp_path: Path) -> None:
    assert target_groups(fleet_from(tmp_path), ENGINES, []) == []
