"""`mode` on real systemd with the real llama.cpp and a tiny model; Proxmox alone is a fake.

What a QEMU guest would add is its emulated processor, which takes fifteen times as long.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.actions import CheckArguments
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ArgumentValue, ModeSpec
from provisioner.domain.names import ClusterName, ModeName, NodeName
from provisioner.domain.notes import read_notes
from provisioner.engines.registry import ENGINES
from provisioner.errors import EngineError, EngineKeyError
from provisioner.lab.images.store import default_cache_dir
from provisioner.lab.material import real_material
from provisioner.planning.engine_help import help_step
from provisioner.planning.launches import engine_variables, units_of
from provisioner.planning.mode_judgement import engine_refusal
from provisioner.ports.web import NO_HEADERS, Answer, Headers, NoAnswer
from provisioner.services.engine_help import check_arguments_in_guest
from provisioner.services.events import ignore
from provisioner.services.mode_switching import ModeSwitching
from provisioner.services.playbook_secrets import with_secrets
from provisioner.services.provisioning import Provisioning
from tests.booted_guest import BootedGuest, why_not
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, SUM, fleet_from
from tests.hosts.test_engine_units import RootShell

pytestmark = [pytest.mark.timeout(900), pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

KEY = "sk-qweasd"
MODES = """\
  locked: {engine: llama.cpp, model: second.gguf, context: 256, threads: 1, arguments: {mlock: true}}
  second: {engine: llama.cpp, model: second.gguf, context: 256, threads: 1}
  junk: {engine: llama.cpp, model: junk.gguf, context: 256, threads: 1}
