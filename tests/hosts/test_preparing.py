"""`prepare` on a stand-in host: real Ansible over a real sshd, boot loaders that read what was compiled, reboots."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.errors import HypervisorError, InputError, NotReadyError, RefusedError
from provisioner.planning.host.preparation.binding import MODPROBE_FILE, SCRIPT_FILE
from provisioner.planning.host.preparation.modules import MODULES_FILE
from provisioner.planning.readiness import failures
from provisioner.services.preparing import PrepareChoices
from tests.hosts.preparing import CARD, GPU, SOUND, Prepared, hypervisor
from tests.pve_host import PveHost
from tests.pve_host.typical import typical_sections

GRUB, SYSTEMD = "/etc/default/grub", "/etc/kernel/cmdline"
RECORD = "/var/lib/provisioner/prepared"


@pytest.mark.parametrize(
    ("loader", "cpu", "file", "words"),
    [
        ("grub", "intel", GRUB, "quiet intel_iommu=on iommu=pt"),
        pytest.param("grub", "amd", GRUB, "quiet iommu=pt", marks=pytest.mark.long),
        pytest.param("systemd-boot", "intel", SYSTEMD, "boot=zfs intel_iommu=on iommu=pt", marks=pytest.mark.long),
        ("systemd-boot", "amd", SYSTEMD, "boot=zfs iommu=pt"),
    ],
)
def test_prepared_rebooted_verified_and_taken_back(
    tmp_path: Path, loader: str, cpu: str, file: str, words: str
) -> None:
    with PveHost.typical(tmp_path / "pve1", boot_loader=loader, cpu=cpu, kernel="old") as host:
        there = Prepared(host)
        before, started_with = there.files(), host.running_command_line
        preview = there.preview()
        assert there.files() == before, "looking changes nothing"
        assert [change.path for change in preview.preparation.files] == [file, MODULES_FILE, MODPROBE_FILE]
        report = there.service.apply(preview)
        assert not failures(report.checks)
        assert host.running_command_line == started_with, "it never reboots by itself"
        assert [name for name, *_ in host.commands() if name in ("reboot", "shutdown")] == []

        again = there.preview()
        assert not again.preparation.is_needed
        assert any("iommu=pt" in reason for reason in again.preparation.reboot_for)

        arrival = there.service.reboot(preview, seconds=60)
        assert {check.status.value for check in arrival.checks} == {"ok"}
        assert host.running_command_line.endswith(words)
        assert (host.driver_of(CARD), host.driver_of(SOUND)) == ("vfio-pci", "vfio-pci")
        assert not there.preview().preparation.is_needed

        undone = there.undo()
        assert undone.left == ()
        assert there.files() == before, "every file as it was, and nothing of ours"
        host.reboot()
        assert host.running_command_line == started_with
        assert host.driver_of(CARD) == "nouveau"


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """`prepare` on a host whose kernel leaves Intel's IOMMU off."""
    with PveHost.typical(tmp_path / "pve1", kernel="old") as host:
        yield Prepared(host)  # type: ignore[misc]


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("Write down what is about to change", marks=pytest.mark.long),
        "Write the files",
        pytest.param("Rebuild the initramfs", marks=pytest.mark.long),
    ],
)
def test_a_run_that_was_killed_is_continued_and_can_be_taken_back(prepared: Prepared, task: str) -> None:
    before = prepared.files()
    prepared.killed_at(task)
    # The play got a signal with us; what it had begun on the host may still end.
    report = prepared.prepare()
    assert not failures(report.checks)
    assert not prepared.preview().preparation.is_needed
    prepared.host.reboot()
    assert prepared.host.running_command_line.endswith("intel_iommu=on iommu=pt")
    assert prepared.host.driver_of(CARD) == "vfio-pci"
    prepared.undo()
    assert prepared.files() == before


@pytest.mark.long
def test_a_run_that_was_killed_half_way_can_be_taken_back_at_once(prepared: Prepared) -> None:
    before = prepared.files()
    prepared.killed_at("Rebuild the initramfs")
    assert prepared.service.preview_undo(hypervisor(prepared.host)).preparation.commands
    prepared.undo()
    assert prepared.files() == before


def test_a_connection_that_breaks_in_the_middle_is_said_and_the_next_run_continues(prepared: Prepared) -> None:
    host = prepared.host
    host.hang("update-initramfs")

    def cut(task: str) -> None:
        if task == "Rebuild the initramfs":
            waiting = threading.Thread(target=_cut_when_running, args=(host, "update-initramfs"))
            waiting.start()

    with pytest.raises(HypervisorError, match='the connection broke at "Rebuild the initramfs"') as caught:
        prepared.prepare(on_start=cut)
    assert caught.value.retryable
    host.unhang("update-initramfs")
    preview = prepared.preview()
    assert preview.preparation.files == ()
    assert [command.line for command in preview.preparation.commands] == ["update-initramfs -u -k all", "update-grub"]
    with pytest.raises(RefusedError, match=r"update-initramfs -u -k all, update-grub is due"):
        prepared.service.reboot(preview, seconds=30)
    assert not failures(prepared.service.apply(preview).checks)
    assert not prepared.preview().preparation.is_needed


