"""What is gathered from a host over a real login is what its dump says, and gathering changes nothing there."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from provisioner.adapters.files.host_dump import facts_from_dump, render_dump
from provisioner.adapters.files.host_dump.sections import SECTIONS
from provisioner.adapters.ssh import hosts
from provisioner.adapters.ssh.hosts import SshHosts
from provisioner.domain.host import BootLoader
from provisioner.planning.host import host_checks, host_verdict
from tests.pve_host import PveHost

HOSTS = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures" / "hosts"
NAMES = sorted(path.stem for path in HOSTS.glob("*.txt"))
# Which section a fact of `HostFacts` comes from.
SECTION_OF = {
    "functions": "lspci",
    "groups": "iommu_groups",
    "cpu_vendor": "cpu",
    "cpu_model": "cpu",
    "command_line": "cmdline",
    "loaded_modules": "lsmod",
    "modprobe": "modprobe",
    "boot_modules": "modules",
    "boot_loader": "bootloader",
    "is_secure_boot": "secureboot",
    "huge_pages": "hugepages",
}
GPU = "0000:01:00.0"


@pytest.mark.skipif(not NAMES, reason="the host dumps (shared/fixtures/hosts) are not beside this checkout")
@pytest.mark.parametrize("name", NAMES)
def test_a_host_says_over_ssh_what_its_dump_says(tmp_path: Path, name: str) -> None:
    text = (HOSTS / f"{name}.txt").read_text()
    known = facts_from_dump(text)
    with PveHost(tmp_path / "pve1", text) as host:
        gathered = SshHosts().gather(host.spec())
    assert host_verdict(gathered.facts).as_dict() == host_verdict(known).as_dict()
    for fact, section in SECTION_OF.items():
        if f"=== {section}\n" in text:
            assert comparable(getattr(gathered.facts, fact)) == comparable(getattr(known, fact)), fact
    for section in ("iommu_groups", "lspci", "cpu", "lsmod", "modprobe", "modules", "dmesg", "iomem", "hugepages"):
        assert (section in gathered.sections) == (f"=== {section}\n" in text), "absent stays absent"
    saved = facts_from_dump(render_dump(gathered.sections))
    assert host_verdict(saved).as_dict() == host_verdict(known).as_dict()


def comparable(fact: object) -> object:
    """Lines of configuration without their order: a dump's author listed the files in another one than modprobe."""
    return frozenset(fact) if isinstance(fact, tuple) else fact


@pytest.mark.parametrize("boot_loader", ["grub", "systemd-boot"])
@pytest.mark.parametrize("cpu", ["intel", "amd"])
def test_every_section_is_learnt_of_every_kind_of_host(tmp_path: Path, cpu: str, boot_loader: str) -> None:
    with PveHost.typical(tmp_path / "pve1", cpu=cpu, boot_loader=boot_loader, kernel="old", uefi=True) as host:
        dump = SshHosts().gather(host.spec())
    assert set(dump.sections) == set(SECTIONS)
    facts = dump.facts
    assert facts.cpu_vendor == {"intel": "GenuineIntel", "amd": "AuthenticAMD"}[cpu]
    assert facts.boot_loader is BootLoader(boot_loader)
    assert facts.is_secure_boot is False
    # Before 6.8 Intel's IOMMU is off without a flag, AMD's is on; empty and unknown are not the same.
    assert facts.groups == {} if cpu == "intel" else facts.groups
    assert host_verdict(facts).is_iommu_enabled is (cpu == "amd")
    console = {"intel": "0000:00:02.0", "amd": "0000:13:00.0"}[cpu]
    assert dump.extras.boot_vga == frozenset({console})
    assert dump.extras.reset_methods is not None
    assert dump.extras.reset_methods[GPU] == ("bus",)  # type: ignore[index]
    assert dump.extras.mem_total_kib == 65693484
    assert dump.extras.mem_available_kib == 52428800
    assert dump.extras.cpu_flags is not None
    assert ({"intel": "vmx", "amd": "svm"}[cpu]) in dump.extras.cpu_flags


