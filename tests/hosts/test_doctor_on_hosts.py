"""`provisioner doctor` on a hypervisor that can be logged in to: both sources, a dump to keep, and wrong keys."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.adapters.ssh.host_trust import fingerprint_of
from provisioner.adapters.ssh.hosts import SshHosts
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.support import Site, site_for
from tests.pve_host import PveHost


@dataclass(frozen=True)
class Place:
    """A cluster's API, and the server behind it."""

    site: Site
    host: PveHost

    def fleet_says(self, host_key: str) -> None:
        """Write the way in into the fleet file."""
        ssh = (
            f"ssh: {{address: {self.host.address}, port: {self.host.port}, user: {self.host.user}, "
            f"host_key: '{host_key}', private_key: {self.host.private_key}}}"
        )
        text = self.site.fleet_file.read_text()
        before, _, after = text.partition("  pve1:\n")
        self.site.fleet_file.write_text(f"{before}  pve1:\n    {ssh}\n{after}")

    def doctor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "provisioner", "doctor", *arguments],
            env=self.site.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with (
        served_folder(tmp_path) as images,
        RunningLab(tmp_path / "lab") as lab,
        PveHost.typical(tmp_path / "pve1", cpu="amd") as host,
    ):
        site = site_for(lab, tmp_path, images)
        lab.lab.cluster.nodes["pve1"].devices = as_the_api_shows(host)
        yield Place(site, host)


def as_the_api_shows(host: PveHost) -> list[dict[str, object]]:
    """The host's devices, in the lab's words: one machine behind both ways in."""
    facts = SshHosts().gather(host.spec()).facts
    assert facts.functions is not None
    found = []
    for function in facts.functions.values():
        maker, _, card = (function.subsystem_id or "").partition(":")
        subsystem = {"subsystem_vendor": f"0x{maker}", "subsystem_device": f"0x{card}"} if card else {}
        found.append(
            {
                "address": str(function.address),
                "class": f"0x{function.class_code}00",
                "vendor": f"0x{function.vendor_id}",
                "device": f"0x{function.device_id}",
                "iommugroup": (facts.groups or {}).get(function.address, -1),
                "vendor_name": function.name,
                **subsystem,
            }
        )
    return found


def test_both_sources_a_saved_dump_and_the_same_verdict_from_it(place: Place) -> None:
    place.fleet_says(place.host.host_key)
    dump = place.site.folder / "pve1.txt"
    done = place.doctor("pve1", "--json", "--save", str(dump))
    assert done.returncode in (0, 3), done.stderr
    printed = json.loads(done.stdout)
    assert printed["sources"] == ["api", "ssh"]
    checks = {check["id"]: check for check in printed["checks"]}
    assert checks["ssh"]["status"] == "ok"
    card = next(gpu for gpu in printed["gpus"] if gpu["address"] == "0000:01:00.0")
    assert (card["driver"], card["bound_to_vfio"]) == ("nouveau", False)  # which the API never tells
    assert "host_driver_bound" in printed["problems"]
    assert dump.stat().st_mode & 0o777 == 0o600
    assert f"saved: {dump}" in done.stderr
    offline = json.loads(place.doctor("--from-file", str(dump), "--json").stdout)
    theirs = {gpu["address"]: gpu for gpu in offline["gpus"]}
    assert theirs["0000:01:00.0"] == card
    again = place.doctor("pve1", "--save", str(dump))
    assert again.returncode == 1
    assert "there is a file of that name" in again.stderr


def test_a_wrong_host_key_is_a_finding_with_both_fingerprints(place: Place) -> None:
    wrong = "SHA256:" + "A" * 43
    place.fleet_says(wrong)
    done = place.doctor("pve1", "--json")
    assert done.returncode == 3
    printed = json.loads(done.stdout)
    assert printed["sources"] == ["api"]
    (ssh,) = (check for check in printed["checks"] if check["id"] == "ssh")
    assert ssh["status"] == "fail"
    assert wrong in ssh["found"]
    assert fingerprint_of(place.host.host_key) in ssh["found"]
    assert printed["gpus"], "the API part is judged all the same"
    shown = place.doctor("pve1")
    assert wrong in shown.stdout
    assert "NVIDIA GeForce RTX 3090" in shown.stdout


def test_the_address_of_another_machine_is_a_finding(place: Place) -> None:
    place.fleet_says(place.host.host_key)
    devices = place.site.lab.lab.cluster.nodes["pve1"].devices
    for device in devices:
        device["device"] = "0x1234"
    printed = json.loads(place.doctor("pve1", "--json").stdout)
    assert printed["sources"] == ["api"]
    (ssh,) = (check for check in printed["checks"] if check["id"] == "ssh")
    assert ssh["status"] == "fail"
    assert "ssh.address" in ssh["next_step"]


def test_a_dump_that_could_not_be_had_is_no_success(place: Place) -> None:
    place.fleet_says("SHA256:" + "A" * 43)
    dump = place.site.folder / "pve1.txt"
    done = place.doctor("pve1", "--save", str(dump))
    assert done.returncode == 1
    assert "no dump was saved" in done.stderr
    assert not dump.exists()


def test_a_dump_is_saved_though_the_api_is_away(place: Place) -> None:
    place.fleet_says(place.host.host_key)
    place.site.lab.close()
    dump = place.site.folder / "pve1.txt"
    place.site.fleet_file.write_text(
        place.site.fleet_file.read_text().replace("    token:", "    answer_within: 1s\n    token:")
    )
    done = place.doctor("pve1", "--json", "--save", str(dump))
    assert done.returncode == 3, done.stderr
    printed = json.loads(done.stdout)
    assert printed["sources"] == ["ssh"]
    assert {check["id"]: check["status"] for check in printed["checks"]}["api"] == "fail"
    assert "=== lspci" in dump.read_text()