def _cut_when_running(host: PveHost, command: str) -> None:
    while not host.commands(command):
        threading.Event().wait(0.05)
    host.cut_sessions()


def test_a_tool_that_fails_leaves_words_and_a_mark(prepared: Prepared) -> None:
    host = prepared.host
    host.fail("update-initramfs", "gzip: stdout: No space left on device")
    with pytest.raises(HypervisorError) as caught:
        prepared.prepare()
    assert '"Rebuild the initramfs" failed: gzip: stdout: No space left on device' in caught.value.summary
    assert "do not reboot before another run has succeeded" in caught.value.summary
    assert caught.value.next_step.startswith("make room there")
    assert host.commands("update-grub") == []
    assert [each.value for each in prepared.preview().state.refresh_needed] == [
        "update-initramfs -u -k all",
        "update-grub",
    ]


def test_a_file_that_changes_between_looking_and_doing_stops_everything(prepared: Prepared) -> None:
    preview = prepared.preview()
    path = prepared.host.path(GRUB)
    path.write_text(path.read_text() + "# meanwhile\n")
    before = prepared.files()
    with pytest.raises(HypervisorError, match=r"/etc/default/grub is no longer what the diff was made from"):
        prepared.service.apply(preview)
    assert prepared.files() == before


def test_undo_leaves_what_the_admin_edited_since(prepared: Prepared) -> None:
    original = prepared.host.read(GRUB)
    prepared.prepare()
    path = prepared.host.path(GRUB)
    path.write_text(path.read_text().replace("GRUB_TIMEOUT=5", "GRUB_TIMEOUT=1"))
    report = prepared.undo()
    assert "GRUB_TIMEOUT=1" in prepared.host.read(GRUB)
    assert not prepared.host.path(MODPROBE_FILE).exists()
    (left,) = report.left
    assert left.startswith("/etc/default/grub was edited after our change")
    copy = left.split("the original is ")[1].split(":")[0]
    assert prepared.host.read(copy) == original
    # Prepared once more, the edit is what undo goes back to.
    path.write_text(path.read_text().replace(" intel_iommu=on", ""))
    edited = prepared.host.read(GRUB)
    prepared.prepare()
    assert "intel_iommu=on" in prepared.host.read(GRUB)
    prepared.undo()
    assert prepared.host.read(GRUB) == edited
    assert prepared.host.read(copy) == original


def test_a_read_only_etc_is_refused_before_anything(prepared: Prepared) -> None:
    before = prepared.files()
    prepared.host.lock_etc()
    preview = prepared.preview()
    assert preview.preparation.refusals[0].problem == "/etc cannot be written"
    with pytest.raises(RefusedError, match="/etc cannot be written") as caught:
        prepared.service.apply(preview)
    assert "mount -o remount,rw /" in caught.value.next_step
    assert prepared.files() == before


@pytest.mark.parametrize("undo", [False, True])
def test_a_server_that_its_cluster_calls_otherwise_is_not_touched(prepared: Prepared, undo: bool) -> None:
    """The fleet file may say the address of another server, even one with the very same cards."""
    before = prepared.files()
    (prepared.host.root / "etc/pve/local").symlink_to("nodes/pve2")
    with pytest.raises(InputError, match='its cluster calls it "pve2"') as caught:
        prepared.undo() if undo else prepared.preview()
    assert "hypervisors.pve1.ssh.address" in caught.value.next_step
    assert prepared.files() == before
    (prepared.host.root / "etc/pve/local").unlink()
    (prepared.host.root / "etc/pve/local").symlink_to("nodes/pve1")
    assert prepared.preview().preparation.is_needed


def test_a_host_without_python_is_told_what_to_install(prepared: Prepared) -> None:
    prepared.host.remove_command("python3")
    (refusal,) = prepared.preview().preparation.refusals
    assert refusal.next_step == "apt install python3-minimal"


def test_a_full_disk_stops_it_before_the_first_change(prepared: Prepared) -> None:
    before = prepared.files()
    preview = prepared.preview()
    prepared.host.fill("/var/lib/provisioner")
    with pytest.raises(HypervisorError, match="No space left on device") as caught:
        prepared.service.apply(preview)
    assert caught.value.next_step.startswith("make room there")
    assert {name: found for name, found in prepared.files().items() if not name.startswith("/var")} == before


def test_a_host_that_never_comes_back_is_given_up_in_time(prepared: Prepared) -> None:
    preview = prepared.preview()
    prepared.service.apply(preview)
    prepared.host.stay_down()
    with pytest.raises(NotReadyError, match=r"no answer within 6\.0 s") as caught:
        prepared.service.reboot(preview, seconds=6)
    assert "look at its own console" in caught.value.next_step
    assert "prepare pve1 --undo" in caught.value.next_step


