"""`provisioner prepare` as a person and as a script see it: a stand-in host beside an embedded Proxmox."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.hosts.preparing import CARD, Prepared
from tests.hosts.test_doctor_on_hosts import as_the_api_shows
from tests.lab.preparing import everything, make_bare
from tests.lab.support import Site, site_for
from tests.pve_host import PveHost

GUEST = {"vmid": "200", "name": "games", "scsi0": "local-lvm:1", "boot": "order=scsi0"}


@dataclass
class Place:
    """A lab where nobody prepared anything, the host that it pretends to run on, and our command."""

    site: Site
    host: PveHost

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "provisioner", "prepare", *words],
            env=self.site.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def at_terminal(self, answers: list[tuple[str, str]], *words: str) -> tuple[int, str]:
        """Run it on a terminal; each answer is typed when its question is shown."""
        process_id, terminal = pty.fork()
        if process_id == 0:
            os.execve(sys.executable, [sys.executable, "-m", "provisioner", "prepare", *words], self.site.environment)
        shown, deadline = "", time.monotonic() + 240
        waiting = list(answers)
        while time.monotonic() < deadline:
            try:
                piece = os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the other end is gone
                break
            if not piece:
                break
            shown += piece
            if waiting and waiting[0][0] in shown:
                os.write(terminal, waiting.pop(0)[1].encode())
        os.close(terminal)
        assert not waiting, shown
        return os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]), shown


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """On the host, Intel's IOMMU is off."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        site = site_for(lab, tmp_path, images)
        make_bare(site)
        lab.finish(lab.call("POST", "/nodes/pve1/qemu", **GUEST))
        lab.finish(lab.call("POST", "/nodes/pve1/qemu/200/status/start"))
        with PveHost.typical(tmp_path / "pve1", kernel="old", lab=lab) as host:
            text = site.fleet_file.read_text()
            lines = [line for line in text.splitlines(keepends=True) if not line.startswith("      rtx3060:")]
            ssh = host.ssh
            way_in = (
                f"    ssh: {{address: {ssh.address}, user: {ssh.user}, port: {ssh.port}, "
                f'host_key: "{ssh.host_key}", private_key: {ssh.private_key}}}\n'
            )
            at = next(number for number, line in enumerate(lines) if line.startswith("  pve1:")) + 1
            site.fleet_file.write_text("".join([*lines[:at], way_in, *lines[at:]]))
            yield Place(site, host)


def test_a_script_prepares_reboots_verifies_and_takes_it_all_back(place: Place) -> None:
    host, site = place.host, place.site
    files, rights = Prepared(host).files(), everything(site)
    done = place.command("pve1", "--yes", "--reboot", "--wait-for", "60s")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        '-GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n+GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iommu=pt"\n',
        "update-initramfs -u -k all",
        "$ pvesh create /access/roles --roleid ",
        "pve1 shuts down VM 200 (games).",
        "[ok] boot_menu: has intel_iommu=on iommu=pt",
        "pve1 is back:\n[ok] rebooted: this is another boot",
        "[ok] driver_0000:01:00.0: vfio-pci has 0000:01:00.0",
        "IOMMU on",  # the doctor
    ):
        assert words in done.stdout, done.stdout
    assert host.driver_of(CARD) == "vfio-pci"

    again = place.command("pve1", "--yes", "--reboot")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "pve1, the server itself: nothing has to change" in again.stdout
    assert "rights in cluster lab: nothing has to change" in again.stdout
    assert "nothing waits for a reboot, so there is none" in again.stdout
    assert host.events.count("down") == 1

    undone = place.command("pve1", "--undo", "--yes")
    assert undone.returncode == 0, undone.stdout + undone.stderr
    assert "next: reboot pve1 when it suits" in undone.stdout
    assert Prepared(host).files() == files
    assert everything(site) == rights
    nothing = place.command("pve1", "--undo", "--yes")
    assert "there is nothing to take back" in nothing.stdout


def test_a_person_is_asked_twice_and_may_say_no_each_time(place: Place) -> None:
    before, rights = Prepared(place.host).files(), everything(place.site)
    code, shown = place.at_terminal([("Go on?", "n\n")], "pve1")
    assert (code, Prepared(place.host).files(), everything(place.site)) == (1, before, rights), shown
    assert "nothing was changed" in shown
    code, shown = place.at_terminal([("Go on?", "y\n"), ("Reboot now?", "n\n")], "pve1", "--reboot", "--only", "host")
    assert code == 0, shown
    assert "it was not rebooted" in shown
    assert "down" not in place.host.events
    assert Prepared(place.host).files() != before
    assert everything(place.site) == rights, "only the host was meant"


