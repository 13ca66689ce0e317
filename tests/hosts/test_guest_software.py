"""A guest's base and its GPU makers' software on a booted guest: real apt, dpkg, systemd, nftables and reboots.

Packages come from repositories of stand-ins; those of GPU makers are signed. One
guest lives through the module, in the order of the tests.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.booted_guest import BootedGuest, Play, why_not
from tests.booted_guest.guest import wait_for
from tests.booted_guest.outside import NETWORK, OURS, Outside
from tests.stand_in_packages import gpu_software, nvidia_driver
from tests.stand_in_packages.debs import Deb, Signer, signed_repository, trusted_repository

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.skipif(shutil.which("gpg-agent") is None, reason="gpg-agent is not installed: nobody signs"),
]

KERNEL = os.uname().release
BUILT = "nvidia-dkms-580-server-open"
SITE = "http://127.0.0.1:8098"
ALL = "configure-guest-base install-nvidia-driver install-cuda-toolkit install-container-toolkit install-rocm"
EVERYTHING: dict[str, Any] = {
    # Logins that pass every network come from the guest's own loopback.
    "guest_base_allowed_networks": [NETWORK, "127.0.0.0/8"],
    "guest_base_ports": [8080],
    "guest_base_upgrades": True,
    "guest_base_undo_seconds": 3,
    "nvidia_driver_packages": "580-server",
    "nvidia_driver_modules": "580-server-open",
    "cuda_toolkit": "12-9",
    # Another host: drivers from this one are pinned away.
    "cuda_toolkit_repository": "http://localhost:8098/cuda/",
    "container_toolkit_repository": f"{SITE}/containers",
    "container_toolkit_key": f"{SITE}/containers/gpgkey",
    "rocm_repository": SITE,
}
# Where playbooks leave something: settings, packages, programs, notes.
LOOK = (
    "find /etc /usr /boot /root /var/lib/provisioner /var/lib/dpkg/status /var/lib/apt/lists /run/provisioner "
    "-newer /run/mark ! -type d 2>/dev/null"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GPU makers serve, and nobody else signs."""
    folder = tmp_path_factory.mktemp("site")
    with Signer() as signer:
        signed_repository(folder / "cuda", gpu_software.CUDA, signer, origin="NVIDIA")
        toolkits = [*gpu_software.container_toolkit("1.20.0-1"), *gpu_software.container_toolkit("1.21.0-1")]
        signed_repository(folder / "containers", toolkits, signer, origin="NVIDIA")
        for version in ("7.2.3", "7.2.4"):
            where = folder / "rocm/apt" / version
            signed_repository(where, gpu_software.rocm(version), signer, origin="repo.radeon.com", suite="noble")
        where = folder / "amdgpu/30.30.3/ubuntu"
        signed_repository(where, gpu_software.amdgpu("6.16", KERNEL), signer, origin="repo.radeon.com", suite="noble")
        for key in ("cuda/3bf863cc.pub", "containers/gpgkey", "rocm/rocm.gpg.key"):
            (folder / key).write_text(signer.public_key)
    return folder


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Iterator[BootedGuest]:
    with BootedGuest(tmp_path_factory.mktemp("guest")) as guest:
        archive(guest, *nvidia_driver.driver("580.173.02", KERNEL))
        # As older instructions, and people, left them.
        (guest.tree / "etc/apt/sources.list.d/nvidia-docker.list").write_text("")
        (guest.tree / "etc/docker").mkdir()
        (guest.tree / "etc/docker/daemon.json").write_text('{"data-root": "/srv/docker"}')
        guest.serve(site, 8098)
        yield guest


def archive(guest: BootedGuest, *driver: Deb) -> None:
    """Give the guest the distribution's own archive, with one version of the driver, as its only one so far."""
    others = (Deb("unattended-upgrades", "2.9"), gpu_software.DOCKER, *gpu_software.rocm("9.0"))
    trusted_repository(guest.tree / "srv/archive", (*driver, *others))
    lists = guest.tree / "etc/apt/sources.list.d"
    for old in [guest.tree / "etc/apt/sources.list", *lists.glob("*")]:
        if not old.name.startswith("provisioner-"):
            old.unlink(missing_ok=True)
    (lists / "archive.list").write_text("deb [trusted=yes] file:/srv/archive ./\n")