def test_a_host_that_boots_from_a_partition_that_nobody_keeps_is_told_so(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", boot_loader="systemd-boot", cpu="intel", kernel="old") as host:
        there = Prepared(host)
        host.path("/etc/kernel/proxmox-boot-uuids").write_text("DEAD-BEEF\n")
        preview = there.preview()
        there.service.apply(preview)
        arrival = there.service.reboot(preview, seconds=60)
        (check,) = [check for check in arrival.failed if check.id == "command_line"]
        assert "/proc/cmdline lacks intel_iommu=on iommu=pt, so it booted from something older" in check.found
        assert "the firmware booted Linux Boot Manager" in check.found
        assert "proxmox-boot-tool keeps DEAD-BEEF; of which there is no DEAD-BEEF" in check.found
        assert "proxmox-boot-tool init PARTITION" in check.next_step


def test_of_two_identical_cards_only_the_fleets_one_is_taken(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", gpus=2) as host:
        there = Prepared(host)
        preview = there.preview(PrepareChoices(gpu_slots={GPU: ("0000:01:00",)}))
        assert SCRIPT_FILE in [change.path for change in preview.preparation.files]
        there.service.apply(preview)
        assert host.path(SCRIPT_FILE).stat().st_mode & 0o777 == 0o755
        assert not there.service.reboot(preview, seconds=60).failed
        assert (host.driver_of(CARD), host.driver_of("0000:02:00.0")) == ("vfio-pci", "nouveau")


def test_the_only_card_with_a_screen_is_not_bound_without_consent(tmp_path: Path) -> None:
    sections, groups = typical_sections(
        cpu="amd", boot_loader="grub", kernel="new", gpus=1, shared=False, has_vtd=True, secure_boot=False
    )
    parts = sections["lspci"].split("0000:")
    sections["lspci"] = "0000:".join(part for part in parts if not part.startswith("13:00.0"))
    with PveHost(tmp_path / "pve1", sections, groups_when_on=groups) as host:
        there = Prepared(host)
        before = there.files()
        with pytest.raises(RefusedError, match=r"draws this server's own console") as caught:
            there.prepare()
        assert "--i-have-another-console" in caught.value.next_step
        assert there.files() == before
        there.prepare(PrepareChoices(has_another_console=True))
        assert "options vfio-pci ids=10de:2204,10de:1aef" in host.read(MODPROBE_FILE)


def test_a_user_with_sudo_is_enough_and_every_byte_of_a_file_stays(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1", user="admin") as host:
        there = Prepared(host)
        path = host.path(GRUB)
        # Ansible's own marks, tabs, a form feed, another language, no line feed at the end, a mode of its own.
        odd = "#\t{{ x }} {% raw %} \x0c größer\n" + path.read_text() + '\n# {"json": [1]}'
        path.write_text(odd)
        path.chmod(0o640)
        before = there.files()
        assert not failures(there.prepare().checks)
        assert host.read(GRUB) == odd.replace('DEFAULT="quiet"', 'DEFAULT="quiet iommu=pt"')
        assert path.stat().st_mode & 0o777 == 0o640
        assert host.path(MODULES_FILE).stat().st_uid == 0
        there.undo()
        assert there.files() == before


@pytest.fixture
def sockets() -> Iterator[str]:
    """A folder with a short name: the path of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as folder:
        yield folder


def test_the_playbook_runs_by_hand_with_saved_variables(prepared: Prepared, sockets: str) -> None:
    host = prepared.host
    variables = host.folder / "pve1.yml"
    prepared.service.save_variables(variables, prepared.preview())
    before = prepared.files()

    def play(*more: str) -> str:
        known_hosts = host.folder / "known_hosts"
        known_hosts.write_text(host.known_hosts_line)
        inventory = host.folder / "inventory.ini"
        trust = f"-o UserKnownHostsFile={known_hosts} -o GlobalKnownHostsFile=/dev/null"
        inventory.write_text(
            f"pve1 ansible_host={host.address} ansible_port={host.port} ansible_user=root "
            f"ansible_ssh_private_key_file={host.private_key} ansible_ssh_common_args='{trust}'\n"
        )
        books = shipped_folder("playbooks")
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), *more],
            env={"PATH": "/usr/bin:/bin", "HOME": str(host.folder), "LC_ALL": "C.UTF-8",
                 "ANSIBLE_CONFIG": str(books / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
                 "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets},
            capture_output=True,
            text=True,
            timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    book = str(shipped_folder("playbooks") / "prepare-hypervisor.yml")
    shown = play(book, "-e", f"@{variables}", "--check", "--diff")
    assert '+GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iommu=pt"' in shown
    assert prepared.files() == before
    assert "changed=0" not in play(book, "-e", f"@{variables}")
    assert not prepared.preview().preparation.is_needed
    assert "changed=0" in play(book, "-e", f"@{variables}")
    undo = str(shipped_folder("playbooks") / "undo-hypervisor-preparation.yml")
    play(undo, "--check", "--diff")
    assert not prepared.preview().preparation.is_needed, "a check changes nothing"
    play(undo)
    assert prepared.files() == before
    assert "changed=0" in play(undo)