"""


@dataclass
class Inside:
    """The ports GuestShells and Web: both lead to the booted guest, whatever the address."""

    guest: BootedGuest

    def open(self, node: NodeSpec, host_key: str) -> RootShell:
        return RootShell(self.guest)

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        return self.send("GET", url, None, seconds=seconds, headers=headers)

    def post_json(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        return self.send("POST", url, body, seconds=seconds, headers=headers)

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        here = f"http://127.0.0.1:{url.split(':')[2]}"
        words = ["curl", "-s", "-X", method, "--max-time", str(seconds), "-w", "\\n%{http_code}", here]
        if body is not None:
            words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        for name, value in headers.items():
            words += ["-H", f"{name}: {value}"]
        done: subprocess.CompletedProcess[str] = self.guest.run(shlex.join(words), check=False)
        if done.returncode != 0:
            raise NoAnswer("connection refused")
        text, _, status = done.stdout.rpartition("\n")
        return Answer(int(status), text)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedGuest]:
    with BootedGuest(tmp_path_factory.mktemp("guest")) as guest:
        yield guest


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetSpec:
    folder = tmp_path_factory.mktemp("fleet")
    made = real_material(default_cache_dir(), lambda words: None)
    junk = folder / "junk.gguf"
    junk.write_bytes(b"GGUF" + b"\xff" * 4096)
    tiny = f"{{source: {made.model.path}, sha256: {made.model.sha256}}}"
    text = FLEET.replace(
        f"{{source: llama.tar.gz, sha256: {SUM}}}", f"{{source: {made.engine.path}, sha256: {made.engine.sha256}}}"
    )
    text = text.replace(f"{{source: gemma.gguf, sha256: {SUM}}}", tiny)
    sum_of_junk = hashlib.sha256(junk.read_bytes()).hexdigest()
    text = text.replace(
        "models:\n", f"models:\n  second.gguf: {tiny}\n  junk.gguf: {{source: {junk}, sha256: {sum_of_junk}}}\n", 1
    )
    text = text.replace("model: gemma-2-2b-it.gguf}", "model: gemma-2-2b-it.gguf, context: 512, threads: 1}")
    text = text.replace("modes:\n", f"modes:\n{MODES}", 1).replace(
        "gpus: [rtx3090], modes: [small]", "modes: [small, second, junk]"
    )
    return fleet_from(
        folder, text.replace("idle_after: 20m", "idle_after: 20m\n  engine_within: 60s\n  api_key: env:LLM_KEY")
    )


@pytest.fixture(scope="module")
def switching(
    guest: BootedGuest, fleet: FleetSpec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModeSwitching, FakeWorld]:
    node = fleet.nodes[NodeName("llm-gpu-01")]
    engine = ENGINES[fleet.mode_of(node).engine]
    variables = engine_variables(fleet, node, engine, units_of(fleet, node, ENGINES))
    guest.play("deploy-llama-cpp", with_secrets(variables, lambda reference: KEY))
    world = FakeWorld()
    world.secrets["env:LLM_KEY"] = KEY
    one = fleet_from(tmp_path_factory.mktemp("one"), FLEET.replace("gpus: [rtx3090], ", ""))
    Provisioning(one, world).up(one.nodes[node.name], ignore)
    inside = Inside(guest)
    world.shells = {ClusterName("homelab"): inside}  # type: ignore[dict-item]
    world.web = inside  # type: ignore[assignment]
    world.clock = SystemClock()  # type: ignore[assignment]
    return ModeSwitching(fleet, world), world


def noted(world: FakeWorld, node: NodeSpec) -> str | None:
    return read_notes(world.cluster.vms[node.vmid].notes).mode


def test_the_engines_own_help_is_asked_about_arguments(
    switching: tuple[ModeSwitching, FakeWorld], guest: BootedGuest, fleet: FleetSpec
) -> None:
    mode = fleet.modes[ModeName("locked")]
    assert isinstance(mode, ModeSpec)
    node = replace(fleet.nodes[NodeName("llm-gpu-01")], modes=(mode.name,))
    engine = ENGINES[mode.engine]

    def asked(**arguments: ArgumentValue) -> str:
        wanted = replace(fleet, modes={mode.name: replace(mode, arguments=arguments)})
        step = help_step(wanted, node, engine, "arguments")
        assert step is not None
        assert isinstance(step.action, CheckArguments)
        # The booted guest has no account but root.
        return check_arguments_in_guest(replace(step.action, privileged=True), node, lambda: RootShell(guest)).detail

    known: dict[str, ArgumentValue] = {"cont-batching": True, "flash-attn": "off", "ub": 128}
    assert asked(**known) == "its help knows the arguments of locked"
    # The version is not pinned, so no plan can know that this one went.
    assert engine_refusal(fleet, node, ENGINES) is None
    with pytest.raises(EngineError) as caught:
        asked(mlock=True)
    assert "the installed llama.cpp does not list --mlock in its own help" in caught.value.summary
    assert "write load-mode: mlock" in (caught.value.next_step or "")
    # Kept by what is laid down: the second question started no program.
    assert guest.run("find / -xdev -path '*/.cache/llm-help/*' | wc -l", check=False).stdout.strip() == "1"


def test_another_model_answers_and_is_noted(switching: tuple[ModeSwitching, FakeWorld], fleet: FleetSpec) -> None:
    mode, world = switching
    node = fleet.nodes[NodeName("llm-gpu-01")]
    report = mode.switch(node, "second", ignore)
    print(f"mode switch: {report.seconds:.2f} s")
    assert (report.did, report.endpoint.model if report.endpoint else "") == ("engine changed", "second.gguf")
    assert noted(world, node) == "second"


def test_a_model_that_cannot_be_loaded_is_rolled_back_with_its_own_words(
    switching: tuple[ModeSwitching, FakeWorld], fleet: FleetSpec
) -> None:
    mode, world = switching
    node = fleet.nodes[NodeName("llm-gpu-01")]
    with pytest.raises(EngineError) as caught:
        mode.switch(node, "junk", ignore)
    print(caught.value)
    assert "llm-junk.service starts and dies" in caught.value.summary
    assert "its log" in caught.value.summary
    assert 'mode "second" is back and answers' in caught.value.summary
    assert noted(world, node) == "second"
    assert mode.switch(node, "second", ignore).did == "in place"


def test_the_engine_keeps_out_another_key_and_shows_its_own_to_nobody(
    switching: tuple[ModeSwitching, FakeWorld], guest: BootedGuest, fleet: FleetSpec
) -> None:
    mode, world = switching
    node = fleet.nodes[NodeName("llm-gpu-01")]
    world.secrets["env:LLM_KEY"] = "sk-another"
    with pytest.raises(EngineKeyError, match="its API key is not the one in env:LLM_KEY"):
        mode.switch(node, "second", ignore)
    world.secrets["env:LLM_KEY"] = KEY
    assert mode.switch(node, "second", ignore).did == "in place"
    journal = guest.run("journalctl --no-pager -u 'llm-*'").stdout
    assert "llama" in journal
    assert KEY not in journal
    # Whoever lists processes, or reads units, finds it nowhere. The brackets keep the search from finding itself.
    assert guest.run("grep -lE 'second[.]gguf' /proc/[0-9]*/cmdline").stdout
    guest.run(f"! grep -lE '{KEY[:-1]}[{KEY[-1]}]' /proc/[0-9]*/cmdline")
    guest.run(f"! grep -rl {KEY} /etc/systemd /run/llm-second")
