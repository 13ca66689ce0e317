"""Models by name and by alias."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.names import EngineName
from provisioner.domain.routing_policy import Away
from provisioner.engines.registry import ENGINES
from provisioner.errors import InputError
from provisioner.planning.breaker import Breaker
from provisioner.planning.model_table import ModelTable
from tests.fleets import FLEET, SUM, fleet_from

CHAT = "  chat: {engine: ollama, models: ['llama3.1:8b', 'mistral:latest']}\n"
WITH_CHAT = (
    FLEET.replace("modes:\n", "modes:\n" + CHAT, 1)
    .replace("engines:\n", f"engines:\n  ollama: {{source: o.tar.zst, sha256: {SUM}}}\n", 1)
    .replace("[small], gateway", "[small, chat], gateway")
)
SMALL = "  small: {engine: llama.cpp, model: gemma-2-2b-it.gguf"


def table(folder: Path, text: str = FLEET) -> ModelTable:
    return ModelTable(fleet_from(folder, text), ENGINES)


class TestModelTable:
    def test_a_model_is_offered_by_every_node_that_has_it(self, tmp_path: Path) -> None:
        found = table(tmp_path).find("gemma-2-2b-it.gguf")
        assert found is not None
        assert [offer.node for offer in found.offers] == ["llm-gpu-01", "llm-gpu-02"]
        assert (found.offers[0].host, found.offers[0].port, found.offers[0].has_gpu) == ("10.10.90.1", 8080, True)

    def test_an_unknown_name_is_none(self, tmp_path: Path) -> None:
        assert table(tmp_path).find("gpt-5") is None

    def test_aliases_mean_the_modes_first_model_and_are_listed(self, tmp_path: Path) -> None:
        found = table(tmp_path, FLEET.replace(SMALL, SMALL + ", aliases: [fast]"))
        assert found.find("fast") == found.find("gemma-2-2b-it.gguf")
        assert found.names == ("gemma-2-2b-it.gguf", "fast")

    def test_a_name_without_tag_means_the_tag_latest(self, tmp_path: Path) -> None:
        found = table(tmp_path, WITH_CHAT)
        mistral = found.find("mistral")
        assert mistral is not None
        assert mistral.name == "mistral:latest"
        assert mistral.speaking(EngineName("llama.cpp")) == ()
        assert [offer.node for offer in mistral.speaking(EngineName("ollama"))] == ["llm-gpu-01"]

    def test_a_fallback_stands_in_for_what_it_does_not_serve_itself(self, tmp_path: Path) -> None:
        text = FLEET.replace(SMALL, "  big: {engine: llama.cpp, model: big.gguf}\n" + SMALL)
        text = text.replace("models:\n", f"models:\n  big.gguf: {{source: b.gguf, sha256: {SUM}}}\n")
        text = text.replace("modes: [small], gateway: 10.10.0.1", "modes: [big], gateway: 10.10.0.1")
        text = text.replace("modes: [small]}", "modes: [small], role: fallback}")
        found = table(tmp_path, text)
        big, small = found.find("big.gguf"), found.find("gemma-2-2b-it.gguf")
        assert big is not None
        assert small is not None
        assert [(offer.node, offer.model, offer.stands_in) for offer in big.offers] == [
            ("llm-gpu-01", "big.gguf", False),
            ("llm-gpu-02", "gemma-2-2b-it.gguf", True),
        ]
        assert [offer.stands_in for offer in small.offers] == [False]


class TestTheFleetFile:
    @pytest.mark.parametrize(
        ("added", "complaint"),
        [
            (", away: fallback", "no node is a fallback"),
            (", away: perhaps", "away"),
            (", aliases: ['']", "aliases"),
            (", aliases: fast", "aliases"),
        ],
    )
    def test_what_says_nothing_clear_is_refused(self, tmp_path: Path, added: str, complaint: str) -> None:
        with pytest.raises(InputError, match=complaint):
            fleet_from(tmp_path, FLEET.replace(SMALL, SMALL + added))

    def test_an_alias_means_one_model(self, tmp_path: Path) -> None:
        big = "  big: {engine: llama.cpp, model: big.gguf, aliases: [fast, gemma-2-2b-it.gguf]}\n"
        text = FLEET.replace(SMALL, big + SMALL + ", aliases: [fast]")
        text = text.replace("models:\n", f"models:\n  big.gguf: {{source: b.gguf, sha256: {SUM}}}\n")
        with pytest.raises(InputError) as caught:
            fleet_from(tmp_path, text)
        assert 'alias "fast" already means model "big.gguf"' in str(caught.value)
        assert 'alias "gemma-2-2b-it.gguf" is a model of mode "small"' in str(caught.value)

    def test_keys_of_engines_are_references_and_never_repeated(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            fleet_from(tmp_path, FLEET.replace("modes: [small]}", "modes: [small], api_key: sk-oops-a-real-one}"))
        assert "sk-oops" not in str(caught.value)
        fleet = fleet_from(tmp_path, FLEET.replace("modes: [small]}", "modes: [small], api_key: env:KEY}"))
        assert [str(node.api_key) for node in fleet.nodes.values()] == ["None", "env:KEY"]

    def test_what_a_mode_says_of_its_requests_is_read(self, tmp_path: Path) -> None:
        text = FLEET.replace(SMALL, SMALL + ", aliases: [a, b], away: fallback-and-wake, prefer_gpu: true")
        policy = next(
            iter(fleet_from(tmp_path, text.replace("[small]}", "[small], role: fallback}")).modes.values())
        ).routing
        assert (policy.aliases, policy.away, policy.prefers_gpu) == (("a", "b"), Away.FALLBACK_AND_WAKE, True)


class TestBreaker:
    def test_one_failure_opens_it_and_one_good_look_closes_it(self) -> None:
        breaker = Breaker()
        breaker.failed("refused", 0.0)
        assert breaker.is_open
        breaker.healthy(0.1)
        assert not breaker.is_open

    def test_who_fails_time_and_again_is_not_believed_for_a_while(self) -> None:
        breaker = Breaker()
        for _ in range(3):
            breaker.failed("garbage", 0.0)
            breaker.healthy(0.1)
        assert breaker.is_open
        breaker.healthy(4.9)
        assert breaker.is_open
        breaker.healthy(5.0)
        assert not breaker.is_open
        breaker.failed("garbage", 6.0)
        breaker.healthy(15.9)
        assert breaker.is_open

    def test_an_answer_forgives_everything(self) -> None:
        breaker = Breaker()
        for _ in range(9):
            breaker.failed("garbage", 0.0)
        breaker.succeeded()
        assert not breaker.is_open
        breaker.failed("refused", 1.0)
        breaker.healthy(1.0)
        assert not breaker.is_open
