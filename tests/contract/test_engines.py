"""What every engine's description must hold, one row per engine."""

from __future__ import annotations

import json

import pytest
import yaml

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.domain.fleet import Artifact, FleetSpec, NodeSpec
from provisioner.engines.base import AnswerUnreadable, Deployment, InferenceEngine
from provisioner.engines.registry import ENGINES
from tests.fleets import SUM
from tests.golden_files import assert_golden

QUIET_METRICS = {
    "llama.cpp": "# HELP x\nllamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n"
    "llamacpp:tokens_predicted_total 41\nllamacpp:n_decode_total 12\n",
}
BUSY_METRICS = {
    "llama.cpp": QUIET_METRICS["llama.cpp"].replace("processing 0", "processing 1").replace("deferred 0", "deferred 2"),
}


@pytest.fixture
def deployment(fleet: FleetSpec, node: NodeSpec) -> Deployment:
    mode = fleet.mode_of(node)
    return Deployment(
        node, mode, Artifact("archive", "https://example.org/a.tar.gz", SUM), Artifact("m", "/models/m.gguf", SUM)
    )


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
class TestEveryEngine:
    """The protocol's promises."""

    def test_its_playbook_is_there_and_explains_every_variable(
        self, engine: InferenceEngine, deployment: Deployment
    ) -> None:
        text = (shipped_folder("playbooks") / f"{engine.playbook}.yml").read_text()
        header = [line for line in text.splitlines() if line.startswith("#")]
        for variable in engine.variables(deployment):
            assert any(variable in line for line in header), variable

    def test_its_variables(self, engine: InferenceEngine, deployment: Deployment) -> None:
        assert_golden(f"engines/{engine.name}-variables.yml", yaml.safe_dump(dict(engine.variables(deployment))))

    def test_quiet_and_busy_are_told_apart(self, engine: InferenceEngine) -> None:
        quiet, busy = engine.activity(QUIET_METRICS[engine.name]), engine.activity(BUSY_METRICS[engine.name])
        assert not quiet.is_busy
        assert busy.is_busy
        assert (busy.running, busy.waiting) == (1, 2)

    @pytest.mark.parametrize("text", ["", "<html>", "llamacpp:requests_processing\n", "a 1\n"])
    def test_numbers_it_cannot_read_are_unknown_not_quiet(self, engine: InferenceEngine, text: str) -> None:
        with pytest.raises(AnswerUnreadable):
            engine.activity(text)

    def test_a_chat_goes_out_and_comes_back(self, engine: InferenceEngine) -> None:
        request = engine.chat("m", "hello", max_tokens=1)
        assert request.body["max_tokens"] == 1
        assert engine.chat_reply(json.dumps({"choices": [{"message": {"content": "hi"}}]})) == "hi"

    @pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"choices": []}', '{"choices": [{"message": 3}]}'])
    def test_a_reply_it_cannot_read_is_said_so(self, engine: InferenceEngine, text: str) -> None:
        with pytest.raises(AnswerUnreadable):
            engine.chat_reply(text)

    @pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"data": 3}', '{"data": [{}]}'])
    def test_a_list_of_models_it_cannot_read_is_said_so(self, engine: InferenceEngine, text: str) -> None:
        with pytest.raises(AnswerUnreadable):
            engine.served_models(text)