@pytest.fixture(scope="module")
def first_run(guest: BootedGuest) -> Play:
    """How everything was laid down, one thing after the other; ROCm's driver needs a reboot."""
    with guest.coming_back():
        return guest.play(ALL, EVERYTHING)


def version(guest: BootedGuest, package: str) -> str:
    return guest.run(f"dpkg-query -W -f '${{Version}}' {package}", check=False).stdout


def persistence(guest: BootedGuest) -> str:
    return guest.run("nvidia-smi --query-gpu=persistence_mode --format=csv,noheader").stdout.strip()


def held(guest: BootedGuest) -> set[str]:
    return set(guest.run("apt-mark showhold").stdout.split())


def test_a_check_of_an_empty_guest_tells_of_every_change_and_makes_none(guest: BootedGuest) -> None:
    guest.run("touch /run/mark")
    assert len(guest.play(ALL, EVERYTHING, "--check").plays_with_changes) == len(ALL.split())
    assert guest.run(LOOK, check=False).stdout == ""


def test_everything_is_laid_down_with_the_reboot_that_it_takes(first_run: Play) -> None:
    assert len(first_run.plays_with_changes) == len(ALL.split())
    assert [name for name in first_run.changes if name.startswith("Reboot")] == ["Reboot into the new driver"]


def test_a_check_afterwards_tells_of_no_change(guest: BootedGuest, first_run: Play) -> None:
    assert guest.play(ALL, EVERYTHING, "--check").changes == []


def test_a_second_run_changes_nothing(guest: BootedGuest, first_run: Play) -> None:
    assert guest.play(ALL, EVERYTHING).changes == []


def test_the_cuda_toolkit_comes_without_the_driver_beside_it(guest: BootedGuest, first_run: Play) -> None:
    assert guest.run("/usr/local/cuda-12.9/bin/nvcc").stdout == "release 12.9\n"
    policy = guest.run("apt-cache policy cuda-drivers libnvidia-compute-580-server").stdout
    assert re.findall(r"Candidate: (.*)", policy) == ["(none)", "580.173.02"]


def test_docker_is_told_of_the_toolkit_at_its_version(guest: BootedGuest, first_run: Play) -> None:
    assert version(guest, "nvidia-container-toolkit") == version(guest, "libnvidia-container1") == "1.20.0-1"
    guest.run("cmp /etc/docker/daemon.json /run/docker-read")
    settings = guest.run("cat /etc/docker/daemon.json").stdout
    assert all(word in settings for word in ("cgroupfs", "nvidia-container-runtime", "/srv/docker"))
    guest.run("test ! -e /etc/apt/sources.list.d/nvidia-docker.list")


def test_drivers_work_and_are_held(guest: BootedGuest, first_run: Play) -> None:
    assert guest.run("nvidia-smi").stdout == "580.173.02\n"
    assert persistence(guest) == "Enabled"
    assert guest.run("cat /sys/module/amdgpu/version").stdout == "6.16\n"
    assert version(guest, "rocminfo") == "7.2.3", "AMD's, though the distribution's is higher"
    driver = {f"linux-modules-nvidia-580-server-open-{KERNEL}", "nvidia-utils-580-server"}
    rocm = {"amdgpu-dkms", "rocm-hip-runtime"}
    assert driver | rocm | {"nvidia-container-toolkit", "libnvidia-container1"} <= held(guest)
    assert "cuda-toolkit-12-9" not in held(guest)


def test_what_somebody_changed_is_told_and_mended(guest: BootedGuest, first_run: Play) -> None:
    guest.run("sed -i s/cgroupfs/systemd/ /etc/docker/daemon.json && apt-mark unhold libnvidia-container1")
    guest.run("systemctl stop nvidia-persistenced")
    started = guest.run("cat /run/docker-started").stdout
    told = guest.play("install-container-toolkit install-nvidia-driver", EVERYTHING, "--check")
    assert len(told.plays_with_changes) == 2
    mended = guest.play("install-container-toolkit install-nvidia-driver", EVERYTHING)
    assert len(mended.plays_with_changes) == 2
    assert guest.run("cat /run/docker-started").stdout != started
    assert "libnvidia-container1" in held(guest)
    guest.run("systemctl is-active nvidia-persistenced")
    assert persistence(guest) == "Enabled"