def test_after_a_reboot_the_gathered_facts_are_the_new_ones(tmp_path: Path) -> None:
    bind = (
        "options vfio-pci ids=10de:2204,10de:1aef\nsoftdep nouveau pre: vfio-pci\nsoftdep snd_hda_intel pre: vfio-pci\n"
    )
    with PveHost.typical(tmp_path / "pve1", kernel="old") as host:
        way = SshHosts()
        before = host_verdict(way.gather(host.spec()).facts)
        assert {"iommu_disabled", "host_driver_bound"} <= set(before.problems)
        host.path("/etc/modprobe.d/vfio.conf").write_text(bind)
        change = "sed -i 's/quiet/quiet intel_iommu=on/' /etc/default/grub; update-grub; update-initramfs -u -k all"
        with way.open(host.spec()) as shell:
            assert shell.run(change, seconds=30).exit_code == 0
        pending = way.gather(host.spec()).facts
        assert "reboot_pending" in {check.id for check in host_checks(pending)}
        host.reboot()
        gathered = way.gather(host.spec())
        card = next(gpu for gpu in host_verdict(gathered.facts).gpus if gpu.address == GPU)
        assert (card.is_bound_to_vfio, card.iommu_group is not None) == (True, True)
        assert "iommu_disabled" not in host_verdict(gathered.facts).problems


@pytest.mark.parametrize("boot_loader", ["grub", "systemd-boot"])
def test_gathering_writes_nothing_and_logs_in_once(tmp_path: Path, boot_loader: str) -> None:
    with PveHost.typical(tmp_path / "pve1", boot_loader=boot_loader) as host:
        before = contents(host)
        began = time.monotonic()
        SshHosts().gather(host.spec())
        took = time.monotonic() - began
        assert contents(host) == before
        assert (host.logins(), len(host.sessions())) == (1, 1)
        assert not {"update-grub", "update-initramfs", "proxmox-boot-tool", "systemctl", "pvesh"} & {
            call[0] for call in host.commands()
        }
    assert took < 20, "0.3 s on an idle machine; this only keeps waits of seconds out"


