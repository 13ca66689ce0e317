"""What a plan lays down for a node's modes, and what it refuses: engines, flags, GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.actions import CheckArguments, PullModels, Refusal, RunPlaybook, StepKind
from provisioner.domain.fleet import FleetSpec, NodeSpec, SecretReference, SecretSource
from provisioner.domain.mode import ArgumentValue, EngineSpec, WebUiSpec
from provisioner.domain.model_keeping import ModelKeeping
from provisioner.domain.names import EngineName, MappingId, ModeName, NodeName
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import MappingSeen
from provisioner.engines.base import Span
from provisioner.engines.registry import ENGINES
from provisioner.engines.vllm import refusal_of_span
from provisioner.planning.card_makers import cards_of_another_maker
from provisioner.planning.compute import compute_of
from provisioner.planning.engine_steps import engine_steps
from provisioner.planning.launches import setting_of, unit_of, units_of
from provisioner.planning.mode_judgement import engine_refusal
from provisioner.services.playbook_secrets import with_secrets
from tests.fleets import FLEET, SUM, fleet_from

ENGINE_LINES = f"""\
  vllm: {{version: VLLM}}
  ollama: {{source: https://example.org/ollama-linux-amd64.tar.zst, sha256: {SUM}}}
  tgi: {{image: "ghcr.io/huggingface/text-generation-inference:3.3.5@sha256:{SUM}"}}
  llama.cpp: {{source: "https://example.org/llama-b10884-bin-ubuntu-cuda-13.4-x64.tar.gz", sha256: {SUM}}}
"""
MODE_LINES = """\
  ml: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct, context: 8192}
  fast: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct, context: 8192, arguments: {tp: 1}}
  short: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct-AWQ, context: 8192, arguments: {q: awq}}
  removed: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct, arguments: {swap-space: 4}}
  foreign: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct, arguments: {max-total-tokens: 4096}}
  chat: {engine: ollama, models: ["llama3.1:8b", "mistral:7b"], context: 4096}
  talk: {engine: ollama, model: "mistral:7b", context: 4096}
  rare: {engine: ollama, models: ["qwen2.5:7b", "phi3:mini"], pinned: ["phi3:mini"], pull: demand}
  wide: {engine: ollama, model: "mistral:7b", context: 8192}
  tgi: {engine: tgi, model: tiiuae/falcon-7b}
  cloudy: {engine: ollama, model: "mistral:7b", arguments: {OLLAMA_NO_CLOUD: "0"}}
  loud: {engine: ollama, model: "mistral:7b", arguments: {OLLAMA_DEBUG: 1}}
  layered: {engine: llama.cpp, model: gemma-2-2b-it.gguf, gpu_layers: 20}
  silent: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct, arguments: {disable-log-stats: true}}
  sleepy: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct, arguments: {enable-sleep-mode: true}}