def test_a_daemon_that_leaves_persistence_off_is_started_anew(guest: BootedGuest, first_run: Play) -> None:
    dropped = "/etc/systemd/system/nvidia-persistenced.service.d/provisioner.conf"
    guest.run(f"rm {dropped} && systemctl daemon-reload && systemctl disable --now nvidia-persistenced")
    guest.run("systemd-run --quiet --property=Wants=nvidia-persistenced.service --unit=wants sleep infinity")
    wait_for(lambda: guest.run("systemctl is-active nvidia-persistenced", check=False).returncode == 0, "Ubuntu's way")
    assert persistence(guest) == "Disabled"
    assert guest.play("install-nvidia-driver", EVERYTHING).changes != []
    guest.run("systemctl stop wants")
    assert persistence(guest) == "Enabled"
    assert guest.play("install-nvidia-driver", EVERYTHING).changes == []


def test_other_versions_take_the_place_of_held_ones(guest: BootedGuest, first_run: Play) -> None:
    newer = {**EVERYTHING, "container_toolkit_version": "1.21.0-1", "rocm_version": "7.2.4"}
    guest.play("install-container-toolkit install-rocm", newer)
    assert version(guest, "libnvidia-container-tools") == "1.21.0-1"
    assert version(guest, "rocm-hip-runtime") == "7.2.4"


def test_what_another_key_signed_is_refused(guest: BootedGuest, site: Path) -> None:
    served = site / "cuda/InRelease"
    genuine = served.read_text()
    with Signer() as stranger:
        served.write_text(stranger.signed("Origin: NVIDIA\n"))
    said = guest.run("apt-get update 2>&1").stdout
    served.write_text(genuine)
    assert re.search(r"W: .*signature verification failed: \S+/cuda ", said), said


def test_half_an_upgrade_of_the_driver_is_mended_with_a_reboot(guest: BootedGuest, first_run: Play) -> None:
    newer = nvidia_driver.driver("580.181.01", KERNEL)
    archive(guest, *newer)
    half = " ".join(each.name for each in newer if "server" in each.name and "modules" not in each.name)
    guest.run(f"apt-get -q update; apt-get -qy --allow-change-held-packages install {half.replace(BUILT, '')}")
    guest.run("systemctl start provisioner-gpu-check", check=False)
    assert "580.173.02 is loaded, the library is 580.181.01" in guest.run("cat /run/provisioner/gpu-drift").stdout
    with guest.coming_back():
        played = guest.play("install-nvidia-driver", EVERYTHING)
    assert any(name.startswith("Reboot") for name in played.changes)
    assert guest.run("cat /sys/module/nvidia/version").stdout == "580.181.01\n"
    guest.run("test ! -e /run/provisioner/gpu-drift")
    assert persistence(guest) == "Enabled"


def kernels(*names: str) -> tuple[Deb, ...]:
    """Return kernels as Ubuntu has them, the last one that which the metapackage names."""
    newest = names[-1]
    images = [Deb(f"linux-image-{name}", "1", files={f"boot/vmlinuz-{name}": ""}) for name in names]
    follows = newest.replace("-generic", "").replace("-", ".")
    return (*images, Deb("linux-image-generic", follows, (f"linux-image-{newest}",)))


