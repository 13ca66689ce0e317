"""Real guests: they boot, answer, survive the lab, go off and come back. Minutes without hardware acceleration.

The tests share one guest and go through its life in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.lab import host_packages
from provisioner.lab.guests.base import AgentRefused, AgentSilent, GuestFailure, GuestHardware
from provisioner.lab.guests.qemu import QemuBackend
from provisioner.lab.guests.qemu.backend import _socket_folder
from provisioner.lab.guests.qemu.process import command_of
from provisioner.lab.images.engine_archive import ensure_engine_archive
from provisioner.lab.images.guest_image import ensure_guest_image
from provisioner.lab.images.store import default_cache_dir
from provisioner.lab.images.tiny_model import ensure_tiny_model
from tests.archives import unpack
from tests.lab.qemu_world import INSIDE, MAC, OUTSIDE, VMID, World, prepare

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(1200)]

GIB = 1 << 30
QUESTION = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if lacking := [package.name for package in host_packages.missing()]:
        pytest.skip("not installed here: " + ", ".join(lacking))
    folder = tmp_path_factory.mktemp("lab")
    prepare(folder)
    cache = default_cache_dir()
    image = ensure_guest_image(cache)
    hardware = GuestHardware(
        vmid=VMID,
        name="guest-a",
        cores=2,
        memory_mib=1024,
        mac=MAC,
        disk=folder / "disk.qcow2",
        seed=folder / "seed.iso",
        pci=("0000:01:00.0", "0000:02:00.0"),
        agent=True,
        config={},
    )
    with asyncio.Runner() as runner:
        world = World(folder, cache, QemuBackend(folder / "guests", cache), runner, hardware, [])
        world.backend = world.new_backend()
        world.run(world.backend.open())
        source = folder / "import.qcow2"
        shutil.copyfile(image.qcow2, source)
        world.run(world.backend.create_disk(folder / "disk.qcow2", source=source, size_bytes=0))
        world.run(world.backend.resize_disk(folder / "disk.qcow2", size_bytes=3 * GIB))
        source.unlink()  # disks do not need the image they came from
        try:
            yield world
        finally:
            world.run(world.backend.close(stop_guests=True))


@pytest.fixture
def guest(world: World) -> World:
    """The world with its guest on and reachable."""
    if not world.backend.is_running(VMID):
        world.power_on()
    world.gone.clear()
    return world


def test_a_new_guest_has_the_identity_its_seed_gave_it(guest: World) -> None:
    # Asked at the first login, while the boot still runs.
    status = json.loads(guest.ssh("cloud-init status --wait --format json").stdout)
    assert (status["status"], status["errors"]) == ("done", [])
    seen = guest.ssh("hostname; cat /etc/written; ls /etc/ran; id -un; ls /etc/ssh/ssh_host_*_key").stdout.split("\n")
    assert seen[:-1] == ["guest-a", "by cloud-init", "/etc/ran", "ops", "/etc/ssh/ssh_host_ed25519_key"]
    assert guest.ssh("systemctl --failed --no-legend --plain").stdout == ""


def test_the_root_file_system_fills_the_resized_disk(guest: World) -> None:
    assert int(guest.ssh("df --output=size -B1 / | tail -1").stdout) > 2.8 * GIB


def test_the_guest_sees_one_device_per_card(guest: World) -> None:
    assert guest.ssh("lspci -n | grep -c 1b36:0005").stdout.strip() == "2"


def test_the_guest_has_no_way_out(guest: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        tried = guest.ssh(f"timeout 5 bash -c 'exec 3<>/dev/tcp/10.99.61.1/{port}'", check=False)
    assert tried.returncode != 0


def test_the_agent_answers(guest: World) -> None:
    assert guest.run(guest.backend.agent(VMID, "guest-ping")) == {}
    cards = guest.run(guest.backend.agent(VMID, "guest-network-get-interfaces"))
    assert isinstance(cards, list)
    (card,) = (card for card in cards if card["name"] != "lo")
    assert card["hardware-address"] == MAC.lower()
    assert INSIDE in [address["ip-address"] for address in card["ip-addresses"]]
    with pytest.raises(AgentRefused):
        guest.run(guest.backend.agent(VMID, "guest-exec", {"path": "/nowhere"}))


def test_the_agent_runs_a_program_and_brings_its_output(guest: World) -> None:
    async def scenario() -> dict[str, object]:
        order = {"path": "/bin/echo", "arg": ["hello"], "capture-output": True}
        started = await guest.backend.agent(VMID, "guest-exec", order)
        assert isinstance(started, dict)
        while True:
            status = await guest.backend.agent(VMID, "guest-exec-status", {"pid": started["pid"]})
            assert isinstance(status, dict)
            if status["exited"]:
                return status
            await asyncio.sleep(0.1)

    status = guest.run(scenario(), 30)
    assert status["exitcode"] == 0
    assert status["out-data"] == "aGVsbG8K"


def test_the_engine_archive_serves_the_tiny_model_inside(guest: World) -> None:
    archive, model = ensure_engine_archive(guest.cache), ensure_tiny_model(guest.cache)
    guest.copy([archive.path, model.path])
    guest.ssh(f"mkdir -p engine && tar xzf {archive.path.name} -C engine --strip-components=1")
    server = (
        f"/home/ops/engine/llama-server -m /home/ops/{model.path.name} --host 0.0.0.0 --port 8080 -np 1 -t 1 -c 512"
    )
    guest.ssh(f"sudo systemd-run --quiet --unit=engine {server}")
    until_healthy(f"http://{OUTSIDE}:8080", 60)
    assert chat(f"http://{OUTSIDE}:8080")
    guest.ssh("sudo systemctl stop engine")


def test_a_restarted_lab_finds_its_guest_again(guest: World) -> None:
    before, pid = guest.backend.uptime_seconds(VMID), guest.backend.pid(VMID)
    guest.reopen()
    assert guest.backend.is_running(VMID)
    assert guest.backend.pid(VMID) == pid
    assert guest.backend.uptime_seconds(VMID) >= before > 1
    assert guest.run(guest.backend.agent(VMID, "guest-ping")) == {}
    with pytest.raises(GuestFailure, match="already running"):
        guest.run(guest.backend.start(guest.hardware))


@pytest.mark.long
def test_a_reboot_is_no_exit(guest: World) -> None:
    boot = guest.ssh("cat /proc/sys/kernel/random/boot_id").stdout
    guest.ssh("sudo systemctl reboot", check=False)
    deadline = time.monotonic() + 240
    while True:
        guest.run(guest.until_login(), 240)
        if guest.ssh("cat /proc/sys/kernel/random/boot_id", check=False).stdout not in ("", boot):
            break
        assert time.monotonic() < deadline
    assert guest.gone == []


def test_a_clean_shutdown_ends_the_process_and_is_told_once(guest: World) -> None:
    pid = guest.backend.pid(VMID)
    guest.ssh("echo kept > ~/kept; sudo touch /etc/cloud/cloud-init.disabled")
    guest.run(guest.backend.powerdown(VMID))
    guest.run(guest.until_off(), 90)
    assert guest.gone == [VMID]
    assert pid is not None
    assert command_of(pid) == []  # gone, or a zombie that init has not collected yet
    assert (guest.backend.pid(VMID), guest.backend.uptime_seconds(VMID)) == (None, 0.0)
    with pytest.raises(AgentSilent, match="not running"):
        guest.run(guest.backend.agent(VMID, "guest-ping"))
    guest.run(guest.backend.powerdown(VMID))  # nothing there: no harm
    guest.run(guest.backend.kill(VMID))


def test_a_guest_comes_back_as_it_was_and_without_cloud_init_when_told_so(guest: World) -> None:
    assert guest.ssh("cat ~/kept; hostname").stdout.split() == ["kept", "guest-a"]
    status = json.loads(guest.ssh("cloud-init status --wait --format json").stdout)
    assert status["extended_status"] == "disabled"
    assert guest.ssh("systemctl is-active cloud-init-main", check=False).stdout.strip() == "inactive"


def test_the_power_button_works_without_the_agent(guest: World) -> None:
    guest.ssh("sudo systemctl stop qemu-guest-agent")
    before = time.monotonic()
    guest.run(guest.backend.powerdown(VMID))
    assert time.monotonic() - before < 20
    guest.run(guest.until_off(), 90)
    assert guest.gone == [VMID]


def test_cut_power_is_off_at_once_and_the_disk_survives(guest: World) -> None:
    guest.ssh("echo synced > ~/synced; sync")
    guest.run(guest.backend.kill(VMID), 30)
    assert not guest.backend.is_running(VMID)
    guest.run(guest.until_off(), 10)
    assert guest.gone == [VMID]
    guest.power_on()
    assert guest.ssh("cat ~/kept ~/synced").stdout.split() == ["kept", "synced"]


def test_a_guest_that_died_while_no_lab_watched_is_off(guest: World) -> None:
    pid = guest.backend.pid(VMID)
    assert pid is not None
    guest.run(guest.backend.close(stop_guests=False))
    handle = os.pidfd_open(pid)
    os.kill(pid, 9)
    # All its threads, that is: the last of them lets go of the ports.
    assert select.select([handle], [], [], 20)[0]
    os.close(handle)
    guest.reopen()
    assert not guest.backend.is_running(VMID)


def test_a_taken_port_refuses_the_start_and_says_which(world: World) -> None:
    world.run(world.backend.kill(VMID))
    with socket.create_server((OUTSIDE, 11434)), pytest.raises(GuestFailure, match=f"{OUTSIDE} port 11434"):
        world.run(world.backend.start(world.hardware))
    assert not world.backend.is_running(VMID)


def test_a_broken_disk_refuses_the_start_with_qemus_words(world: World) -> None:
    world.run(world.backend.kill(VMID))
    broken = world.folder / "broken.qcow2"
    broken.write_bytes(b"no disk")
    with pytest.raises(GuestFailure, match=r"not in qcow2 format"):
        world.run(world.backend.start(replace(world.hardware, disk=broken)))
    assert not world.backend.is_running(VMID)


def test_a_disk_without_a_kernel_goes_to_the_firmware(world: World) -> None:
    world.run(world.backend.kill(VMID))
    empty = world.folder / "empty.qcow2"
    world.run(world.backend.create_disk(empty, source=None, size_bytes=1 << 20))
    other = replace(world.hardware, vmid=VMID + 1, disk=empty, seed=None, agent=False, memory_mib=256)
    world.run(world.backend.start(other))
    try:
        assert world.backend.is_running(VMID + 1)
        with pytest.raises(AgentSilent, match="no guest agent channel"):
            world.run(world.backend.agent(VMID + 1, "guest-ping"))
        world.run(world.backend.resize_disk(empty, size_bytes=2 << 20))
    finally:
        world.run(world.backend.discard(VMID + 1))
    assert not world.backend.is_running(VMID + 1)
    assert not world.backend.serial_log(VMID + 1).parent.exists()


def test_sockets_of_a_deep_folder_go_to_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    assert len(str(_socket_folder(deep) / "100.qmp")) < 100
    assert _socket_folder(deep) == _socket_folder(deep)
    assert _socket_folder(deep) != _socket_folder(tmp_path / ("y" * 100))
    assert _socket_folder(Path("/short")) == Path("/short/sockets")


def test_the_engine_archive_runs_here_too(world: World, tmp_path: Path) -> None:
    unpack(ensure_engine_archive(world.cache).path, tmp_path)
    (server,) = tmp_path.glob("*/llama-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = ensure_tiny_model(world.cache).path
    command = [
        str(server),
        "-m",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-np",
        "1",
        "-t",
        "1",
        "-c",
        "512",
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_healthy(f"http://127.0.0.1:{port}", 30)
        assert chat(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait(timeout=10)


def until_healthy(base: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def chat(base: str) -> str:
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", QUESTION, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"]).strip()
