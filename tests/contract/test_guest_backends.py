"""One contract, two guest backends: simulated guests and real QEMU guests.

Written for the slower of the two: each class lives through one guest, in the
order of its tests, and every wait has an end.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from provisioner.lab import host_packages
from provisioner.lab.guests.base import AgentRefused, AgentSilent, GuestBackend, GuestFailure, GuestHardware
from provisioner.lab.guests.qemu import QemuBackend
from provisioner.lab.guests.simulated import SimulatedBackend
from provisioner.lab.images.guest_image import ensure_guest_image
from provisioner.lab.images.store import default_cache_dir
from provisioner.lab.material import pretended_material
from tests.lab.qemu_world import INSIDE, MAC, prepare

T = TypeVar("T")

VMID = 100
BOOT_SECONDS = 240.0


@dataclass
class Bench:
    """One backend with one guest, and a loop to run coroutines on."""

    make: Callable[[], GuestBackend]
    image: Path
    hardware: GuestHardware
    runner: asyncio.Runner
    backend: GuestBackend = field(init=False)
    gone: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = self._opened()

    def _opened(self) -> GuestBackend:
        backend = self.make()

        async def note(vmid: int) -> None:
            self.gone.append(vmid)

        backend.on_exit(note)
        self.run(backend.open())
        return backend

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
        async def limited() -> T:
            async with asyncio.timeout(seconds):
                return await work

        return self.runner.run(limited())

    def reopen(self) -> None:
        """Do what a restarted lab does."""
        self.run(self.backend.close(stop_guests=False))
        self.backend = self._opened()

    def agent(self, command: str, **arguments: object) -> Any:
        return self.run(self.backend.agent(VMID, command, arguments))

    def until_the_agent_answers(self) -> None:
        async def wait() -> None:
            while True:
                try:
                    await self.backend.agent(VMID, "guest-ping", None)
                except AgentSilent:
                    await asyncio.sleep(0.2)
                else:
                    return

        self.run(wait(), BOOT_SECONDS)

    def until_off(self) -> None:
        async def wait() -> None:
            while self.backend.is_running(VMID) or not self.gone:
                await asyncio.sleep(0.02)

        self.run(wait())

    def execute(self, path: str, *arguments: str) -> dict[str, Any]:
        pid = self.agent("guest-exec", path=path, arg=list(arguments), **{"capture-output": True})["pid"]

        async def wait() -> Any:
            while True:
                status: Any = await self.backend.agent(VMID, "guest-exec-status", {"pid": pid})
                if status["exited"]:
                    return status
                await asyncio.sleep(0.1)

        result: dict[str, Any] = self.run(wait())
        return result


@pytest.fixture(
    scope="class", params=["simulated", pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.timeout(900)])]
)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(request.param)
    make: Callable[[], GuestBackend]
    if request.param == "simulated":
        image = pretended_material(folder / "material").image.path

        def make() -> GuestBackend:
            return SimulatedBackend(folder / "guests", faults=lambda vmid: frozenset())
    else:
        if host_packages.missing():
            pytest.skip("QEMU cannot be had here: make lab-packages installs it, as root or with sudo")
        cache = default_cache_dir()
        image = ensure_guest_image(cache).qcow2

        def make() -> GuestBackend:
            return QemuBackend(folder / "guests", cache)

    prepare(folder)
    hardware = GuestHardware(
        vmid=VMID,
        name="guest-a",
        cores=2,
        memory_mib=1024,
        mac=MAC,
        disk=folder / "disk",
        seed=folder / "seed.iso",
        pci=("0000:01:00.0",),
        agent=True,
        config={},
    )
    with asyncio.Runner() as runner:
        bench = Bench(make, image, hardware, runner)
        yield bench
        bench.run(bench.backend.close(stop_guests=True))


class TestDisks:
    """Files that a guest boots from."""

    def test_a_disk_from_an_image_has_the_images_size(self, bench: Bench, tmp_path: Path) -> None:
        size = bench.run(bench.backend.create_disk(tmp_path / "disk", source=bench.image, size_bytes=0))
        assert size >= 1 << 30

    def test_a_blank_disk_grows_and_can_be_cloned(self, bench: Bench, tmp_path: Path) -> None:
        assert bench.run(bench.backend.create_disk(tmp_path / "a", source=None, size_bytes=1 << 30)) == 1 << 30
        bench.run(bench.backend.resize_disk(tmp_path / "a", size_bytes=2 << 30))
        bench.run(bench.backend.clone_disk(tmp_path / "a", tmp_path / "b"))
        assert (tmp_path / "b").exists()

    def test_what_is_no_image_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "broken.qcow2").write_bytes(b"no image at all")
        with pytest.raises(GuestFailure):
            bench.run(bench.backend.create_disk(tmp_path / "d", source=tmp_path / "broken.qcow2", size_bytes=0))

    def test_nothing_runs_yet(self, bench: Bench) -> None:
        assert not bench.backend.is_running(VMID)
        assert bench.backend.pid(VMID) is None
        assert bench.backend.uptime_seconds(VMID) == 0
        with pytest.raises(AgentSilent):
            bench.agent("guest-ping")


class TestLife:
    """One guest from power on to its end."""

    def test_power_on_runs_it(self, bench: Bench) -> None:
        assert bench.hardware.disk is not None
        bench.run(bench.backend.create_disk(bench.hardware.disk, source=bench.image, size_bytes=0))
        bench.run(bench.backend.start(bench.hardware))
        assert bench.backend.is_running(VMID)

    def test_starting_what_runs_is_refused(self, bench: Bench) -> None:
        with pytest.raises(GuestFailure):
            bench.run(bench.backend.start(bench.hardware))

    def test_the_agent_answers_and_tells_the_address(self, bench: Bench) -> None:
        bench.until_the_agent_answers()
        found: list[str] = []

        async def look() -> None:
            while INSIDE not in found:
                cards: Any = await bench.backend.agent(VMID, "guest-network-get-interfaces", None)
                found.extend(entry["ip-address"] for card in cards for entry in card.get("ip-addresses", []))
                await asyncio.sleep(0.2)

        bench.run(look(), BOOT_SECONDS)
        names = {card["name"] for card in bench.agent("guest-network-get-interfaces")}
        assert {"lo", "eth0"} <= names

    def test_cloud_init_finishes_without_errors(self, bench: Bench) -> None:
        text = ""
        deadline = time.monotonic() + BOOT_SECONDS
        while not text or '"status": "running"' in text or '"status": "not' in text:
            assert time.monotonic() < deadline, text
            result = bench.execute("cloud-init", "status", "--format", "json")
            text = base64.b64decode(result["out-data"]).decode()
        assert '"status": "done"' in text
        assert '"errors": []' in text

    def test_programs_run_and_their_codes_come_back(self, bench: Bench) -> None:
        assert bench.execute("true")["exitcode"] == 0
        assert bench.execute("test", "-e", "/nowhere")["exitcode"] == 1

    def test_a_program_that_is_not_there_is_told(self, bench: Bench) -> None:
        try:
            code = bench.execute("nonexistent-program")["exitcode"]
        except AgentRefused:
            return
        assert code == 127

    def test_an_unknown_agent_command_is_refused(self, bench: Bench) -> None:
        with pytest.raises(AgentRefused):
            bench.agent("guest-make-coffee")

    def test_a_restarted_lab_finds_it_running(self, bench: Bench) -> None:
        before = bench.backend.uptime_seconds(VMID)
        bench.reopen()
        assert bench.backend.is_running(VMID)
        assert bench.backend.uptime_seconds(VMID) >= before > 0
        bench.until_the_agent_answers()
        assert bench.gone == []

    def test_a_clean_shutdown_is_told_once(self, bench: Bench) -> None:
        bench.run(bench.backend.powerdown(VMID))
        bench.until_off()
        assert bench.gone == [VMID]
        assert bench.backend.uptime_seconds(VMID) == 0

    def test_it_starts_again_and_killing_it_is_told_once(self, bench: Bench) -> None:
        bench.gone.clear()
        bench.run(bench.backend.start(bench.hardware))
        bench.run(bench.backend.kill(VMID))
        assert not bench.backend.is_running(VMID)
        bench.until_off()
        assert bench.gone == [VMID]

    def test_a_missing_disk_fails_the_start(self, bench: Bench, tmp_path: Path) -> None:
        with pytest.raises(GuestFailure):
            bench.run(bench.backend.start(replace(bench.hardware, disk=tmp_path / "none")))
        assert not bench.backend.is_running(VMID)

    def test_it_is_forgotten_when_discarded(self, bench: Bench) -> None:
        bench.run(bench.backend.discard(VMID))
        bench.reopen()
        assert not bench.backend.is_running(VMID)