def test_kernel_and_driver_are_renewed_on_purpose_and_the_kernel_waits_for_its_module(
    guest: BootedGuest, first_run: Play
) -> None:
    # Newer than the one whose files the guest has already, which is what would boot.
    old, new = "7.8.0-90-generic", "7.8.0-99-generic"
    renewing = {**EVERYTHING, "nvidia_driver_renew": True}
    archive(guest, *nvidia_driver.driver("580.181.01", KERNEL), *kernels(old))
    guest.run("apt-get -q update; apt-get -qy install linux-image-generic; apt-mark hold linux-image-generic")
    driver = nvidia_driver.driver("580.190.01", KERNEL)
    archive(guest, *driver, *kernels(old, new))
    assert guest.play("install-nvidia-driver", EVERYTHING).changes == [], "without being asked nothing moves"
    with guest.coming_back():
        played = guest.play("install-nvidia-driver", renewing)
    assert "Renew kernel and driver" in played.changes
    assert guest.run("cat /sys/module/nvidia/version").stdout == "580.190.01\n"
    assert version(guest, "linux-image-generic") == "7.8.0.90", "a kernel without its module would lose the card"
    module = Deb(f"linux-modules-nvidia-580-server-open-{new}", "580.190.01")
    archive(guest, *driver, module, *kernels(old, new))
    with guest.coming_back():
        played = guest.play("install-nvidia-driver", renewing)
    assert {"Renew kernel and driver", "Reboot into the renewed kernel"} <= set(played.changes)
    assert version(guest, "linux-image-generic") == "7.8.0.99"
    assert {"linux-image-generic", module.name, "nvidia-utils-580-server"} <= held(guest)
    assert guest.play("install-nvidia-driver", EVERYTHING).changes == []


@pytest.mark.parametrize("playbook", ["install-nvidia-driver", "install-rocm"])
def test_what_secure_boot_turns_down_is_not_built(guest: BootedGuest, playbook: str) -> None:
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    guest.run(f"mount -t tmpfs none /sys/firmware && mkdir -p {Path(variable).parent}")
    guest.run(f"printf '\\006\\000\\000\\000\\001' >{variable}")
    said = guest.play(playbook, {**EVERYTHING, "nvidia_driver_dkms": True}, code=2).text
    guest.run("umount /sys/firmware")
    assert "Secure Boot is on" in said
    assert version(guest, BUILT) == ""


def test_modules_are_built_in_the_guest_with_its_headers(guest: BootedGuest, first_run: Play) -> None:
    guest.run("apt-get -qy --allow-change-held-packages remove 'linux-modules-nvidia-*' 'linux-headers-*'")
    built = {**EVERYTHING, "nvidia_driver_dkms": True}
    assert guest.play("install-nvidia-driver", built, "--check").changed > 0
    guest.play("install-nvidia-driver", built)
    assert BUILT in held(guest)
    assert guest.run("modinfo -F version nvidia").stdout == version(guest, BUILT) + "\n"
    assert guest.play("install-nvidia-driver", built).changes == []


def test_the_base_lets_in_allowed_networks_alone(guest: BootedGuest, first_run: Play) -> None:
    with Outside(guest) as outside:
        for port in (8080, 8000):
            guest.run(f"systemd-run --quiet --unit=serve-{port} python3 -m http.server {port}")
        wait_for(lambda: guest.run("ss -ltn").stdout.count(":8000"), "the other port")
        wait_for(lambda: outside.reaches(8080), "the port of an engine")
        assert not outside.reaches(8000)
        closed = {**EVERYTHING, "guest_base_allowed_networks": ["192.168.7.0/24"]}
        said = " ".join(outside.play("configure-guest-base", closed, code=2).text.split())
        assert f"comes from {OURS}, which none of allowed_networks holds" in said
        assert outside.reaches(22)


def test_rules_that_keep_a_new_login_out_are_taken_back(guest: BootedGuest, first_run: Play) -> None:
    with Outside(guest) as outside:
        # A login server that listens where no rule expects it.
        guest.run("systemd-run --quiet --unit=other-sshd /usr/sbin/sshd -D -p 2222")
        guest.run("systemctl disable --now provisioner-firewall")
        wait_for(lambda: outside.reaches(2222), "the other login server")
        said = outside.play("configure-guest-base", EVERYTHING, "--timeout", "1", port=2222, code=4).text
        assert "UNREACHABLE" in said
        wait_for(lambda: outside.reaches(2222), "the way back", seconds=10)
        assert guest.run("systemctl is-enabled provisioner-firewall", check=False).stdout == "disabled\n"