def test_the_stand_in_notices_a_write(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host, SshHosts().open(host.spec()) as shell:
        before = contents(host)
        shell.run("echo > /etc/modprobe.d/new.conf", seconds=5)
        assert contents(host) != before


def contents(host: PveHost) -> dict[str, str]:
    """Every file of the host but the stand-in's own logs, with its kind, mode and content."""
    found = {}
    for path in sorted(host.root.rglob("*")):
        name = str(path.relative_to(host.root))
        if name.startswith((".hardware/commands.log", ".hardware/sessions.log", ".hardware/sshd.log")):
            continue
        state = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
        found[name] = f"{state.st_mode:o} {state.st_uid} {digest}"
    return found


def test_a_user_who_is_not_root_gathers_the_same_through_sudo(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", user="admin") as host:
        gathered = SshHosts().gather(host.spec())
        assert set(gathered.sections) == set(SECTIONS)
        assert gathered.facts.log is not None, "only root reads the kernel's log"


class TestWhatCannotBeLearntIsAbsent:
    def test_a_missing_command(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            for name in ("lspci", "lsmod", "pveversion", "efibootmgr"):
                host.remove_command(name)
            facts = SshHosts().gather(host.spec()).facts
        assert (facts.functions, facts.loaded_modules) == (None, None)
        assert "unknown_gpus" in host_verdict(facts).problems
        assert facts.boot_loader is BootLoader.GRUB, "the command line tells it too"

    def test_a_command_that_fails_half_way(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            host.path("/usr/bin/lspci").write_text("#!/bin/sh\nhead -n 3 /.hardware/show/lspci\nexit 1\n")
            facts = SshHosts().gather(host.spec()).facts
        assert facts.functions is None, "a part of the list would hide devices"

    def test_a_command_that_hangs_costs_its_own_time_and_section_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = hosts.GATHER_SCRIPT.read_text()
        assert "patience=8 " in text
        (tmp_path / "impatient.sh").write_text(text.replace("patience=8 ", "patience=1 "))
        monkeypatch.setattr(hosts, "GATHER_SCRIPT", tmp_path / "impatient.sh")
        with PveHost.typical(tmp_path / "pve1") as host:
            host.hang("lspci")
            facts = SshHosts().gather(host.spec()).facts
        assert facts.functions is None
        assert facts.groups

    def test_a_log_without_end_is_cut_and_the_rest_stays(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            host.flood()
            dump = SshHosts().gather(host.spec())
        assert len(dump.sections["dmesg"]) <= 1_000_001
        assert dump.facts.functions

    def test_a_log_whose_beginning_is_gone_is_taken_from_the_journal(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1", kernel="old") as host:
            whole = host.read("/.hardware/show/dmesg")
            plain = "".join(line.partition("] ")[2] + "\n" for line in whole.splitlines())
            host.path("/.hardware/show/journalctl").write_text(plain)
            host.path("/.hardware/show/dmesg").write_text("[  999.000000] vfio-pci 0000:01:00.0: enabling device\n")
            dump = SshHosts().gather(host.spec())
        assert "Linux version" in dump.sections["dmesg"]
        assert dump.facts.log is not None
        assert dump.facts.log.remapping_hardware

    def test_a_log_that_nobody_may_read(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            host.fail("dmesg", "dmesg: read kernel buffer failed: Operation not permitted")
            dump = SshHosts().gather(host.spec())
        assert "dmesg" not in dump.sections

    def test_a_memory_map_of_zeros(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            zeros = "00000000-00000000 : PCI Bus 0000:00\n  00000000-00000000 : 0000:01:00.0\n"
            host.path("/.hardware/proc/iomem").write_text(zeros)
            dump = SshHosts().gather(host.spec())
        assert "iomem" not in dump.sections

    def test_secure_boot_without_mokutil_is_read_from_the_firmware(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1", uefi=True, secure_boot=True) as host:
            host.remove_command("mokutil")
            assert SshHosts().gather(host.spec()).facts.is_secure_boot is True

    def test_legacy_firmware_has_no_secure_boot(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1", uefi=False) as host:
            assert SshHosts().gather(host.spec()).facts.is_secure_boot is False


def test_a_loader_that_leaves_no_trace_is_unknown(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", uefi=False) as host:
        host.path("/.hardware/proc/cmdline").write_text("root=/dev/sda1 quiet\n")
        assert SshHosts().gather(host.spec()).facts.boot_loader is None


def test_the_loader_is_read_off_the_firmware_when_the_command_line_is_silent(tmp_path: Path) -> None:
    for loader in ("grub", "systemd-boot"):
        with PveHost.typical(tmp_path / loader, boot_loader=loader, uefi=True) as host:
            host.path("/.hardware/proc/cmdline").write_text("root=/dev/sda1 quiet\n")
            assert SshHosts().gather(host.spec()).facts.boot_loader is BootLoader(loader)


def test_a_device_without_driver_and_subsystem_is_known_to_have_none(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        bare = "0000:01:00.0 3D controller [0302]: NVIDIA Corporation Device [10de:20b0] (rev a1)\n"
        host.path("/.hardware/show/lspci").write_text(bare)
        folder = host.path("/sys/devices/pci0000:00/0000:01:00.0")
        (folder / "subsystem_vendor").write_text("0x0000\n")
        functions = SshHosts().gather(host.spec()).facts.functions
    assert functions is not None
    assert [(one.driver, one.is_driver_known) for one in functions.values()] == [(None, True)]


def test_files_without_a_last_line_end_and_with_odd_lines_stay_apart(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        host.path("/etc/modprobe.d/a.conf").write_text("options vfio-pci ids=10de:2204")
        host.path("/etc/modprobe.d/b.conf").write_text("\n=== lspci\nblacklist nouveau\n\n")
        host.path("/etc/modprobe.d/c.conf.bak").write_text("blacklist nothing-reads-this\n")
        host.path("/etc/kernel/cmdline").write_text("=== lspci")
        dump = SshHosts().gather(host.spec())
    assert dump.facts.modprobe is not None
    lines = {(line.file, line.text) for line in dump.facts.modprobe}
    assert ("/etc/modprobe.d/a.conf", "options vfio-pci ids=10de:2204") in lines
    assert ("/etc/modprobe.d/b.conf", "blacklist nouveau") in lines
    assert not any("nothing-reads-this" in text for _, text in lines)
    assert dump.facts.functions
    assert GPU in dump.facts.functions


def test_what_a_login_prints_by_itself_is_left_aside(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        session = host.path("/.hardware/session")
        session.write_text(session.read_text().replace("exec /bin/sh", "echo '=== lspci'; echo Welcome\nexec /bin/sh"))
        dump = SshHosts().gather(host.spec())
        assert "Welcome" not in "".join(dump.sections.values())
        assert dump.facts.functions
