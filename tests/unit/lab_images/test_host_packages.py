"""What would be installed on a machine, decided without touching it."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.errors import InputError
from provisioner.lab import host_packages
from provisioner.lab.host_packages import (
    FOR_TESTS,
    INFLUXDB,
    OTHERS,
    PROMETHEUS,
    QEMU_SYSTEM,
    QEMU_TOOLS,
    SSH_SERVER,
    HostPackage,
    backports_sources,
    missing,
)
from provisioner.lab.images import debian

TARGETS = """\
Debian Debian-Security main http://mirror.example/debian-security/
Other Debian main http://elsewhere.example/thing/
Debian Debian Backports main http://mirror.example/debian/
Debian Debian contrib http://contrib.example/debian/
Debian Debian main http://mirror.example/debian/
"""


def everything_present(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...] | None) -> None:
    monkeypatch.setattr(host_packages, "qemu_version", lambda: version)
    monkeypatch.setattr(HostPackage, "is_present", lambda _self: True)


def test_a_fit_qemu_of_whatever_origin_leaves_nothing_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    everything_present(monkeypatch, (9, 2, 0))
    assert missing() == []


def test_a_qemu_that_crashes_under_emulation_is_replaced_with_its_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    everything_present(monkeypatch, (7, 2, 22))
    assert missing() == [QEMU_SYSTEM, QEMU_TOOLS]


def test_every_absent_program_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_packages, "qemu_version", lambda: None)
    monkeypatch.setattr(HostPackage, "is_present", lambda _self: False)
    assert missing() == [QEMU_SYSTEM, QEMU_TOOLS, *OTHERS]


def test_only_tests_ask_for_an_ssh_server(monkeypatch: pytest.MonkeyPatch) -> None:
    everything_present(monkeypatch, (9, 2, 0))
    monkeypatch.setattr(HostPackage, "is_present", lambda _self: False)
    assert not set(missing()) & set(FOR_TESTS)
    assert missing(with_tests=True)[-len(FOR_TESTS) :] == list(FOR_TESTS)


@pytest.mark.parametrize("server", [SSH_SERVER, PROMETHEUS, INFLUXDB], ids=lambda package: package.name)
def test_servers_are_installed_without_being_started(
    server: HostPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host_packages, "_SYSTEMD", tmp_path)
    commands = [step.command for step in host_packages._steps([server], "bookworm", None)]
    assert commands[0][:2] == ("systemctl", "mask")
    assert [command[:2] for command in commands[-2:]] == [("systemctl", "unmask"), ("systemctl", "disable")]
    assert commands[0][2:] == commands[-1][2:] != ()
    monkeypatch.setattr(host_packages, "_SYSTEMD", tmp_path / "not-there")
    assert all(step.command[0] == "env" for step in host_packages._steps([server], "bookworm", None))


def test_bookworm_takes_qemu_from_backports_and_the_rest_from_itself() -> None:
    steps = host_packages._steps([QEMU_SYSTEM, QEMU_TOOLS, OTHERS[0]], "bookworm", "http://mirror.example/debian")
    assert steps[0].command == ("tee", str(host_packages.SOURCES_FILE))
    assert "Suites: bookworm-backports" in steps[0].stdin
    assert steps[1].command[-2:] == ("update", "--quiet")
    assert steps[2].command[-4:] == ("--target-release", "bookworm-backports", "qemu-system-x86", "qemu-utils")
    assert steps[3].command[-1] == "mmdebstrap"
    assert "bookworm-backports" not in steps[3].command


def test_other_releases_take_all_from_themselves() -> None:
    steps = host_packages._steps([QEMU_SYSTEM, OTHERS[0]], "trixie", None)
    assert [step.stdin for step in steps] == ["", ""]
    assert steps[1].command[-2:] == ("qemu-system-x86", "mmdebstrap")


def test_the_backports_file_names_the_machines_own_mirror() -> None:
    text = backports_sources("http://mirror.example/debian", "bookworm")
    assert "URIs: http://mirror.example/debian\n" in text
    assert f"Signed-By: {debian.KEYRING}\n" in text


def test_without_the_right_to_install_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_packages, "qemu_version", lambda: None)
    monkeypatch.setattr(HostPackage, "is_present", lambda _self: False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name, **_more: "/usr/bin/apt-get" if name == "apt-get" else None)
    with pytest.raises(InputError) as caught:
        host_packages.install(lambda _line: None)
    assert "apt-get install" in caught.value.next_step
    assert "mmdebstrap" in caught.value.next_step


def test_the_mirror_is_the_plain_debian_archive() -> None:
    assert debian.first_archive(TARGETS) == "http://mirror.example/debian"


def test_a_machine_of_another_distribution_has_no_debian_mirror() -> None:
    assert debian.first_archive("Ubuntu Ubuntu main http://mirror.example/ubuntu/\n") is None


def test_only_what_the_mirror_needs_is_taken_over_from_apt() -> None:
    dump = (
        'Acquire::Check-Valid-Until "false";\nAcquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::http::Proxy "";\nAcquire::Languages:: "none";\nDPkg::Pre-Install-Pkgs "rm";\n'
    )
    assert debian.inherited_options(dump) == [
        'Acquire::Check-Valid-Until "false";',
        'Acquire::http::Proxy "http://proxy.example:3128";',
    ]
