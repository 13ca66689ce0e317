"""Simulated guests: what they answer, what they keep, how they go wrong."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from provisioner.lab.guests.base import GuestFailure
from provisioner.lab.harness import RunningLab
from provisioner.lab.refusals import Refusal
from tests.unit.lab.lab_vms import GPU_VM

VM = "/nodes/pve1/qemu/5001"
PORT = 18431
UNIT = {"engine": "llama.cpp", "model": "tiny", "port": PORT}
ENGINE = {
    "engine": "llama.cpp",
    "digest": "abc",
    "units": {"llm-small.service": UNIT},
    "active": "llm-small.service",
    "pulls": [],
}
WISH = json.dumps(ENGINE)
Start = Callable[..., RunningLab]


def seed(path: Path, address: str) -> None:
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    documents = {
        "user-data": "#cloud-config\nhostname: llm-gpu-01\n",
        "meta-data": "instance-id: one\n",
        "network-config": f"version: 2\nethernets:\n  eth0:\n    addresses: [{address}/16]\n",
    }
    for number, (name, text) in enumerate(documents.items()):
        iso.add_fp(io.BytesIO(text.encode()), len(text), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    iso.write(str(path))
    iso.close()


def make(lab: RunningLab, address: str = "10.43.90.1") -> None:
    seed(lab.state_dir / "storage/local/template/iso/seed.iso", address)
    settings = {**GPU_VM, "ide2": "local:iso/seed.iso,media=cdrom"}
    assert lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid="5001", **settings)).exitstatus == "OK"


def start(lab: RunningLab) -> None:
    assert lab.finish(lab.call("POST", f"{VM}/status/start")).exitstatus == "OK"


def run(lab: RunningLab, *command: str, given: str | None = None) -> Mapping[str, Any]:
    params: dict[str, object] = {"command": list(command)}
    if given is not None:
        params["input-data"] = given
    pid = lab.call("POST", f"{VM}/agent/exec", **params)["pid"]
    return dict(lab.call("GET", f"{VM}/agent/exec-status", pid=str(pid)))


def fetch(path: str, address: str = "127.43.90.1", tries: int = 100) -> tuple[int, str]:
    """Ask the engine; it listens a moment after the call that installed it has answered."""
    for _ in range(tries):
        try:
            with urllib.request.urlopen(f"http://{address}:{PORT}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            time.sleep(0.02)
    raise AssertionError("nobody answers")


def test_the_agent_knows_who_it_is(lab: RunningLab) -> None:
    make(lab)
    start(lab)
    assert lab.call("POST", f"{VM}/agent/ping") == {"result": {}}
    assert lab.call("GET", f"{VM}/agent/get-host-name") == {"result": {"host-name": "llm-gpu-01"}}
    names = [card["name"] for card in lab.call("GET", f"{VM}/agent/network-get-interfaces")["result"]]
    assert names == ["lo", "eth0"]
    assert lab.call("GET", f"{VM}/agent/get-osinfo")["result"]["version-id"] == "24.04"


def test_unknown_programs_are_not_found(lab: RunningLab) -> None:
    make(lab)
    start(lab)
    ended = run(lab, "/usr/bin/nvidia-smi", "-L")
    assert (ended["exited"], ended["exitcode"], ended["err-data"]) == (
        1,
        127,
        "/usr/bin/nvidia-smi: command not found\n",
    )


def test_configuring_twice_changes_nothing_and_lasts_over_a_restart(lab: RunningLab) -> None:
    make(lab)
    start(lab)
    assert json.loads(run(lab, "cloud-init", "status", "--wait", "--format", "json")["out-data"])["status"] == "done"
    assert run(lab, "systemctl", "is-active", "llm-small")["exitcode"] == 3
    assert json.loads(run(lab, "provisioner-simulated-configure", given=WISH)["out-data"])["changed"] > 0
    assert json.loads(run(lab, "provisioner-simulated-configure", given=WISH)["out-data"]) == {"changed": 0}
    assert fetch("/health") == (200, '{"status": "ok"}')
    assert run(lab, "test", "-e", "/etc/cloud/cloud-init.disabled")["exitcode"] == 1
    assert run(lab, "touch", "/etc/cloud/cloud-init.disabled")["exitcode"] == 0
    lab.finish(lab.call("POST", f"{VM}/status/stop"))
    with pytest.raises(AssertionError):
        fetch("/health", tries=2)
    start(lab)
    assert fetch("/health")[0] == 200
    assert json.loads(run(lab, "cloud-init", "status", "--format", "json")["out-data"])["status"] == "disabled"
    assert run(lab, "systemctl", "is-active", "llm-small")["out-data"] == "active\n"


def test_the_engine_talks_and_counts(lab: RunningLab) -> None:
    make(lab)
    start(lab)
    run(lab, "provisioner-simulated-configure", given=WISH)
    assert json.loads(fetch("/v1/models")[1])["data"][0]["id"] == "tiny"
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    url = f"http://127.43.90.1:{PORT}/v1/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=5) as answer:
        said = json.load(answer)
    assert said["usage"]["completion_tokens"] == 3
    with urllib.request.urlopen(
        urllib.request.Request(url, json.dumps({**body, "stream": True}).encode()), timeout=5
    ) as answer:
        events = answer.read().decode().split("\n\n")
    assert events[-2] == "data: [DONE]"
    assert len(events) == 1 + 3 + 1 + 1 + 1
    metrics = fetch("/metrics")[1]
    assert "llamacpp:tokens_predicted_total 6" in metrics
    assert "llamacpp:requests_processing 0" in metrics


def test_an_engine_loads_before_it_answers(tmp_path: Path) -> None:
    with RunningLab(tmp_path, engine_seconds=60) as lab:
        make(lab)
        start(lab)
        run(lab, "provisioner-simulated-configure", given=WISH)
        status, text = fetch("/health")
        assert status == 503
        assert json.loads(text)["error"]["message"] == "Loading model"


def test_a_booting_guest_has_no_agent_yet(tmp_path: Path) -> None:
    with RunningLab(tmp_path, boot_seconds=60) as lab:
        make(lab)
        start(lab)
        with pytest.raises(Refusal, match="QEMU guest agent is not running"):
            lab.call("POST", f"{VM}/agent/ping")


def test_agent_refusals(lab: RunningLab) -> None:
    make(lab)
    with pytest.raises(Refusal, match="VM 5001 is not running"):
        lab.call("POST", f"{VM}/agent/ping")
    lab.call("PUT", f"{VM}/config", delete="agent")
    with pytest.raises(Refusal, match="No QEMU guest agent configured"):
        lab.call("POST", f"{VM}/agent/ping")


def test_a_guest_that_never_boots_is_silent_and_deaf(tmp_path: Path) -> None:
    with RunningLab(tmp_path, faults=[{"guest": "never_boots", "vmid": 5001}]) as lab:
        make(lab)
        start(lab)
        with pytest.raises(Refusal, match="QEMU guest agent is not running"):
            lab.call("POST", f"{VM}/agent/ping")
        ended = lab.finish(lab.call("POST", f"{VM}/status/shutdown", timeout="0")).exitstatus
        assert ended == "VM quit/powerdown failed - got timeout"


def test_a_guest_whose_qemu_takes_no_orders_ends_a_shutdown_at_once_and_can_be_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(vmid: int) -> None:
        raise GuestFailure(f"VM {vmid} monitor: system_powerdown failed")

    with RunningLab(tmp_path) as lab:
        make(lab)
        start(lab)
        monkeypatch.setattr(lab.lab.backend, "powerdown", fails)
        assert lab.finish(lab.call("POST", f"{VM}/status/shutdown")).exitstatus == "VM quit/powerdown failed"
        assert lab.finish(lab.call("POST", f"{VM}/status/shutdown", forceStop="1")).exitstatus == "OK"


def test_a_guest_that_ignores_powerdown_can_be_forced(tmp_path: Path) -> None:
    with RunningLab(tmp_path, faults=[{"guest": "ignores_powerdown"}]) as lab:
        make(lab)
        start(lab)
        ended = lab.finish(lab.call("POST", f"{VM}/status/shutdown", timeout="0", forceStop="1")).exitstatus
        assert ended == "OK"
        assert lab.call("GET", f"{VM}/status/current")["status"] == "stopped"


def test_an_engine_that_never_answers_does_not_listen(tmp_path: Path) -> None:
    with RunningLab(tmp_path, faults=[{"guest": "engine_never_answers"}]) as lab:
        make(lab)
        start(lab)
        run(lab, "provisioner-simulated-configure", given=WISH)
        with pytest.raises(AssertionError):
            fetch("/health", tries=3)


def test_guests_outlive_the_lab(tmp_path: Path) -> None:
    with RunningLab(tmp_path, stop_guests=False) as lab:
        make(lab)
        start(lab)
        run(lab, "provisioner-simulated-configure", given=WISH)
    with RunningLab(tmp_path) as lab:
        assert lab.call("GET", f"{VM}/status/current")["status"] == "running"
        assert lab.lab.pci.holder("pve1", "0000:01:00.0") == 5001
        assert fetch("/health")[0] == 200
        lab.finish(lab.call("POST", f"{VM}/status/stop"))
        assert lab.lab.pci.holder("pve1", "0000:01:00.0") is None
    with RunningLab(tmp_path) as lab:
        assert lab.call("GET", f"{VM}/status/current")["status"] == "stopped"
