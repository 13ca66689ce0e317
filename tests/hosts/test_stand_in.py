"""The stand-in for a Proxmox VE host behaves as the real one does, and refuses what the real one refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from provisioner.lab.harness import RunningLab
from tests.pve_host import PveHost

GPU = "0000:01:00.0"
SOUND = "0000:01:00.1"
BIND = "options vfio-pci ids=10de:2204,10de:1aef\nsoftdep nouveau pre: vfio-pci\nsoftdep snd_hda_intel pre: vfio-pci\n"
ADD_TO_GRUB = 's/"quiet"/"quiet intel_iommu=on"/'


def ssh(host: PveHost, command: str) -> subprocess.CompletedProcess[str]:
    known_hosts = host.folder / "known_hosts"
    known_hosts.write_text(host.known_hosts_line)
    trust = ["-o", f"UserKnownHostsFile={known_hosts}", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-F", "none"]
    words = ["ssh", *trust, "-i", str(host.private_key), "-p", str(host.port), f"{host.user}@{host.address}", command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def must(host: PveHost, command: str) -> str:
    done = ssh(host, command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_old_kernel_on_intel_has_no_groups_until_its_loader_passes_the_flag(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", cpu="intel", kernel="old") as host:
        assert must(host, "find /sys/kernel/iommu_groups -type l") == ""
        must(host, f"sed -i '{ADD_TO_GRUB}' /etc/default/grub")
        host.reboot()
        assert "intel_iommu" not in host.running_command_line, "nobody ran update-grub"
        must(host, "update-grub")
        host.reboot()
        assert "intel_iommu=on" in must(host, "cat /proc/cmdline")
        assert f"/sys/kernel/iommu_groups/2/devices/{SOUND}" not in must(host, "find /sys/kernel/iommu_groups -type l")
        assert SOUND in must(host, "find /sys/kernel/iommu_groups -type l")
        assert "DMAR: IOMMU enabled" in must(host, "dmesg")


def test_editing_the_file_that_the_loader_does_not_read_has_no_effect(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", boot_loader="systemd-boot", kernel="old") as host:
        must(host, f"sed -i '{ADD_TO_GRUB}' /etc/default/grub && update-grub")
        host.reboot()
        assert "intel_iommu" not in host.running_command_line
        must(host, "sed -i 's/$/ intel_iommu=on/' /etc/kernel/cmdline")
        host.reboot()
        assert "intel_iommu" not in host.running_command_line, "nobody refreshed"
        must(host, "proxmox-boot-tool refresh")
        host.reboot()
        assert host.running_command_line.endswith("boot=zfs intel_iommu=on")
        assert host.running_command_line.startswith("initrd=\\EFI\\proxmox\\")


@pytest.mark.parametrize("boot_loader", ["grub", "systemd-boot"])
@pytest.mark.parametrize("cpu", ["intel", "amd"])
def test_vfio_gets_the_card_only_by_the_initrd(tmp_path: Path, cpu: str, boot_loader: str) -> None:
    with PveHost.typical(tmp_path / "pve1", cpu=cpu, boot_loader=boot_loader) as host:
        assert host.driver_of(GPU) == "nouveau"
        host.path("/etc/modprobe.d/vfio.conf").write_text(BIND)
        host.reboot()
        assert host.driver_of(GPU) == "nouveau"
        must(host, "update-initramfs -u -k all")
        host.reboot()
        assert (host.driver_of(GPU), host.driver_of(SOUND)) == ("vfio-pci", "vfio-pci")
        shown = must(host, f"lspci -nnk -s {GPU[5:]}")
        assert "Kernel driver in use: vfio-pci" in shown
        assert "vfio_pci" in must(host, "lsmod")


@pytest.mark.parametrize(
    ("lines", "driver"),
    [
        ("options vfio-pci ids=10de:2204\n", "nouveau"),
        ("options vfio-pci ids=10de:2204\nblacklist nouveau\n", None),
        ("options vfio-pci ids=10de:2204\nblacklist nouveau\nsoftdep snd_hda_intel pre: vfio-pci\n", "vfio-pci"),
        ("options vfio-pci ids=10de:9999\nsoftdep nouveau pre: vfio-pci\n", "nouveau"),
        ("# options vfio-pci ids=10de:2204\n# softdep nouveau pre: vfio-pci\n", "nouveau"),
    ],
)
def test_vfio_loses_the_race_that_it_loses_on_real_hosts(tmp_path: Path, lines: str, driver: str | None) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        host.path("/etc/modprobe.d/vfio.conf").write_text(lines)
        must(host, "update-initramfs -u")
        host.reboot()
        assert host.driver_of(GPU) == driver


def test_vfio_refuses_a_card_without_a_group(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", has_vtd=False) as host:
        host.path("/etc/modprobe.d/vfio.conf").write_text(BIND)
        must(host, f"update-initramfs -u; sed -i '{ADD_TO_GRUB}' /etc/default/grub; update-grub")
        host.reboot()
        assert host.driver_of(GPU) is None
        assert must(host, "find /sys/kernel/iommu_groups -type l") == ""


@pytest.mark.parametrize("command", ["reboot", "shutdown -r now", "systemctl reboot"])
def test_a_reboot_ends_the_session_and_comes_back_another_boot(tmp_path: Path, command: str) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        before = host.boot_id
        with host.reboots():
            ssh(host, f"{command}; sleep 60")
        assert must(host, "cat /proc/sys/kernel/random/boot_id").strip() == host.boot_id != before
        assert host.events == ["up", "down", "up"]


def test_a_host_that_cannot_boot_stays_away(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        host.path("/boot/grub/grub.cfg").write_text("menuentry 'nothing' {\n}\n")
        with pytest.raises(RuntimeError, match="does-not-boot"), host.reboots(seconds=3):
            ssh(host, "reboot")
        assert ssh(host, "true").returncode == 255


def test_the_boot_tool_refuses_a_command_line_without_a_root(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", boot_loader="systemd-boot") as host:
        host.path("/etc/kernel/cmdline").write_text("intel_iommu=on\n")
        done = ssh(host, "proxmox-boot-tool refresh")
        assert (done.returncode, "No root= parameter" in done.stderr) == (1, True)


def test_a_broken_grub_file_fails_to_compile_and_leaves_the_old_one(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        before = host.read("/boot/grub/grub.cfg")
        host.path("/etc/default/grub").write_text('GRUB_CMDLINE_LINUX_DEFAULT="quiet\n')
        assert ssh(host, "update-grub").returncode != 0
        assert host.read("/boot/grub/grub.cfg") == before


def test_pvesh_acts_as_root_and_speaks_json(tmp_path: Path) -> None:
    with RunningLab(tmp_path / "lab") as lab, PveHost.typical(tmp_path / "pve1", lab=lab) as host:
        version = json.loads(must(host, "pvesh get /version --output-format json"))
        assert version["release"].startswith("9")
        must(host, "pvesh create /access/roles --roleid Tester --privs VM.Audit")
        roles = json.loads(must(host, "pvesh get /access/roles --output-format json"))
        assert any(role["roleid"] == "Tester" for role in roles)
        again = ssh(host, "pvesh create /access/roles --roleid Tester --privs VM.Audit")
        assert (again.returncode, "already exists" in again.stderr) == (255, True)
        missing = ssh(host, "pvesh get /no/such/thing --output-format json")
        assert (missing.returncode, missing.stderr) == (1, "No 'get' handler defined for '/no/such/thing'\n")
        wrong = ssh(host, "pvesh create /access/roles --nonsense 1")
        assert wrong.stderr.startswith("400 Parameter verification failed.\n")
        must(host, "pvesh delete /access/roles/Tester")
        assert [who["user"] for who in lab.requests()[-1:]] == ["root@pam"]


@pytest.mark.parametrize(("sudo", "words"), [("password", "a password is required"), (None, "a password is required")])
def test_sudo_is_real(tmp_path: Path, sudo: str | None, words: str) -> None:
    with PveHost.typical(tmp_path / "pve1", user="admin", sudo=sudo) as host:
        assert must(host, "id -un").strip() == "admin"
        assert ssh(host, "dmesg").returncode == 1
        done = ssh(host, "sudo -n true")
        assert (done.returncode, words in done.stderr) == (1, True)
    with PveHost.typical(tmp_path / "pve2", user="admin", sudo="free") as host:
        assert must(host, "sudo -n id -u").strip() == "0"


def test_nothing_of_the_real_machine_is_seen_or_changed(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        assert ssh(host, "touch /usr/lib/trace").returncode == 1
        must(host, "echo trace > /etc/trace; echo trace > /var/lib/trace; echo trace > /tmp/trace")
        assert not any(Path(place, "trace").exists() for place in ("/etc", "/var/lib", "/tmp"))
        assert must(host, "hostname").strip() == "pve1"
        host.lock_etc()
        assert "Read-only file system" in ssh(host, "echo more > /etc/trace").stderr
        must(host, "echo more > /var/lib/trace")