def test_without_a_terminal_and_without_consent_the_plan_is_shown_and_nothing_done(place: Place) -> None:
    before, rights = Prepared(place.host).files(), everything(place.site)
    done = place.command("pve1", "--json")
    assert done.returncode == 2
    plan = json.loads(done.stdout.splitlines()[0])["plan"]
    assert plan["host"]["files"][0]["path"] == "/etc/default/grub"
    assert plan["host"]["running_guests"] == ["VM 200 (games)"]
    assert plan["access"]["steps"][0]["command"].startswith("pvesh create /access/roles")
    assert "add --yes" in done.stderr
    assert (Prepared(place.host).files(), everything(place.site)) == (before, rights)


@pytest.mark.long
def test_each_half_can_be_done_alone_and_json_tells_every_step(place: Place) -> None:
    rights = everything(place.site)
    done = place.command("pve1", "--only", "host", "--yes", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    steps = {line["event"]["step"]: line["event"] for line in lines if "event" in line}
    assert steps["Write the files"]["changed"] is True
    assert steps["Rebuild GRUB's menu"]["phase"] == "done"
    assert steps["Refresh the EFI system partitions"]["phase"] == "started", "it does not apply to this host"
    assert lines[-1]["result"]["host"]["checks"][0]["status"] == "ok"
    assert everything(place.site) == rights
    written = Prepared(place.host).files()
    done = place.command("pve1", "--only", "access", "--yes", "--show-secret")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"secret: {place.site.lab.token()}" in done.stdout
    assert Prepared(place.host).files() == written
    assert everything(place.site) != rights


def test_a_password_is_a_way_to_the_rights_without_ssh(place: Place) -> None:
    text = place.site.fleet_file.read_text()
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("    ssh: {address")]
    place.site.fleet_file.write_text("".join(lines))
    refused = place.command("pve1")
    assert refused.returncode == 1
    assert "ssh" in refused.stderr
    os.environ["A_PASSWORD"] = place.site.lab.credentials["root@pam"]
    try:
        done = place.command("pve1", "--only", "access", "--login", "root@pam", "--password", "env:A_PASSWORD", "--yes")
    finally:
        del os.environ["A_PASSWORD"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.environ.get("A_PASSWORD") is None
    assert place.host.sessions() == []


def test_variables_are_saved_once_and_nothing_is_changed(place: Place) -> None:
    before = Prepared(place.host).files()
    file = place.site.folder / "pve1.yml"
    assert place.command("pve1", "--save-variables", str(file)).returncode == 0
    assert "prepared_files:" in file.read_text()
    assert Prepared(place.host).files() == before
    again = place.command("pve1", "--save-variables", str(file))
    assert again.returncode == 1
    assert "cannot save the variables: File exists" in again.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pve1", "--gpu", "nonsense"], "is not NAME=SLOT with one of its GPUs (rtx3090)"),
        (["pve1", "--wait-for", "soon"], "--wait-for"),
        (["pve1", "--undo", "--save-variables", "x"], "leave --only and --undo out"),
        (["pve9"], 'cannot find hypervisor "pve9"'),
    ],
)
def test_wrong_words_are_named(place: Place, words: list[str], complaint: str) -> None:
    done = place.command(*words)
    assert done.returncode in (1, 2)
    assert complaint in done.stderr


@pytest.mark.long
def test_what_only_a_booted_iommu_allows_is_done_after_the_reboot(place: Place) -> None:
    """While the IOMMU is off there are no groups, and a mapping needs the card's group."""
    lab, host = place.site.lab, place.host
    devices = [{**device, "device_name": device["vendor_name"]} for device in as_the_api_shows(host)]
    assert {device["iommugroup"] for device in devices} == {-1}
    lab.lab.cluster.nodes["pve1"].devices = devices
    running = subprocess.Popen(
        [sys.executable, "-m", "provisioner", "prepare", "pve1", "--yes", "--reboot", "--wait-for", "60s"],
        env=place.site.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with running:
        host.wait_for("down", 120)
        slots = sorted({str(device["address"]).rpartition(".")[0] for device in devices})
        lab.lab.cluster.nodes["pve1"].devices = [
            {**device, "iommugroup": slots.index(str(device["address"]).rpartition(".")[0])} for device in devices
        ]
        assert running.stdout is not None
        shown = running.stdout.read()
    assert running.returncode == 0, shown
    first, _, later = shown.partition("Now that the server is back, this can be done too:")
    assert "GPU rtx3090: pve1 shows no IOMMU group for 0000:01:00" in first
    assert "pvesh create /cluster/mapping/pci" not in first
    assert "pvesh create /cluster/mapping/pci --id rtx3090 --map node=pve1,path=0000:01:00" in later
    assert [mapping["id"] for mapping in lab.call("GET", "/cluster/mapping/pci")] == ["rtx3090"]
    assert "problems: " in later, "the doctor comes last"
    assert "no PCI mapping" not in later
