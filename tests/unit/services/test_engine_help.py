"""What an installed engine says of its own arguments: asked once, at `up`, before it is to answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from provisioner.errors import EngineError
from provisioner.services.engine_help import _ASK, ASKING
from provisioner.services.events import Event, Phase
from provisioner.services.provisioning import Provisioning
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, SUM, fleet_from

HELP = """\
-h,    --help                           print usage
-cb,   --cont-batching                  together
-fa,   --flash-attn [on|off|auto]       set Flash Attention
--draft-max N                           the argument has been removed. use --spec-draft-n-max
"""
PROGRAM = f"/opt/llm/llama-cpp/{SUM[:12]}/llama-server"


def fleet_of(folder: Path, arguments: str) -> tuple[FleetSpec, NodeSpec]:
    text = FLEET.replace("model: gemma-2-2b-it.gguf}", f"model: gemma-2-2b-it.gguf{arguments}}}", 1)
    fleet = fleet_from(folder, text)
    return fleet, fleet.nodes[NodeName("llm-gpu-01")]


def up(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> list[Event]:
    seen: list[Event] = []
    provisioning = Provisioning(fleet, world)
    provisioning.apply(provisioning.plan(node), seen.append)
    return [event for event in seen if event.phase is Phase.DONE]


def said(events: list[Event]) -> str:
    return next(event.detail for event in events if event.step == "arguments")


@pytest.mark.parametrize(
    ("arguments", "reason", "next_step", "cause"),
    [
        (
            "{mlock: true}",
            "does not list --mlock in its own help",
            "mlock: write load-mode: mlock",
            "argument_unknown",
        ),
        (
            "{draft-max: 4}",
            "says of --draft-max: the argument has been removed. use --spec-draft-n-max",
            "draft-max: take it out",
            "argument_unknown",
        ),
        (
            "{flash-attn: often}",
            "does not take --flash-attn often",
            "flash-attn: one of: on, off, auto",
            "argument_refused",
        ),
    ],
)
def test_what_its_help_does_not_know_is_refused_before_it_is_to_answer(
    tmp_path: Path, world: FakeWorld, arguments: str, reason: str, next_step: str, cause: str
) -> None:
    fleet, node = fleet_of(tmp_path, f", arguments: {arguments}")
    world.guests.help_text = HELP
    with pytest.raises(EngineError) as caught:
        up(fleet, node, world)
    assert f'cannot run mode "small": the installed llama.cpp {reason}' in caught.value.summary
    assert next_step in (caught.value.next_step or "")
    assert caught.value.diagnosis == cause
    assert world.guests.chats == 0


def test_a_refused_argument_is_refused_again_without_the_program(tmp_path: Path, world: FakeWorld) -> None:
    fleet, node = fleet_of(tmp_path, ", arguments: {mlock: true}")
    world.guests.help_text = HELP
    for _ in range(2):
        with pytest.raises(EngineError, match="--mlock"):
            up(fleet, node, world)
    assert world.guests.asked_for_help == [(PROGRAM, "--help")]


def test_what_its_help_knows_goes_on_and_is_said(tmp_path: Path, world: FakeWorld) -> None:
    fleet, node = fleet_of(tmp_path, ", arguments: {fa: on, cont-batching: true}")
    world.guests.help_text = HELP
    assert said(up(fleet, node, world)) == "its help knows the arguments of small"
    up(fleet, node, world)
    assert world.guests.asked_for_help == [(PROGRAM, "--help")]
    assert world.guests.chats == 2


@pytest.mark.parametrize(
    ("help_text", "words"),
    [(None, "llama.cpp does not print its help: Failed to infer device type"), ("no flags here", "did not list")],
)
def test_help_that_cannot_be_read_refuses_nothing(
    tmp_path: Path, world: FakeWorld, help_text: str | None, words: str
) -> None:
    fleet, node = fleet_of(tmp_path, ", arguments: {cont-batching: true}")
    world.guests.help_text = help_text
    assert words in said(up(fleet, node, world))
    assert world.guests.chats == 1


@pytest.mark.parametrize("arguments", ["", ", context: 4096", ", arguments: {LLAMA_CACHE: /var/tmp}"])
def test_a_mode_without_flags_of_its_own_starts_no_program(tmp_path: Path, world: FakeWorld, arguments: str) -> None:
    fleet, node = fleet_of(tmp_path, arguments)
    assert "arguments" not in [event.step for event in up(fleet, node, world)]
    assert world.guests.asked_for_help == []


class TestScript:
    """The question itself, asked of a real shell."""

    def ask(self, home: Path, *command: str, kept: str = "llama.cpp-1") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", _ASK, ASKING, kept, "5", *command],
            env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    def counting(self, home: Path, rest: str) -> tuple[str, ...]:
        return ("sh", "-c", f"echo ran >>{home}/runs; {rest}")

    def test_what_was_printed_is_kept_and_the_program_runs_once(self, tmp_path: Path) -> None:
        for _ in range(2):
            asked = self.ask(tmp_path, *self.counting(tmp_path, "echo --one; echo noise >&2; echo --two"))
            assert (asked.returncode, asked.stdout) == (0, "--one\n--two\n")
        assert (tmp_path / "runs").read_text() == "ran\n"
        assert [each.name for each in (tmp_path / ".cache/llm-help").iterdir()] == ["llama.cpp-1"]

    def test_another_installation_is_asked_anew(self, tmp_path: Path) -> None:
        self.ask(tmp_path, "echo", "--one")
        assert self.ask(tmp_path, "echo", "--two", kept="llama.cpp-2").stdout == "--two\n"

    @pytest.mark.parametrize(("rest", "code"), [("echo --half; exit 3", 3), ("true", 0), ("nobody-is-here", 127)])
    def test_a_program_that_fails_is_asked_again(self, tmp_path: Path, rest: str, code: int) -> None:
        for _ in range(2):
            assert self.ask(tmp_path, *self.counting(tmp_path, rest)).returncode == code
        assert (tmp_path / "runs").read_text() == "ran\nran\n"

    def test_one_that_hangs_is_ended(self, tmp_path: Path) -> None:
        command = ["/bin/sh", "-c", _ASK, ASKING, "kept", "0.2", "sleep", "60"]
        asked = subprocess.run(
            command, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, timeout=20, check=False
        )
        assert asked.returncode == 124

    def test_where_nothing_can_be_kept_the_answer_is_there_all_the_same(self, tmp_path: Path) -> None:
        (tmp_path / ".cache").write_text("in the way")
        asked = self.ask(tmp_path, "echo", "--one")
        assert (asked.returncode, asked.stdout) == (0, "--one\n")
