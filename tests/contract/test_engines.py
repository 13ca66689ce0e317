"""What every engine's description must hold, one row per engine."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.domain.fleet import FleetSpec, NodeSpec, SecretReference, SecretSource
from provisioner.domain.mode import Artifact, EngineSpec, ModeSpec, Software
from provisioner.domain.names import ModeName
from provisioner.engines.base import AnswerUnreadable, InferenceEngine, Setting
from provisioner.engines.registry import ENGINES
from tests.contract.engine_answers import ANSWERS, LISTED_WITH_TIME_LEFT, NOT_LOADED, NOW
from tests.fleets import SUM
from tests.golden_files import assert_golden

TOKEN = SecretReference(SecretSource.ENV, "HF_TOKEN")
KEY = SecretReference(SecretSource.ENV, "LLM_KEY")
# By the fact that each engine's own reference tells: vLLM and llama.cpp beside --api-key, TGI as the twin of its flag.
KEYS = {
    "ollama": [""],
    "vllm": ["VLLM_API_KEY"],
    "tgi": ["API_KEY"],
    "llama.cpp": ["LLAMA_API_KEY"],
    "exo": [""],
}
PINNED = EngineSpec(
    ENGINES["llama.cpp"].name,
    version="0.19.1",
    archives=(Artifact("archive", "https://example.org/llama-b1-bin-ubuntu-cuda-12.8-x64.tar.gz", SUM),),
    image=f"ghcr.io/huggingface/text-generation-inference:3.3.5@sha256:{SUM}",
)
VERSIONS = {"exo": "1.0.71"}


def setting_for(engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec, gpus: int = 1) -> Setting:
    """A mode that says all that the engine can be told."""
    mode = ModeSpec(ModeName("ml"), engine.name, "some/model", memory_limit_bytes=8 * 2**30, cpu_limit=2.5)
    told = {
        "context": {"context": 8192},
        "parallel": {"parallel": 4},
        "threads": {"threads": 6},
        "tokenizer": {"tokenizer": "some/tokenizer"},
        "gpu_layers": {"gpu_layers": 20},
    }
    for key, values in told.items():
        if key in engine.traits.knows:
            mode = replace(mode, **values)
    slot = fleet.gpus_of(node)[0]
    files = {"some/model": Artifact("some/model", "/models/m.gguf", SUM)}
    software = replace(PINNED, name=engine.name, version=VERSIONS.get(engine.name, PINNED.version))
    return Setting(node, mode, software, (slot,) * gpus, files, (8, 6), TOKEN)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
class TestEveryEngine:
    """The protocol's promises."""

    def test_it_has_a_row_here(self, engine: InferenceEngine) -> None:
        assert engine.name in ANSWERS

    @pytest.mark.parametrize("gpus", [0, 1, 2, 4, 6])
    def test_its_launch_by_the_number_of_gpus(
        self, engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec, gpus: int
    ) -> None:
        setting = setting_for(engine, fleet, node, gpus)
        if engine.refusal(setting) is not None:
            assert gpus == 0
            return
        launch = engine.launch(setting)
        shown = {
            "argv": list(launch.argv),
            "environment": dict(launch.environment),
            "secrets": {name: str(secret) for name, secret in launch.secrets.items()},
            "gpu": launch.needs_gpu,
            "memory_max": launch.memory_max_bytes,
            "cpu_quota": launch.cpu_quota_percent,
            "shared_memory": launch.shared_memory,
        }
        assert_golden(f"engines/{engine.name}-{gpus}-gpus.yml", yaml.safe_dump(shown, sort_keys=False))

    def test_equal_settings_give_equal_launches(
        self, engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec
    ) -> None:
        first, second = (engine.launch(setting_for(engine, fleet, node)) for _ in range(2))
        assert first == second

    def test_no_secret_is_an_argument(self, engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec) -> None:
        launch = engine.launch(setting_for(engine, fleet, node))
        assert str(TOKEN) not in " ".join(launch.argv)
        assert all(isinstance(secret, SecretReference) for secret in launch.secrets.values())

    def test_its_key_goes_by_a_private_variable_or_the_plan_says_that_it_takes_none(
        self, engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec
    ) -> None:
        setting = setting_for(engine, fleet, node)
        setting = replace(setting, node=replace(node, api_key=KEY))
        launch = engine.launch(setting)
        assert [name for name, secret in launch.secrets.items() if secret == KEY] == list(
            filter(None, KEYS[engine.name])
        )
        assert str(KEY) not in " ".join((*launch.argv, *launch.environment.values()))
        assert engine.traits.takes_key == bool(engine.key_variable)
        told = any("takes no API key" in caution for caution in engine.cautions(setting))
        assert told != engine.traits.takes_key

    def test_its_health_is_open_and_a_chat_is_not(self, engine: InferenceEngine) -> None:
        chat = engine.chat("m", "hello", max_tokens=1).path
        assert not engine.guards(engine.health_path)
        assert engine.guards(chat) == engine.traits.takes_key
        assert engine.guards(engine.activity_path) == (engine.name == "llama.cpp")

    def test_limits_reach_systemd(self, engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec) -> None:
        launch = engine.launch(setting_for(engine, fleet, node))
        assert (launch.memory_max_bytes, launch.cpu_quota_percent) == (8 * 2**30, 250)

    def test_variables_among_the_arguments_reach_the_environment(
        self, engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec
    ) -> None:
        setting = setting_for(engine, fleet, node)
        mode = replace(setting.mode, arguments={"CUDA_VISIBLE_DEVICES": 0, "SOME_SWITCH": True})
        launch = engine.launch(replace(setting, mode=mode))
        assert launch.environment["CUDA_VISIBLE_DEVICES"] == "0"
        assert launch.environment["SOME_SWITCH"] == "1"
        assert "--CUDA_VISIBLE_DEVICES" not in launch.argv

    def test_what_it_installs_is_pinned(self, engine: InferenceEngine) -> None:
        laid = engine.installation(replace(PINNED, name=engine.name))
        match engine.traits.software:
            case Software.ARCHIVES:
                assert laid.archives == PINNED.archives
            case Software.VERSION:
                assert all("==" in package for package in laid.packages)
            case Software.IMAGE:
                assert "@sha256:" in laid.image
        assert bool(laid.archives) + bool(laid.packages) + bool(laid.image) == 1

    def test_quiet_and_busy_are_told_apart(self, engine: InferenceEngine) -> None:
        answers = ANSWERS[engine.name]
        quiet, busy = engine.activity(answers.quiet, NOW), engine.activity(answers.busy, NOW)
        assert quiet == answers.quiet_is
        assert busy == answers.busy_is
        assert not quiet.is_busy
        assert busy.is_busy

    def test_numbers_it_cannot_read_are_unknown_not_quiet(self, engine: InferenceEngine) -> None:
        for text in ANSWERS[engine.name].unreadable_numbers:
            with pytest.raises(AnswerUnreadable):
                engine.activity(text, NOW)

    def test_asking_for_its_numbers_does_not_wake_it(self, engine: InferenceEngine) -> None:
        assert engine.activity_path not in ("/slots", "/api/generate", "/v1/models")

    def test_a_chat_goes_out_and_comes_back(self, engine: InferenceEngine) -> None:
        request = engine.chat("m", "hello", max_tokens=1)
        assert request.body is not None
        assert request.body["max_tokens"] == 1
        assert engine.chat_reply(json.dumps({"choices": [{"message": {"content": "hi"}}]})) == "hi"

    @pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"choices": []}', '{"choices": [{"message": 3}]}'])
    def test_a_reply_it_cannot_read_is_said_so(self, engine: InferenceEngine, text: str) -> None:
        with pytest.raises(AnswerUnreadable):
            engine.chat_reply(text)

    def test_the_list_of_models_is_read(self, engine: InferenceEngine) -> None:
        assert engine.served_models(ANSWERS[engine.name].models) == ANSWERS[engine.name].served

    def test_a_list_of_models_it_cannot_read_is_said_so(self, engine: InferenceEngine) -> None:
        for text in ANSWERS[engine.name].unreadable_models:
            with pytest.raises(AnswerUnreadable):
                engine.served_models(text)

    def test_what_is_in_memory_is_read(self, engine: InferenceEngine) -> None:
        answers = ANSWERS[engine.name]
        assert bool(engine.loaded_path) == bool(answers.loaded)
        if engine.loaded_path:
            found = [(each.name, each.bytes, each.gpu_bytes) for each in engine.loaded_models(answers.loaded)]
            assert found == list(answers.loaded_is)
            assert engine.loaded_models(NOT_LOADED[engine.name]) == ()
        with pytest.raises(AnswerUnreadable):
            engine.loaded_models("<html>")

    def test_sleep_and_wake_come_together(self, engine: InferenceEngine) -> None:
        assert bool(engine.sleep(("m",))) == bool(engine.wake(("m",)))
        assert not engine.sleep(("m",)) or engine.resting_path

    def test_whether_it_rests_is_read(self, engine: InferenceEngine) -> None:
        answers = ANSWERS[engine.name]
        assert bool(engine.resting_path) == bool(answers.resting)
        if engine.resting_path:
            assert engine.is_resting(answers.resting)
            assert not engine.is_resting(answers.awake)
        with pytest.raises(AnswerUnreadable):
            engine.is_resting("<html>")

    def test_only_who_has_a_store_pulls_and_deletes(self, engine: InferenceEngine) -> None:
        has_store = bool(engine.stored_path)
        assert (engine.pull("m") is not None, engine.delete("m") is not None) == (has_store, has_store)
        with pytest.raises(AnswerUnreadable):
            engine.stored_models("<html>")
        with pytest.raises(AnswerUnreadable):
            engine.pull_progress("<html>")


def test_no_row_is_without_an_engine() -> None:
    assert set(ANSWERS) == set(ENGINES)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
def test_its_playbook_is_there(engine: InferenceEngine) -> None:
    path = shipped_folder("playbooks") / f"{engine.playbook}.yml"
    assert path.exists()
    assert path.read_text().splitlines()[1].startswith("#")


def test_a_model_of_ollama_with_time_left_may_be_in_use() -> None:
    seen = ENGINES["ollama"].activity(LISTED_WITH_TIME_LEFT, NOW)
    assert not seen.is_busy
    assert "llama:8b, mistral:8b is loaded" in seen.doubt