"""
KEY = SecretReference(SecretSource.ENV, "LLM_KEY")
CARDS = {"v100": "10de:1db4", "t4": "10de:1eb8", "rtx3090": "10de:2204", "amd": "1002:744c"}


def fleet_with(
    folder: Path, *modes: str, gpus: str = "rtx3090", vllm: str = "0.33.0", driver: str = "auto"
) -> tuple[FleetSpec, NodeSpec]:
    text = FLEET.replace(f"  llama.cpp: {{source: llama.tar.gz, sha256: {SUM}}}\n", ENGINE_LINES.replace("VLLM", vllm))
    text = text.replace("modes:\n", f"modes:\n{MODE_LINES}", 1)
    text = text.replace(
        "gpus: [rtx3090], modes: [small], gateway", f"gpus: [{gpus}], modes: [{', '.join(modes)}], gateway"
    )
    slots = "".join(
        f"      {name}: {{mapping: {name}, vram: 24GiB, driver: {driver}}}\n"
        for name in (*CARDS, "second", "third", "fourth")
    )
    text = text.replace("      rtx3090: {mapping: rtx3090, vram: 24GiB}\n", slots)
    fleet = fleet_from(folder, text)
    return fleet, fleet.nodes[NodeName("llm-gpu-01")]


def mapping(name: str, *ids: str) -> MappingSeen:
    return MappingSeen(MappingId(name), (), tuple(f"node=pve1,path=0000:01:00,id={each}" for each in ids))


class TestSteps:
    """One step for each engine."""

    def test_the_engine_of_the_mode_it_is_in_comes_last(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "ml", "chat", "talk")
        for current, order in (
            ("ml", ["configure ollama", "configure vllm"]),
            ("chat", ["configure vllm", "configure ollama"]),
        ):
            steps = engine_steps(fleet, fleet.in_mode(node, ModeName(current)), ENGINES, StepKind.CHANGE)
            assert [step.name for step in steps if step.name != "pull"] == order

    def test_only_one_unit_of_one_engine_is_to_run(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "ml", "chat", "talk")
        ollama, vllm = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        assert isinstance(ollama.action, RunPlaybook)
        assert isinstance(vllm.action, RunPlaybook)
        assert (ollama.action.variables["engine_active"], vllm.action.variables["engine_active"]) == ("", "ml")

    def test_modes_started_alike_share_a_unit_named_after_the_first(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "chat", "ml", "talk", "wide")
        assert [unit.name for unit in units_of(fleet, node, ENGINES)] == ["chat", "ml", "wide"]
        assert unit_of(fleet, fleet.in_mode(node, ModeName("talk")), ENGINES).service == "llm-chat.service"

    def test_every_unit_conflicts_with_all_others_of_the_node(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "chat", "ml", "wide")
        steps = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        laid_down = [step.action.variables for step in steps if isinstance(step.action, RunPlaybook)]
        launches = [each for variables in laid_down for each in variables["engine_launches"]]  # type: ignore[attr-defined]
        assert {each["unit"]: set(each["conflicts"]) for each in launches} == {
            "chat": {"ml", "wide"},
            "ml": {"chat", "wide"},
            "wide": {"chat", "ml"},
        }

    def test_all_models_of_all_modes_are_fetched(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "ml", "chat", "talk")
        ollama, _ = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        assert ollama.action.variables["engine_pulls"] == ["llama3.1:8b", "mistral:7b"]  # type: ignore[union-attr]

    def test_what_is_rarely_used_is_not_fetched_before_it_is_asked_for_but_for_what_is_pinned(
        self, tmp_path: Path
    ) -> None:
        fleet, node = fleet_with(tmp_path, "chat", "rare")
        *_, pull = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        assert isinstance(pull.action, PullModels)
        assert pull.action.models == ("llama3.1:8b", "mistral:7b", "phi3:mini")

    def test_room_is_made_before_anything_is_fetched_where_models_have_a_budget(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "chat", "rare")
        node = replace(node, models=ModelKeeping(budget_bytes=40 * GIB))
        laid, pull = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        # The playbook makes no room, so it fetches nothing.
        assert laid.action.variables["engine_pulls"] == []  # type: ignore[union-attr]
        assert isinstance(pull.action, PullModels)
        assert "models take at most 40GiB" in pull.reason
        fleet, node = fleet_with(tmp_path, "layered")
        *_, only = engine_steps(
            fleet, replace(node, models=ModelKeeping(budget_bytes=40 * GIB)), ENGINES, StepKind.ENSURE
        )
        assert (only.name, only.action) == ("models", PullModels((), node.patience.engine_seconds))

    @pytest.mark.parametrize(
        ("gpus", "words"),
        [
            ("rtx3090", []),
            ("rtx3090, second", ["--tensor-parallel-size", "2"]),
            ("rtx3090, second, third", ["--pipeline-parallel-size", "3"]),
            ("rtx3090, second, third, fourth", ["--tensor-parallel-size", "4"]),
        ],
    )
    def test_more_gpus_change_how_it_is_started(self, tmp_path: Path, gpus: str, words: list[str]) -> None:
        fleet, node = fleet_with(tmp_path, "ml", gpus=gpus)
        argv = list(unit_of(fleet, node, ENGINES).launch.argv)
        at = next((i for i, word in enumerate(argv) if "parallel-size" in word), len(argv))
        assert argv[at:] == words
        (step,) = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        assert (f"on {len(node.gpus)} GPUs" in step.reason) == (len(node.gpus) > 1)

    @pytest.mark.parametrize(
        ("gpus", "arguments", "words"),
        [
            (3, {"tp": 3}, {"tensor-parallel-size": "3"}),
            (2, {"pipeline-parallel-size": 2}, {"pipeline-parallel-size": "2"}),
            (4, {"tp": 2}, {"tensor-parallel-size": "2", "pipeline-parallel-size": "2"}),
            (4, {"pp": 2}, {"tensor-parallel-size": "2", "pipeline-parallel-size": "2"}),
            (4, {"dp": 2}, {"tensor-parallel-size": "2", "data-parallel-size": "2"}),
            (3, {"tp": 2}, {"tensor-parallel-size": "2"}),
            (2, {"tp": 1, "pp": 1}, {"tensor-parallel-size": "1", "pipeline-parallel-size": "1"}),
        ],
        ids=str,
    )
    def test_a_mode_that_divides_by_itself_gets_the_rest(
        self, tmp_path: Path, gpus: int, arguments: dict[str, ArgumentValue], words: dict[str, str]
    ) -> None:
        names = ["rtx3090", "second", "third", "fourth"][:gpus]
        fleet, node = fleet_with(tmp_path, "ml", gpus=", ".join(names))
        mode = replace(fleet.modes[ModeName("ml")], arguments=arguments)
        argv = unit_of(replace(fleet, modes={**fleet.modes, mode.name: mode}), node, ENGINES).launch.argv
        said = dict(pairwise(argv))
        assert {name[2:]: size for name, size in said.items() if name.endswith("parallel-size")} == words

    def test_a_short_flag_takes_the_place_of_our_own_word(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "fast", gpus="rtx3090, second")
        argv = list(unit_of(fleet, node, ENGINES).launch.argv)
        assert argv.count("--tensor-parallel-size") == 1
        assert argv[argv.index("--tensor-parallel-size") + 1] == "1"
        assert "--tp" not in argv

    def test_engines_are_asked_about_the_arguments_of_their_modes_before_models_are_pulled(
        self, tmp_path: Path
    ) -> None:
        fleet, node = fleet_with(tmp_path, "loud", "fast", "tgi", "ml")
        *_, pull = steps = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        assert [step.name for step in steps if step.name.startswith("arguments")] == [
            "arguments vllm",
            "arguments ollama",
        ]
        assert pull.name == "pull"
        asked = [step.action for step in steps if isinstance(step.action, CheckArguments)]
        assert [each.command for each in asked] == [
            ("/opt/llm/vllm/0.33.0/bin/vllm", "serve", "--help=all"),
            (f"/opt/llm/ollama/{SUM[:12]}/bin/ollama", "serve", "--help"),
        ]
        assert [dict(each.arguments) for each in asked] == [{"fast": {"tp": 1}}, {"loud": {"OLLAMA_DEBUG": 1}}]

    def test_an_old_gpu_is_told_to_compute_in_float16(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "ml", gpus="v100", vllm="0.10.2")
        (step,) = engine_steps(fleet, node, ENGINES, StepKind.CHANGE, (7, 0))
        argv = step.action.variables["engine_launches"][0]["argv"]  # type: ignore[union-attr, index]
        assert argv[argv.index("--dtype") + 1] == "half"


@dataclass(frozen=True)
class Row:
    """A mode on a GPU, and the words of the refusal; none for a plan that stands."""

    mode: str
    gpus: str
    reason: str = ""
    next_step: str = ""
    vllm: str = "0.33.0"
    compute: tuple[int, int] | None = None
    driver: str = "auto"


REFUSALS = {
    "a card of today": Row("ml", "rtx3090", compute=(8, 6)),
    "an unknown card": Row("ml", "rtx3090"),
    "a V100 with a vLLM of today": Row(
        "ml", "v100", "holds no code for compute capability 7.0", "older version", compute=(7, 0)
    ),
    "a V100 with the last that works": Row("ml", "v100", vllm="0.10.2", compute=(7, 0)),
    "a V100 with one that is reported not to": Row("ml", "v100", vllm="0.19.1", compute=(7, 0)),
    "a V100 with TGI": Row("tgi", "v100", "holds no code for compute capability 7.0", compute=(7, 0)),
    "a V100 with a build for CUDA 13": Row("small", "v100", "CUDA 13 holds no code", compute=(7, 0)),
    "a driver that its CUDA is too new for": Row(
        "ml",
        "rtx3090",
        "vLLM 0.33.0 needs NVIDIA driver 580 or later; this is 535",
        "driver: auto",
        driver="535-server",
    ),
    "an older vLLM with that driver": Row("ml", "rtx3090", vllm="0.19.1", driver="535-server"),
    "a driver that somebody else brings": Row("ml", "rtx3090", driver="none"),
    "a quantisation by its short name": Row(
        "short", "v100", "quantisation awq of vLLM 0.10.2 needs compute capability 7.5", vllm="0.10.2", compute=(7, 0)
    ),
    "a flag that is gone": Row("removed", "rtx3090", "has no --swap-space", "swap-space: "),
    "another engine's flag": Row("foreign", "rtx3090", "no flag of vLLM but of TGI", "context"),
    "no GPU for vLLM": Row("ml", "", "the node has none", "ollama or llama.cpp"),
    "sleep that opens the engine to all": Row("sleepy", "rtx3090", "loopback", "tunnel"),
    "silence about its use": Row("silent", "rtx3090", "never sleeps", "take disable-log-stats out"),
    "a second mode that cannot run": Row("chat, removed", "rtx3090", 'mode "removed" cannot run on it'),
}


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_run_is_refused_at_plan(tmp_path: Path, row: Row) -> None:
    fleet, node = fleet_with(
        tmp_path, *row.mode.split(", "), gpus=row.gpus or "rtx3090", vllm=row.vllm, driver=row.driver
    )
    if not row.gpus:
        node = replace(node, gpus=())
    found = engine_refusal(fleet, node, ENGINES, row.compute)
    if not row.reason:
        assert found is None
        return
    assert isinstance(found, Refusal)
    assert row.reason in found.reason
    assert row.next_step in found.next_step


@dataclass(frozen=True)
class OldEngine:
    """A mode whose engine is pinned to a version, and what is said of how we start it."""

    mode: str
    pin: tuple[str, str]
    reason: str = ""
    next_step: str = ""
    caution: str = ""


OLD_ENGINES = {
    "an Ollama without contexts": OldEngine(
        "talk", ("ollama", "0.5.12"), "Ollama 0.5.12 has no OLLAMA_CONTEXT_LENGTH yet", "pin Ollama 0.5.13 or later"
    ),
    "an Ollama that asks its cloud": OldEngine(
        "talk", ("ollama", "0.15.6"), "has no OLLAMA_NO_CLOUD yet", "pin Ollama 0.16.2 or later"
    ),
    "an Ollama that takes all": OldEngine("talk", ("ollama", "0.16.2")),
    "an Ollama of no known version": OldEngine("talk", ("ollama", "")),
    "a variable that the mode sets itself": OldEngine(
        "cloudy", ("ollama", "0.15.6"), "OLLAMA_NO_CLOUD yet: first seen in 0.16.2", "out of the arguments"
    ),
    "a TGI that sends statistics": OldEngine(
        "tgi", ("tgi", "2.2.0"), "TGI 2.2.0 has no --usage-stats yet", "pin TGI 2.3.0 or later"
    ),
    "a TGI that takes all": OldEngine("tgi", ("tgi", "2.3.0")),
    "a llama.cpp that wants a number of layers": OldEngine(
        "small", ("llama.cpp", "b4747"), "--gpu-layers of llama.cpp b4747 does not take all", "gpu_layers into the mode"
    ),
    "that number": OldEngine("layered", ("llama.cpp", "b4747")),
    "a llama.cpp that nobody looked into": OldEngine(
        "small", ("llama.cpp", "b9500"), caution="whether llama.cpp b9500 takes --gpu-layers all is not known"
    ),
    "a llama.cpp that takes all": OldEngine("small", ("llama.cpp", "b10884")),
}


@pytest.mark.parametrize("row", OLD_ENGINES.values(), ids=OLD_ENGINES.keys())
def test_a_version_that_cannot_be_started_as_we_do_is_refused_at_plan(tmp_path: Path, row: OldEngine) -> None:
    fleet, node = fleet_with(tmp_path, row.mode)
    name, version = EngineName(row.pin[0]), row.pin[1]
    fleet = replace(fleet, engines={**fleet.engines, name: replace(fleet.engines[name], version=version)})

    found = engine_refusal(fleet, node, ENGINES)

    if row.reason:
        assert isinstance(found, Refusal)
        assert row.reason in found.reason
        assert row.next_step in found.next_step
        return
    assert found is None
    (step, *_) = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
    assert row.caution in step.reason
    assert bool(row.caution) == ("not known" in step.reason)


def test_what_is_only_reported_is_said_beside_the_step(tmp_path: Path) -> None:
    fleet, node = fleet_with(tmp_path, "ml", gpus="v100", vllm="0.19.1")
    (step,) = engine_steps(fleet, node, ENGINES, StepKind.CHANGE, (7, 0))
    assert "reported not to work on compute capability 7.0" in step.reason


@pytest.mark.parametrize(
    ("gpus", "ids", "compute"),
    [
        ("rtx3090", {"rtx3090": ["10de:2204"]}, (8, 6)),
        ("rtx3090, v100", {"rtx3090": ["10de:2204"], "v100": ["10de:1db4"]}, (7, 0)),
        ("rtx3090", {"rtx3090": ["10de:2204", "10de:1eb8"]}, (7, 5)),
        ("amd", {"amd": ["1002:744c"]}, None),
        ("rtx3090", {}, None),
    ],
)
def test_the_oldest_card_decides_what_can_be_computed(
    tmp_path: Path, gpus: str, ids: dict[str, list[str]], compute: tuple[int, int] | None
) -> None:
    fleet, node = fleet_with(tmp_path, "ml", gpus=gpus)
    assert compute_of(fleet, node, {MappingId(name): mapping(name, *each) for name, each in ids.items()}) == compute


@pytest.mark.parametrize(
    ("mode", "driver", "ids", "reason"),
    [
        ("ml", "auto", ["1002:744c"], "vllm computes on NVIDIA's cards alone, and its GPU amd is AMD's (1002:744c)"),
        ("chat, tgi", "auto", ["1002:744c"], 'mode "tgi" cannot run on it: what is laid down of tgi computes on'),
        ("ml", "rocm", [], "driver: rocm is for AMD's"),
        ("ml", "auto", [], ""),
        ("ml", "auto", ["10de:2204"], ""),
        ("chat, small", "rocm", ["1002:744c"], ""),
    ],
)
def test_what_is_built_for_cuda_is_refused_on_another_makers_card(
    tmp_path: Path, mode: str, driver: str, ids: list[str], reason: str
) -> None:
    fleet, node = fleet_with(tmp_path, *mode.split(", "), gpus="amd", driver=driver)
    mappings = {MappingId("amd"): mapping("amd", *ids)} if ids else {}
    found = cards_of_another_maker(fleet, node, ENGINES, mappings)
    assert (found is None) is (reason == "")
    if found is not None:
        assert reason in found.reason
        assert "with ollama or llama.cpp" in found.next_step


class TestKeys:
    """What a plan says of engines that ask their clients for a key, and of those that do not."""

    def reasons(self, folder: Path, *modes: str) -> str:
        fleet, node = fleet_with(folder, *modes)
        steps = engine_steps(fleet, replace(node, api_key=KEY), ENGINES, StepKind.CHANGE)
        return "\n".join(step.reason for step in steps)

    def test_who_takes_none_is_named(self, tmp_path: Path) -> None:
        told = self.reasons(tmp_path, "ml", "chat")
        assert "Ollama takes no API key: whoever reaches port 11434 may use it" in told
        assert "vLLM asks for the API key under /v1 only" in told

    def test_tgi_does_not_log_its_arguments_then(self, tmp_path: Path) -> None:
        assert "who lists processes in the guest reads it" in self.reasons(tmp_path, "tgi")
        fleet, node = fleet_with(tmp_path, "tgi")
        (unit,) = units_of(fleet, replace(node, api_key=KEY), ENGINES)
        assert unit.launch.environment["LOG_LEVEL"] == "info,text_generation_launcher=warn"
        (unit,) = units_of(fleet, node, ENGINES)
        assert "LOG_LEVEL" not in unit.launch.environment

    def test_tgi_with_another_log_level_is_refused(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "tgi")
        loud = replace(fleet.modes[ModeName("tgi")], arguments={"LOG_LEVEL": "debug"})
        fleet = replace(fleet, modes={**fleet.modes, ModeName("tgi"): loud})
        assert engine_refusal(fleet, node, ENGINES) is None
        refusal = engine_refusal(fleet, replace(node, api_key=KEY), ENGINES)
        assert refusal is not None
        assert "take LOG_LEVEL out" in refusal.next_step


class TestPage:
    """Open WebUI in front of the engines."""

    def variables(self, folder: Path, *modes: str) -> dict[str, Any]:
        fleet, node = fleet_with(folder, *modes)
        node = replace(node, web_ui=WebUiSpec("0.12.4"))
        *_, step = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        assert step.name == "configure open-webui"
        assert isinstance(step.action, RunPlaybook)
        return dict(step.action.variables)

    def test_it_asks_every_engine_that_may_run(self, tmp_path: Path) -> None:
        variables = self.variables(tmp_path, "chat", "ml", "tgi")
        environment = variables["engine_launches"][0]["environment"]
        assert environment["OLLAMA_BASE_URL"] == "http://127.0.0.1:11434"
        assert environment["OPENAI_API_BASE_URLS"] == "http://127.0.0.1:8000/v1;http://127.0.0.1:3000/v1"
        assert environment["OPENAI_API_KEYS"].count(";") == 1
        assert variables["engine_packages"] == ["open-webui==0.12.4"]

    def test_without_an_ollama_it_looks_for_none(self, tmp_path: Path) -> None:
        environment = self.variables(tmp_path, "ml")["engine_launches"][0]["environment"]
        assert environment["ENABLE_OLLAMA_API"] == "False"
        assert "OLLAMA_BASE_URL" not in environment

    def test_without_an_openai_engine_it_asks_no_provider(self, tmp_path: Path) -> None:
        environment = self.variables(tmp_path, "chat")["engine_launches"][0]["environment"]
        assert (environment["ENABLE_OPENAI_API"], "OPENAI_API_BASE_URLS" in environment) == ("False", False)

    def test_a_change_of_its_settings_takes_effect(self, tmp_path: Path) -> None:
        environment = self.variables(tmp_path, "chat")["engine_launches"][0]["environment"]
        assert environment["ENABLE_PERSISTENT_CONFIG"] == "False"

    def test_the_nodes_key_is_handed_to_it_as_a_secret_for_those_that_ask(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "chat", "ml", "tgi")
        node = replace(node, web_ui=WebUiSpec("0.12.4"), api_key=KEY)
        *_, step = engine_steps(fleet, node, ENGINES, StepKind.CHANGE)
        assert isinstance(step.action, RunPlaybook)
        launch = dict(step.action.variables)["engine_launches"][0]  # type: ignore[index]
        assert launch["secrets"] == {"OPENAI_API_KEYS": [KEY, KEY]}
        assert "OPENAI_API_KEYS" not in launch["environment"]
        given = with_secrets(step.action.variables, lambda reference: "sk-x")
        assert given["engine_launches"][0]["secrets"] == {"OPENAI_API_KEYS": ["sk-x", "sk-x"]}  # type: ignore[index]

    def test_it_stops_no_engine(self, tmp_path: Path) -> None:
        assert self.variables(tmp_path, "chat", "ml")["engine_launches"][0]["conflicts"] == []


class TestSeveralNodes:
    """One model on several nodes: what each of them is told."""

    def launches(self, folder: Path, *, with_ray: bool) -> list[list[str]]:
        fleet, node = fleet_with(folder, "ml", gpus="rtx3090, second")
        setting = setting_of(fleet, node, fleet.mode_of(node))
        addresses = ("10.10.90.1", "10.10.90.2")
        spans = [Span(addresses, rank, 29500, with_ray) for rank in range(2)]
        return [list(ENGINES[EngineName("vllm")].launch(replace(setting, span=span)).argv) for span in spans]

    def test_the_head_serves_and_the_others_follow(self, tmp_path: Path) -> None:
        head, other = self.launches(tmp_path, with_ray=False)
        for rank, argv in enumerate((head, other)):
            assert argv[argv.index("--nnodes") + 1] == "2"
            assert argv[argv.index("--node-rank") + 1] == str(rank)
            assert argv[argv.index("--master-addr") + 1] == "10.10.90.1"
            assert argv[argv.index("--tensor-parallel-size") + 1] == "2"
            assert argv[argv.index("--pipeline-parallel-size") + 1] == "2"
        assert ("--headless" in head, "--headless" in other) == (False, True)

    def test_with_ray_the_others_only_join(self, tmp_path: Path) -> None:
        head, other = self.launches(tmp_path, with_ray=True)
        assert head[head.index("--distributed-executor-backend") + 1] == "ray"
        assert other[:2] == ["{folder}/bin/ray", "start"]
        assert "--address=10.10.90.1:29500" in other

    def test_each_is_told_its_own_address(self, tmp_path: Path) -> None:
        fleet, node = fleet_with(tmp_path, "ml")
        setting = replace(setting_of(fleet, node, fleet.mode_of(node)), span=Span(("10.10.90.1", "10.10.90.2"), 1))
        environment = ENGINES[EngineName("vllm")].launch(setting).environment
        assert environment["VLLM_HOST_IP"] == "10.10.90.2"

    def test_a_version_that_cannot_without_ray_is_refused(self) -> None:
        old, new = (EngineSpec(EngineName("vllm"), version=version) for version in ("0.11.0", "0.12.0"))
        assert refusal_of_span(old, with_ray=False) is not None
        assert refusal_of_span(old, with_ray=True) is None
        assert refusal_of_span(new, with_ray=False) is None
