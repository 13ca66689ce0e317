"""Units for systemd, judged by systemd's own tools where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.exports.systemd import UnitWishes, units

WISHES = UnitWishes(("/usr/bin/true", "-m", "provisioner"), Path("/etc/provisioner/fleet.yml"), 30.5, 60.0, user="root")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in units(WISHES).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_service_gets_time_to_drain_and_its_own_state() -> None:
    service = units(WISHES)["provisioner.service"]
    assert "ExecStart=/usr/bin/true -m provisioner serve\n" in service
    assert "TimeoutStopSec=46\n" in service
    assert "Environment=PROVISIONER_FLEET=/etc/provisioner/fleet.yml\n" in service
    assert "Type=notify\n" in service


def test_it_may_write_where_orchestrators_read() -> None:
    wishes = replace(WISHES, writes=(Path("/etc/prometheus/targets"), Path("/srv/my files")))
    service = units(wishes)["provisioner.service"]
    assert 'ReadWritePaths=-/etc/prometheus/targets\nReadWritePaths="-/srv/my files"\n' in service
    assert "ReadWritePaths" not in units(WISHES)["provisioner.service"]


def test_signs_that_systemd_reads_its_own_way_are_kept_as_they_are() -> None:
    wishes = UnitWishes(("/opt/a b/python", "100%", 'say"$HOME"'), Path("/my fleet/50%.yml"), 1, 60.0)
    service = units(wishes)["provisioner.service"]
    assert r'ExecStart="/opt/a b/python" 100%% "say\"$$HOME\"" serve' in service
    assert 'Environment="PROVISIONER_FLEET=/my fleet/50%%.yml"' in service


@needs_systemd
@pytest.mark.parametrize("name", list(units(WISHES)))
def test_systemd_finds_nothing_wrong(folder: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", folder / name], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "provisioner" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
@pytest.mark.parametrize("name", ["provisioner.service", "provisioner-idle.service"])
def test_what_a_break_in_could_reach_is_little(folder: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", folder / name], capture_output=True, text=True, check=False
    )
    found = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 2.5
