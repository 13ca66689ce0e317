"""Every engine's playbook on a booted guest: real Ansible, SSH, systemd and pip; stand-ins for the engines themselves.

One guest lives through the module. The tests follow the life of a node that has one engine after the other.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.names import EngineName, ModeName
from provisioner.engines.base import Launch
from provisioner.engines.registry import ENGINES
from provisioner.planning.guest_use import use_command
from provisioner.planning.launches import EngineUnit
from provisioner.ports.guest_shell import CommandResult
from provisioner.services.engine_evidence import unit_evidence
from tests.booted_guest import BootedGuest, stand_ins, why_not
from tests.booted_guest.guest import wait_for
from tests.booted_guest.packages import lay_python_venv_into

pytestmark = [pytest.mark.timeout(900), pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

WEB = 8099
SERVER = {"server": stand_ins.SERVER}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What publishers and package indexes have, made here."""
    folder = tmp_path_factory.mktemp("shelf")
    stand_ins.wheel(
        folder, "vllm", "0.33.0", {"vllm.py": stand_ins.SERVER, "huggingface_hub.py": stand_ins.HUB},
        {"vllm": "vllm:main", "hf": "huggingface_hub:main"},
    )  # fmt: skip
    stand_ins.wheel(
        folder, "open-webui", "0.12.4", {"open_webui.py": stand_ins.SERVER}, {"open-webui": "open_webui:main"}
    )
    uv = (
        "import pathlib, shutil\ndef main():\n    pathlib.Path('.venv/bin').mkdir(parents=True, exist_ok=True)\n"
        "    shutil.copy('exo', '.venv/bin/exo')\n"
    )
    stand_ins.wheel(folder, "uv", "0.9.10", {"uv_stand_in.py": uv}, {"uv": "uv_stand_in:main"})
    return folder


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Iterator[BootedGuest]:
    with BootedGuest(tmp_path_factory.mktemp("guest")) as guest:
        tree = guest.tree
        lay_python_venv_into(tree)
        # As with a mirror of one's own: pip asks there and nowhere else.
        (tree / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /srv/wheels\n")
        (tree / "srv/wheels").mkdir()
        for wheel in shelf.glob("*.whl"):
            (tree / "srv/wheels" / wheel.name).write_bytes(wheel.read_bytes())
        (tree / "usr/local/bin/npm").write_text('#!/bin/sh\necho "$@" >> built\n')
        (tree / "usr/bin/docker").write_text(stand_ins.DOCKER)
        (tree / "opt/stand-in").mkdir()
        (tree / "opt/stand-in/server").write_text(stand_ins.SERVER)
        for program in ("usr/local/bin/npm", "usr/bin/docker", "opt/stand-in/server"):
            (tree / program).chmod(0o755)
        unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
        (tree / "etc/systemd/system/docker.service").write_text(unit)
        guest.serve(shelf, WEB)
        yield guest


def launch(unit: str, argv: list[str], port: int, **more: Any) -> dict[str, Any]:
    return {"unit": unit, "description": f"stand-in {unit}", "argv": argv, "port": port, **more}


def from_the_web(entry: dict[str, str]) -> dict[str, str]:
    return {**entry, "source": f"http://127.0.0.1:{WEB}/{Path(entry['source']).name}"}


@pytest.fixture(scope="module")
def ollama(shelf: Path) -> dict[str, Any]:
    release = stand_ins.archive(
        shelf / "ollama-linux-amd64.tar.gz", {"bin/ollama": stand_ins.SERVER, "lib/ollama/x": ""}
    )
    environment = {"OLLAMA_HOST": "0.0.0.0:11434", "OLLAMA_MODELS": "{data}/ollama", "ODD": 'a b $HOME 50% "c" \\'}
    chat = launch(
        "chat", ["{folder}/bin/ollama", "serve"], 11434, environment=environment, gpu=True, conflicts=["long"]
    )
    long = launch(
        "long", ["{folder}/bin/ollama", "serve", "odd $HOME 50% \"c\" \\ 'd'"], 11434,
        environment=environment, conflicts=["chat"], memory_max=2**30, cpu_quota=150,
    )  # fmt: skip
    return {
        "engine_version": "0.32.15",
        "engine_archives": [from_the_web(release)],
        "engine_launches": [chat, long],
        "engine_active": "chat",
        "engine_files": [],
        "engine_pulls": ["tiny:1b", "small"],
        "engine_system_packages": [],
    }


class Inside:
    """A way into the guest."""

    def __init__(self, guest: BootedGuest) -> None:
        self._guest = guest

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        done = self._guest.run(shlex.join(command), check=False, seconds=seconds)
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def lines(self, command: Sequence[str], *, privileged: bool = False) -> Iterator[str]:
        raise NotImplementedError

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep nothing open."""


def told(guest: BootedGuest, port: int) -> dict[str, Any]:
    """Return what the stand-in that listens there says of itself."""
    wait_for(lambda: guest.run(f"curl -sf http://127.0.0.1:{port}/", check=False).returncode == 0, f"port {port}")
    document: dict[str, Any] = json.loads(guest.get(f"http://127.0.0.1:{port}/"))
    return document


def account(guest: BootedGuest, name: str) -> int:
    return int(guest.run(f"id -u {name}").stdout)


def settles(guest: BootedGuest, playbook: str, variables: dict[str, Any]) -> None:
    """A second run finds nothing to change."""
    assert guest.play(playbook, variables, "--check").changed == 0


def test_a_check_of_an_empty_guest_tells_of_changes_and_makes_none(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    look = "find /etc /opt /var/lib /var/cache -newer /tmp/mark -not -path '*/systemd/*' -type f; id ollama 2>&1"
    guest.run("touch /tmp/mark")
    before = guest.run(look, check=False).stdout
    assert guest.play("deploy-ollama", ollama, "--check", "--diff").changed >= 5
    assert guest.run(look, check=False).stdout == before


def test_ollama_from_the_web_with_its_models(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    said = guest.play("deploy-ollama", ollama)
    assert "MiB of" in said.text or "pull tiny:1b" in said.text
    server = told(guest, 11434)
    assert server["uid"] == account(guest, "ollama")
    assert server["environment"]["OLLAMA_MODELS"] == "/var/lib/llm/ollama"
    assert server["environment"]["ODD"] == 'a b $HOME 50% "c" \\'
    assert "NoNewPrivs:\t1" in server["status"]
    assert "CapBnd:\t0000000000000000" in server["status"]
    manifests = "/var/lib/llm/ollama/manifests/registry.ollama.ai/library"
    guest.run(f"test -e {manifests}/tiny/1b && test -e {manifests}/small/latest")
    assert guest.run("systemctl is-enabled llm-chat llm-long", check=False).stdout.split() == ["enabled", "disabled"]
    settles(guest, "deploy-ollama", ollama)
    assert guest.play("deploy-ollama", ollama).changed == 0


def test_an_engine_that_is_killed_comes_back_by_itself(guest: BootedGuest) -> None:
    before = told(guest, 11434)["pid"]
    guest.run("systemctl kill --signal=KILL llm-chat")
    wait_for(lambda: guest.run("systemctl show -P NRestarts llm-chat").stdout.strip() == "1", "a restart")
    assert told(guest, 11434)["pid"] != before


def test_only_the_unit_that_changed_is_restarted(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    before = told(guest, 11434)["pid"]
    other = {**ollama["engine_launches"][1], "cpu_quota": 120}
    changed = {**ollama, "engine_launches": [ollama["engine_launches"][0], other]}
    assert guest.play("deploy-ollama", changed).changed == 1
    assert told(guest, 11434)["pid"] == before
    assert guest.run("systemctl show -P CPUQuotaPerSecUSec llm-long").stdout.strip() == "1.200000s"
    assert guest.play("deploy-ollama", ollama).changed == 1


def test_another_unit_takes_over_and_the_first_is_gone_before_it_starts(
    guest: BootedGuest, ollama: dict[str, Any]
) -> None:
    guest.play("deploy-ollama", {**ollama, "engine_active": "long"})
    server = told(guest, 11434)
    assert server["argv"][2] == "odd $HOME 50% \"c\" \\ 'd'"
    assert guest.run("systemctl is-active llm-chat llm-long", check=False).stdout.split() == ["inactive", "active"]
    assert guest.run("systemctl is-enabled llm-chat llm-long", check=False).stdout.split() == ["disabled", "enabled"]
    guest.play("deploy-ollama", ollama)
    assert told(guest, 11434)["argv"][-1] == "serve"


def test_a_unit_that_was_written_and_never_started_is_noticed(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    guest.run("echo '# by hand' >> /etc/systemd/system/llm-chat.service && systemctl daemon-reload")
    before = told(guest, 11434)["pid"]
    guest.play("deploy-ollama", ollama)
    assert told(guest, 11434)["pid"] != before
    settles(guest, "deploy-ollama", ollama)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("missing", "Ollama cannot pull missing: pull model manifest: file does not exist"),
        ("huge", r"no room for huge .*: it needs 9.*GiB more"),
        ("stuck", r"nothing has moved for 4 s; last: stuck: .* of 4.0 MiB"),
    ],
)
def test_a_model_that_cannot_be_pulled_is_explained(
    guest: BootedGuest, ollama: dict[str, Any], model: str, words: str
) -> None:
    wanted = {**ollama, "engine_pulls": [model], "engine_stall_seconds": 4}
    assert re.search(words, guest.play("deploy-ollama", wanted, code=2).text)


def test_a_power_cut_in_the_middle_of_a_pull_costs_only_the_rest(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    wanted = {**ollama, "engine_pulls": ["slow"]}
    part = guest.tree / "var/lib/llm/ollama/blobs/sha256-slow-partial"
    with subprocess.Popen(
        guest.command("deploy-ollama", wanted), env=guest.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as play:  # fmt: skip
        wait_for(lambda: part.stat().st_size > 2**20, "the first bytes of the model")
        guest.cut_the_power()
        play.wait(120)
    kept = part.stat().st_size
    guest.boot()
    said = guest.play("deploy-ollama", wanted).text
    first = re.search(r"slow: ([\d.]+) ([KM])iB of", said)
    assert kept > 2**20
    assert first is None or float(first[1]) * (1 if first[2] == "M" else 1 / 1024) >= 1.0
    assert (guest.tree / "var/lib/llm/ollama/blobs/sha256-slow").stat().st_size == 4 * 2**20


def test_a_play_that_was_killed_is_joined_by_the_next(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    guest.run("rm /var/lib/llm/ollama/manifests/registry.ollama.ai/library/slow/latest /var/lib/llm/ollama/blobs/*slow")
    wanted = {**ollama, "engine_pulls": ["slow"]}
    with subprocess.Popen(
        guest.command("deploy-ollama", wanted), env=guest.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as play:  # fmt: skip
        wait_for(lambda: guest.run("systemctl is-active llm-job-ollama-slow", check=False).returncode == 0, "a job")
        play.send_signal(signal.SIGKILL)
    started = guest.run("systemctl show -P ExecMainPID llm-job-ollama-slow").stdout
    assert guest.run("systemctl is-active llm-job-ollama-slow").stdout == "active\n", "the pull went on without us"
    assert started != "0\n"
    guest.play("deploy-ollama", wanted)
    settles(guest, "deploy-ollama", wanted)


def test_a_wrong_checksum_is_named_and_what_runs_stays(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    wrong = {**ollama["engine_archives"][0], "sha256": "0" * 64}
    said = guest.play("deploy-ollama", {**ollama, "engine_archives": [wrong]}, code=2).text
    assert re.search(r"wrong checksum: http://127.0.0.1:8099/ollama-linux-amd64.tar.gz has [0-9a-f]{64}", said)
    assert told(guest, 11434)["argv"][-1] == "serve"


def test_vllm_from_packages_with_a_gated_model(guest: BootedGuest, shelf: Path) -> None:
    files = {"config.json": 1, "model.safetensors": 3 * 2**20, "original/consolidated.00.pth": 10**15}
    for repository in ("gated/model", "org/words"):
        listing = shelf / f"api/models/{repository}/revision/main"
        listing.parent.mkdir(parents=True)
        listing.write_text(json.dumps({"siblings": [{"rfilename": name, "size": files[name]} for name in files]}))
    # As with a mirror of one's own; jobs get what systemd itself has.
    guest.run(f"systemctl set-environment HF_ENDPOINT=http://127.0.0.1:{WEB}")
    wanted: dict[str, Any] = {
        "engine_version": "0.33.0",
        "engine_packages": ["vllm==0.33.0"],
        "engine_requirements": "",
        "engine_launches": [
            launch(
                "ml", ["{folder}/bin/vllm", "serve", "gated/model", "--port", "8000"], 8000,
                environment={"HF_HOME": "{data}/huggingface"}, gpu=True,
                secrets={"HF_TOKEN": "hf_wrong", "VLLM_API_KEY": "sk-right"}, conflicts=["chat", "long"],
            )
        ],
        "engine_active": "ml",
        "engine_pulls": ["gated/model", "org/words#tokenizer"],
        "engine_system_packages": [],
    }  # fmt: skip
    said = guest.play("deploy-vllm", wanted, code=2).text
    assert "401 Client Error. Cannot access gated repo" in said
    assert "hf_wrong" not in said
    wanted["engine_launches"][0]["secrets"]["HF_TOKEN"] = "hf_right"
    said = guest.play("deploy-vllm", wanted, "-v").text
    assert "hf_right" not in said
    assert "sk-right" not in said
    server = told(guest, 8000)
    assert server["environment"]["VLLM_API_KEY"] == "sk-right"
    assert server["argv"][1:] == ["serve", "gated/model", "--port", "8000"]
    assert server["uid"] == account(guest, "vllm")
    assert server["environment"]["HF_TOKEN"] == "hf_right"
    assert guest.run("stat -c '%a %U' /etc/llm/ml.env").stdout == "600 root\n"
    guest.run("! grep -rE 'hf_right|sk-right' /etc/systemd /run/llm-ml /run/llm-jobs")
    hub = "/var/lib/llm/huggingface/hub"
    # The same weights once more would not even fit.
    assert guest.run(f"ls {hub}/models--gated--model/blobs").stdout.split() == ["config.json", "model.safetensors"]
    assert guest.run(f"ls {hub}/models--org--words/blobs").stdout.split() == ["config.json"]
    # It has the GPU now: the others are gone, and do not come back at the next boot.
    assert guest.run("systemctl is-active llm-chat", check=False).stdout == "inactive\n"
    settles(guest, "deploy-vllm", wanted)
    # A rare model of it, wanted now: fetched with the token of its unit, while what serves goes on.
    pid = guest.run("systemctl show -P MainPID llm-ml").stdout
    only_fetching = {"engine_launches": [], "engine_active": "", "engine_token_unit": "ml"}
    rare = {**wanted, **only_fetching, "engine_pulls": ["gated/rare"]}
    assert "fetch gated/rare" in guest.play("deploy-vllm", rare).text
    guest.run("test -e /var/lib/llm/huggingface/pulled/gated--rare")
    assert guest.run("systemctl show -P MainPID llm-ml").stdout == pid
    assert guest.run("systemctl is-enabled llm-ml").stdout == "enabled\n"
    assert guest.play("deploy-vllm", rare).changed == 0


def test_a_new_token_restarts_what_was_started_with_the_old(guest: BootedGuest) -> None:
    variables = {
        "engine_version": "0.33.0",
        "engine_packages": ["vllm==0.33.0"],
        "engine_launches": [
            launch(
                "ml", ["{folder}/bin/vllm", "serve", "gated/model", "--port", "8000"], 8000,
                environment={"HF_HOME": "{data}/huggingface"}, gpu=True,
                secrets={"HF_TOKEN": 'new $x "y"'}, conflicts=["chat", "long"],
            )
        ],
        "engine_active": "ml",
        "engine_system_packages": [],
    }  # fmt: skip
    guest.play("deploy-vllm", variables)
    assert told(guest, 8000)["environment"]["HF_TOKEN"] == 'new $x "y"'


def test_tgi_in_a_container_under_its_own_account(guest: BootedGuest) -> None:
    image = "ghcr.io/huggingface/text-generation-inference@sha256:" + "a" * 64
    wanted = {
        "engine_version": "3.3.5",
        "engine_image": image,
        "engine_launches": [
            launch(
                "tgi", ["--model-id", "org/model", "--port", "3000"], 3000, gpu=True, shared_memory=True,
                environment={"HF_HOME": "{data}/huggingface"}, secrets={"HF_TOKEN": "hf_right", "API_KEY": "sk-right"},
                conflicts=["chat", "long", "ml"], memory_max=2**30, cpu_quota=150,
            )
        ],
        "engine_active": "tgi",
        "engine_pulls": ["org/model"],
    }  # fmt: skip
    absent = guest.play("deploy-tgi", {**wanted, "engine_image": image.replace("aaaa", "absent")}, code=2).text
    assert "manifest unknown" in absent
    guest.play("deploy-tgi", wanted)
    server = told(guest, 3000)
    assert server["argv"][1:] == ["--model-id", "org/model", "--port", "3000"]
    assert server["environment"]["HF_TOKEN"] == "hf_right"
    given = json.loads(server["environment"]["STAND_IN"])
    uid = account(guest, "tgi")
    gid = int(guest.run("getent group llm").stdout.split(":")[2])
    assert ["--user", f"{uid}:{gid}"] in given
    assert {
        "--gpus": "all",
        "--ipc": "host",
        "--cap-drop": "ALL",
        "--memory": str(2**30),
        "--cpus": "1.5",
    }.items() <= dict(given).items()
    assert server["environment"]["API_KEY"] == "sk-right"
    assert not {"hf_right", "sk-right"} & set(json.dumps(given).replace('"', " ").replace("=", " ").split())
    guest.run("test -d /var/lib/llm/huggingface/hub/models--org--model/blobs")
    assert guest.run("systemctl is-active llm-ml", check=False).stdout == "inactive\n"
    settles(guest, "deploy-tgi", wanted)
    # Docker's daemon has started it: it is no process of the unit, and the engine's all the same.
    assert str(server["pid"]) not in guest.run("cat /sys/fs/cgroup/system.slice/llm-tgi.service/cgroup.procs").stdout
    seen = unit_evidence(Inside(guest), EngineUnit(ModeName("tgi"), ENGINES[EngineName("tgi")], Launch(()), ()))
    assert seen is not None
    assert server["pid"] in seen.pids
    assert (
        str(server["pid"])
        in guest.run(shlex.join(use_command())).stdout.split("=== engines 0\n")[1].split("===")[0].split()
    )


def test_exo_is_built_from_its_source_under_its_own_account(guest: BootedGuest, shelf: Path) -> None:
    source = stand_ins.archive(shelf / "exo.tar.gz", {"exo": stand_ins.SERVER, "dashboard/package.json": "{}"}, "exo-1")
    wanted = {
        "engine_version": "v1",
        "engine_archives": [source],
        "engine_launches": [
            launch("cpu", ["{folder}/.venv/bin/exo"], 52415, conflicts=["chat", "long", "ml", "tgi"])
        ],
        "engine_active": "cpu",
        "engine_system_packages": [],
    }  # fmt: skip
    guest.play("deploy-exo", wanted)
    assert told(guest, 52415)["uid"] == account(guest, "exo")
    folder = f"/opt/llm/exo/{source['sha256'][:12]}"
    assert guest.run(f"cat {folder}/built").stdout.splitlines() == [
        "--prefix dashboard ci",
        "--prefix dashboard run build",
    ]
    assert guest.run(f"find {folder} ! -user root").stdout == ""
    settles(guest, "deploy-exo", wanted)


def test_open_webui_from_packages_with_hashes_serves_beside_the_engine(guest: BootedGuest, shelf: Path) -> None:
    (wheel,) = shelf.glob("open_webui-*.whl")
    lock = guest.folder / "open-webui.txt"
    lock.write_text("open-webui==0.12.4 --hash=sha256:" + "0" * 64 + "\n")
    wanted = {
        "engine_version": "0.12.4",
        "engine_packages": ["open-webui==0.12.4"],
        "engine_requirements": str(lock),
        "engine_launches": [
            launch(
                "open-webui", ["{folder}/bin/open-webui", "serve", "--host", "0.0.0.0", "--port", "8081"], 8081,
                environment={"DATA_DIR": "{data}/open-webui/data"},
                secrets={"WEBUI_ADMIN_PASSWORD": "pass word", "OPENAI_API_KEYS": ["sk-right", "none"]},
            )
        ],
        "engine_active": "open-webui",
        "engine_system_packages": [],
    }  # fmt: skip
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in guest.play("deploy-open-webui", wanted, code=2).text
    lock.write_text(f"open-webui==0.12.4 --hash=sha256:{stand_ins.pinned(wheel)['sha256']}\n")
    guest.play("deploy-open-webui", wanted)
    page = told(guest, 8081)
    assert page["cwd"] == "/var/lib/llm/open-webui", "where it keeps the key of its sessions"
    assert page["environment"]["OPENAI_API_KEYS"] == "sk-right;none"
    assert guest.run("systemctl is-active llm-cpu").stdout == "active\n"
    settles(guest, "deploy-open-webui", wanted)


def test_after_a_boot_the_noted_engine_runs_and_no_other(guest: BootedGuest) -> None:
    guest.cut_the_power()
    guest.boot()
    assert told(guest, 52415)["argv"]
    running = guest.run("systemctl list-units --plain --no-legend --state=active 'llm-*.service'").stdout
    assert sorted(line.split()[0] for line in running.splitlines()) == ["llm-cpu.service", "llm-open-webui.service"]


def test_units_of_modes_that_are_gone_are_removed(guest: BootedGuest, ollama: dict[str, Any]) -> None:
    only = {**ollama["engine_launches"][0], "conflicts": ["open-webui"]}
    older = "# Written by provisioner\n[Service]\nExecStart=/bin/sleep 1000\n"
    (guest.tree / "etc/systemd/system/llama-server.service").write_text(older)
    guest.run("systemctl daemon-reload; systemctl start llama-server; systemctl start llm-ml")
    guest.play("deploy-ollama", {**ollama, "engine_launches": [only]})
    units = guest.run("cd /etc/systemd/system && ls llm-*.service llama-server.service 2>/dev/null", check=False).stdout
    assert units.split() == ["llm-chat.service", "llm-open-webui.service"]
    guest.run("! systemctl is-active llama-server && ! test -e /etc/llm/ml.env")


def test_a_model_of_this_machine_is_copied_from_where_an_earlier_run_was_cut_off(
    guest: BootedGuest, shelf: Path
) -> None:
    release = stand_ins.archive(shelf / "llama.tar.gz", {"llama-server": stand_ins.SERVER}, "llama-b1")
    model = shelf / "model of ours.gguf"
    model.write_bytes(bytes(range(256)) * 4096)
    file = {"name": "ours.gguf", **stand_ins.pinned(model)}
    name = f"{file['sha256'][:12]}.gguf"
    wanted = {
        "engine_version": "b1",
        "engine_archives": [release],
        "engine_files": [file],
        "engine_launches": [
            launch("gguf", ["{folder}/llama-server", "--model", "{models}/" + name, "--port", "8080"], 8080,
                   conflicts=["chat", "long"])
        ],
        "engine_active": "",
    }  # fmt: skip
    part = f"/var/lib/llm/incoming/{file['sha256'][:12]}"
    guest.run(f"install -d -o ops /var/lib/llm/incoming && printf wrong > {part}")
    assert "wrong checksum: what arrived is not" in guest.play("deploy-llama-cpp", wanted, code=2).text
    (guest.tree / part.lstrip("/")).write_bytes(model.read_bytes()[:500000])
    guest.play("deploy-llama-cpp", wanted)
    assert (guest.tree / "var/lib/llm/models" / name).read_bytes() == model.read_bytes()
    assert guest.run(f"stat -c '%U %a' /var/lib/llm/models/{name}").stdout == "root 644\n"
    settles(guest, "deploy-llama-cpp", wanted)
