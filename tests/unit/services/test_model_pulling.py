"""Fetching models into an engine's store: what is there, what breaks off, what is stuck, what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.quantities import GIB
from provisioner.engines.base import PullFailed
from provisioner.engines.registry import ENGINES
from provisioner.errors import EngineError
from provisioner.ports.web import Answer, NoAnswer
from provisioner.services.model_pulling import ModelPulling
from tests.fakes.clock import FakeClock

HOST = "http://10.10.90.1:11434"


@dataclass
class Store:
    """The port Web over an Ollama whose line breaks as often as is asked for."""

    clock: FakeClock
    names: list[str] = field(default_factory=list)
    breaks: int = 0
    moves: bool = True
    error: str = ""
    pulls: int = 0
    got: int = 0

    def get(self, url: str, *, seconds: float) -> Answer:
        return Answer(200, json.dumps({"models": [{"name": name, "size": GIB} for name in self.names]}))

    def lines(self, method: str, url: str, body: object, *, silence_seconds: float) -> Iterator[str]:
        assert (method, url) == ("POST", f"{HOST}/api/pull")
        self.pulls += 1
        yield json.dumps({"status": "pulling manifest"})
        if self.error:
            yield json.dumps({"error": self.error})
            return
        part = {"status": "pulling 1234", "digest": "sha256:1234", "total": 4 * GIB}
        yield json.dumps(part)
        for _ in range(4):
            self.clock.sleep(200)
            self.got += GIB if self.moves else 0
            yield json.dumps(part | {"completed": self.got})
            if self.breaks:
                self.breaks -= 1
                raise NoAnswer("the connection was closed")
            if self.got >= 4 * GIB:
                break
        if self.got < 4 * GIB:
            return
        assert isinstance(body, dict)
        self.names.append(str(body["model"]))
        yield json.dumps({"status": "success"})


@pytest.fixture
def store() -> Store:
    return Store(FakeClock())


def pulling(store: Store, node: NodeSpec, free: int | None = None) -> ModelPulling:
    return ModelPulling(ENGINES["ollama"], node, HOST, store, store.clock, lambda model, needed: free)  # type: ignore[arg-type, index]


def test_what_is_there_is_not_fetched(store: Store, node: NodeSpec) -> None:
    store.names = ["llama3.1:8b", "mistral:latest"]
    assert pulling(store, node).ensure(("llama3.1:8b", "mistral"), print) == ()
    assert store.pulls == 0


def test_progress_is_told_in_bytes(store: Store, node: NodeSpec) -> None:
    said: list[str] = []
    assert pulling(store, node).ensure(("llama3.1:8b",), said.append) == ("llama3.1:8b",)
    assert said[-1] == "llama3.1:8b: 4.00 of 4.00 GiB"


def test_one_that_breaks_off_goes_on_as_long_as_bytes_come(store: Store, node: NodeSpec) -> None:
    store.breaks = 3
    said: list[str] = []
    pulling(store, node).ensure(("llama3.1:8b",), said.append)
    assert store.pulls == 4
    assert sum("going on where it was" in words for words in said) == 3


def test_one_that_gets_nowhere_is_given_up_with_what_was_last_seen(store: Store, node: NodeSpec) -> None:
    store.moves = False
    with pytest.raises(EngineError, match=r"no byte has come for 300 s") as caught:
        pulling(store, node).ensure(("llama3.1:8b",), print)
    assert store.pulls == 3
    assert caught.value.retryable
    assert f"provisioner up {node.name} goes on" in caught.value.next_step


def test_an_error_inside_the_answer_is_not_asked_for_again(store: Store, node: NodeSpec) -> None:
    store.error = "pull model manifest: file does not exist"
    with pytest.raises(EngineError, match="file does not exist") as caught:
        pulling(store, node).ensure(("lama3.1:8b",), print)
    assert store.pulls == 1
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("said", "cause", "next_step", "is_passing"),
    [
        ("pull model manifest: file does not exist", "model_missing", "as its library has it", False),
        ("write /var/lib/llm/ollama/blobs/x: no space left on device", "disk_full", "grow the node's disk", False),
        (
            'pull model manifest: Get "https://registry.ollama.ai/v2/": dial tcp: lookup registry.ollama.ai on '
            "127.0.0.53:53: no such host",
            "no_network",
            "check gateway and nameservers",
            True,
        ),
        ("max retries exceeded: unexpected EOF", None, "goes on where it was cut off", True),
    ],
)
def test_why_a_pull_failed_is_named_with_what_to_do(
    store: Store, node: NodeSpec, said: str, cause: str | None, next_step: str, is_passing: bool
) -> None:
    store.error = said
    with pytest.raises(EngineError) as caught:
        pulling(store, node).ensure(("llama3.1:8b",), print)
    assert (caught.value.diagnosis, caught.value.retryable) == (cause, is_passing)
    assert next_step in caught.value.next_step


def test_room_is_asked_for_before_a_part_comes_and_a_refusal_ends_it(store: Store, node: NodeSpec) -> None:
    asked: list[tuple[str, int]] = []

    def room(model: str, needed: int) -> int | None:
        asked.append((model, needed))
        raise PullFailed("no space left: 1.00 GiB too much for model_budget 3GiB")

    puller = ModelPulling(ENGINES["ollama"], node, HOST, store, store.clock, room)  # type: ignore[arg-type, index]
    with pytest.raises(EngineError, match="too much for model_budget 3GiB") as caught:
        puller.ensure(("llama3.1:8b",), print)
    assert asked == [("llama3.1:8b", 4 * GIB)]
    assert store.got == 0
    assert caught.value.next_step.startswith("raise model_budget")


def test_what_does_not_fit_the_disk_is_not_fetched(store: Store, node: NodeSpec) -> None:
    with pytest.raises(EngineError, match=r"4\.00 GiB to come, 1\.00 GiB free") as caught:
        pulling(store, node, GIB).ensure(("llama3.1:8b",), print)
    assert "grow the node's disk" in caught.value.next_step
    assert store.got == 0
