"""What `up` lays into a guest before any engine, on a real one: its base, and a driver of stand-in packages.

One guest lives through the module, in the order of the tests.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from provisioner.adapters.ansible.playbook_runner import PlaybookTarget, PlayFailed, play, private_folder
from provisioner.lab import host_packages
from provisioner.lab.guests.base import GuestHardware
from provisioner.lab.guests.qemu import QemuBackend
from provisioner.lab.images.guest_image import ensure_guest_image
from provisioner.lab.images.store import default_cache_dir
from provisioner.ports.guest_shell import CommandResult
from provisioner.ports.playbooks import PlaybookOutcome
from provisioner.services.converging import still_is_as
from tests.lab.qemu_world import MAC, OUTSIDE, VMID, World, prepare
from tests.stand_in_packages.nvidia_driver import publish

pytestmark = [pytest.mark.qemu, pytest.mark.long, pytest.mark.timeout(1800)]

UNIT = "provisioner-firewall.service"
BASE: dict[str, object] = {
    "guest_base_allowed_networks": ["10.99.61.0/24"],
    "guest_base_ports": [8080],
    "guest_base_upgrades": False,
    "recipe": "first",
}
DRIVER: dict[str, object] = {"nvidia_driver_packages": "580-server", "nvidia_driver_modules": "580-server-open"}


@dataclass
class Guest:
    """A guest that is on, with ways to play on it and to ask it."""

    world: World

    def play(self, playbook: str, variables: dict[str, object]) -> PlaybookOutcome:
        folder = self.world.folder
        options = ("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={folder}/known")
        target = PlaybookTarget("guest-a", OUTSIDE, 2222, "ops", options, folder / "user")
        with private_folder() as room:
            return play(target, playbook, yaml.safe_dump(variables), lambda event: None, room)

    def ask(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.world.ssh(command, check=False, seconds=600)

    def run(self, command: tuple[str, ...], *, seconds: float, privileged: bool = False) -> CommandResult:
        """As a shell does, for `still_is_as`."""
        done = self.ask(f"sudo {shlex.join(command)}")
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def is_as_left(self) -> bool:
        return still_is_as(self, "configure-guest-base", "first", (UNIT,))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    if lacking := [package.name for package in host_packages.missing()]:
        pytest.skip("not installed here: " + ", ".join(lacking))
    folder = tmp_path_factory.mktemp("lab")
    prepare(folder)
    cache = default_cache_dir()
    image = ensure_guest_image(cache)
    hardware = GuestHardware(
        vmid=VMID, name="guest-a", cores=2, memory_mib=1024, mac=MAC, disk=folder / "disk.qcow2",
        seed=folder / "seed.iso", pci=("0000:01:00.0",), agent=True, config={},
    )  # fmt: skip
    with asyncio.Runner() as runner:
        world = World(folder, cache, QemuBackend(folder / "guests", cache), runner, hardware, [])
        world.backend = world.new_backend()
        world.run(world.backend.open())
        source = folder / "import.qcow2"
        shutil.copyfile(image.qcow2, source)
        world.run(world.backend.create_disk(folder / "disk.qcow2", source=source, size_bytes=0))
        source.unlink()
        try:
            world.power_on()
            world.ssh("cloud-init status --wait", check=False)
            yield Guest(world)
        finally:
            world.run(world.backend.close(stop_guests=True))


def test_a_base_is_laid_down_once(guest: Guest) -> None:
    assert not guest.is_as_left()
    assert len(guest.play("configure-guest-base", BASE).changed) == 2
    assert guest.is_as_left()
    assert guest.play("configure-guest-base", BASE).changed == ()


def test_only_the_ports_of_engines_are_open(guest: Guest) -> None:
    for port in (8080, 8000):
        guest.ask(f"sudo systemd-run --quiet --unit=serve-{port} python3 -m http.server {port}")
    assert answers(8080)
    assert not answers(8000)
    guest.ask("sudo nft insert rule inet provisioner input tcp dport 8000 accept")
    assert answers(8000), "else the silence above proves nothing"
    guest.ask("sudo systemctl restart provisioner-firewall")
    assert not answers(8000)


def answers(port: int) -> bool:
    """Ask a port as a client does; the emulated network accepts at once, whoever is behind it.

    A server that is not up yet closes without a word, and is asked again; silence is a closed firewall.
    """
    end = time.monotonic() + 90
    while time.monotonic() < end:
        try:
            with socket.create_connection((OUTSIDE, port), timeout=4) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if connection.recv(5) == b"HTTP/":
                    return True
        except TimeoutError:
            return False
        except OSError:
            continue
    raise AssertionError(f"nothing listens at port {port}")


def test_nobody_logs_in_with_a_password(guest: Guest) -> None:
    done = subprocess.run(
        ["ssh", "-v", *guest.world._options("-p"), "-o", "PubkeyAuthentication=no", f"ops@{OUTSIDE}", "true"],
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Permission denied (publickey)" in done.stderr, "no other way is offered"


def test_whoever_would_be_shut_out_is_told_and_nothing_changes(guest: Guest) -> None:
    with pytest.raises(PlayFailed, match=r"comes from 10\.99\.61\.\d+, which none of allowed_networks holds"):
        guest.play("configure-guest-base", {**BASE, "guest_base_allowed_networks": ["192.168.7.0/24"]})
    assert guest.is_as_left()


def test_what_somebody_changed_or_switched_off_is_seen_and_mended(guest: Guest) -> None:
    guest.ask(f"sudo sh -c 'echo >>/etc/provisioner/firewall.nft; systemctl disable --now {UNIT}'")
    assert not guest.is_as_left()
    assert guest.play("configure-guest-base", BASE).changed
    assert guest.is_as_left()


def test_a_driver_is_installed_held_and_verified(guest: Guest, tmp_path: Path) -> None:
    publish_in(guest, tmp_path, "580.173.02")
    guest.play("install-nvidia-driver", DRIVER)
    held = guest.ask("apt-mark showhold").stdout.split()
    kernel = guest.ask("uname -r").stdout.strip()
    assert f"linux-modules-nvidia-580-server-open-{kernel}" in held
    assert {"nvidia-utils-580-server", "libnvidia-compute-580-server"} <= set(held)
    assert guest.ask("nvidia-smi --query-gpu=driver_version --format=csv,noheader").stdout.strip() == "580.173.02"
    assert guest.ask("cat /etc/modprobe.d/provisioner-nouveau.conf").stdout.count("nouveau") == 2
    assert guest.play("install-nvidia-driver", DRIVER).changed == ()


def test_half_an_upgrade_is_seen_at_boot_and_mended_with_a_reboot(guest: Guest, tmp_path: Path) -> None:
    publish_in(guest, tmp_path, "580.181.01")
    libraries = "libnvidia-compute nvidia-utils nvidia-compute-utils"
    names = " ".join(f"{name}-580-server" for name in libraries.split()) + " nvidia-headless-no-dkms-580-server-open"
    guest.ask(f"sudo apt-get -q update; sudo apt-get -qy --allow-change-held-packages install {names}")
    guest.ask("sudo systemctl start provisioner-gpu-check")
    assert "provisioner-gpu-check" in guest.ask("systemctl --failed --no-legend --plain").stdout
    assert "580.173.02 is loaded, the library is 580.181.01" in guest.ask("cat /run/provisioner/gpu-drift").stdout
    boot = guest.ask("cat /proc/sys/kernel/random/boot_id").stdout
    changed = guest.play("install-nvidia-driver", DRIVER).changed
    assert any(task.startswith("Reboot") for task in changed)
    assert guest.ask("cat /proc/sys/kernel/random/boot_id").stdout != boot
    assert guest.ask("cat /sys/module/nvidia/version").stdout.strip() == "580.181.01"
    assert guest.ask("test -e /run/provisioner/gpu-drift").returncode == 1
    assert guest.ask("apt-mark showhold | wc -l").stdout.strip() == "6"
    assert guest.is_as_left(), "the firewall is up again after the boot"


def publish_in(guest: Guest, folder: Path, version: str) -> None:
    """Put a repository into the guest, as its only one."""
    publish(folder / "repo", version, guest.ask("uname -r").stdout.strip())
    subprocess.run(["tar", "cf", str(folder / "repo.tar"), "-C", str(folder), "repo"], check=True, timeout=60)
    guest.world.copy([folder / "repo.tar"])
    source = 'echo "deb [trusted=yes] file:/srv/repo ./" >/etc/apt/sources.list.d/stand-in.list'
    guest.ask(f"sudo sh -c {shlex.quote('rm -rf /srv/repo; tar xf repo.tar -C /srv; ' + source)}")
