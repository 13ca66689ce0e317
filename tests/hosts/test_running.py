"""Scripts on a host: what comes back, what is bounded, and which words a failure has."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.ssh.host_shell import MAX_OUTPUT_BYTES, FabricHostShell, _Drain
from provisioner.adapters.ssh.hosts import SshHosts
from provisioner.errors import HypervisorError, LoginRefusedError, UnreachableError
from provisioner.ports.guest_shell import CommandResult
from tests.pve_host import PveHost


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PveHost]:
    with PveHost.typical(tmp_path_factory.mktemp("hosts") / "pve1") as running:
        yield running


@pytest.fixture
def shell(host: PveHost) -> Iterator[FabricHostShell]:
    with SshHosts().open(host.spec()) as opened:
        yield opened


def test_output_errors_and_exit_code_come_back_apart(shell: FabricHostShell) -> None:
    assert shell.run("echo out; echo err >&2; exit 7", seconds=10) == CommandResult(7, "out\n", "err\n")


def test_one_connection_runs_many_scripts(host: PveHost, shell: FabricHostShell) -> None:
    before = host.logins()
    for number in range(5):
        assert shell.run(f"echo {number}", seconds=10).out == f"{number}\n"
    assert host.logins() == before


@pytest.mark.parametrize(
    ("script", "out"),
    [
        ("printf '%s\\n' \"it's\" '$HOME' \"\\\\\" '\"'", "it's\n$HOME\n\\\n\"\n"),
        ("x='a\nb'\necho \"$x\"", "a\nb\n"),
        ("cat <<'EOF'\n$not `expanded`\nEOF\n", "$not `expanded`\n"),
        ("echo ü€🖥", "ü€🖥\n"),
        ("printf 'a\\377b'", "a�b"),
        ("", ""),
        ("cat; read -r line || echo nothing to read", "nothing to read\n"),
        ("# a comment\n\n:\n", ""),
    ],
)
def test_any_script_arrives_as_it_is(shell: FabricHostShell, script: str, out: str) -> None:
    assert shell.run(script, seconds=10) == CommandResult(0, out, "")


def test_a_script_longer_than_any_argument_may_be(shell: FabricHostShell) -> None:
    script = "\n".join(f"x{number}=1" for number in range(60_000)) + "\necho $x59999\n"
    assert len(script) > 500_000
    assert shell.run(script, seconds=30).out == "1\n"


def test_a_script_with_a_syntax_error_is_a_result(shell: FabricHostShell) -> None:
    result = shell.run("echo 'unfinished", seconds=10)
    assert result.exit_code != 0
    assert "nterminated" in result.err


def test_what_a_script_holds_is_not_in_the_list_of_processes(host: PveHost, shell: FabricHostShell) -> None:
    secret = "correct-horse-battery"
    result = shell.run(f"secret={secret}; ps ax -ww -o args", seconds=10)
    assert "eval" in result.out
    assert secret not in result.out
    assert not any(secret in session for session in host.sessions())


def test_a_script_that_takes_too_long_is_ended_there_too(host: PveHost, shell: FabricHostShell) -> None:
    began = time.monotonic()
    with pytest.raises(HypervisorError) as caught:
        shell.run("sleep 4321", seconds=0.5)
    assert "longer than 0.5 s" in caught.value.summary
    assert time.monotonic() - began < 30
    assert "sleep 4321" not in shell.run("ps ax -ww -o args | grep -v grep", seconds=10).out


def test_a_script_that_ends_with_the_code_of_a_timeout_is_a_result(shell: FabricHostShell) -> None:
    assert shell.run("exit 124", seconds=60).exit_code == 124


@pytest.mark.parametrize("where", ["", " >&2"])
def test_output_without_end_is_cut_off_in_bounded_memory(host: PveHost, where: str) -> None:
    tracemalloc.start()
    try:
        with SshHosts().open(host.spec()) as shell, pytest.raises(HypervisorError) as caught:
            shell.run(f"yes 'the same words over and over'{where}", seconds=120)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"more than {MAX_OUTPUT_BYTES >> 20} MiB" in caught.value.summary
    assert peak < 8 * MAX_OUTPUT_BYTES


def test_a_connection_that_goes_while_too_much_is_cut_off_ends_no_thread_with_a_traceback() -> None:
    class Gone:
        def recv_stderr(self, size: int) -> bytes:
            return b"x" * (MAX_OUTPUT_BYTES + 1)

        def close(self) -> None:
            raise EOFError

    drain = _Drain(Gone())  # type: ignore[arg-type]
    drain.run()
    assert drain.size > MAX_OUTPUT_BYTES


def test_a_connection_that_breaks_in_the_middle_is_said_and_may_be_tried_again(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host, SshHosts().open(host.spec()) as shell:
        cutter = threading.Thread(target=_cut_when_running, args=(host,))
        cutter.start()
        with pytest.raises(UnreachableError) as caught:
            shell.run("touch /tmp/running; sleep 60", seconds=60)
        cutter.join()
        assert "in the middle" in caught.value.summary
        assert caught.value.retryable
        with pytest.raises(UnreachableError):
            shell.run("true", seconds=5)
        with SshHosts().open(host.spec()) as again:
            assert again.run("true", seconds=10).exit_code == 0


def _cut_when_running(host: PveHost) -> None:
    while not host.path("/tmp/running").exists():
        threading.Event().wait(0.01)
    host.cut_sessions()


class TestWhoIsNotRoot:
    def test_runs_as_root_through_sudo_and_as_itself_without(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1", user="admin") as host, SshHosts().open(host.spec()) as shell:
            assert shell.run("id -un", seconds=10).out == "root\n"
            assert shell.run("id -un", seconds=10, privileged=False).out == "admin\n"
            assert shell.run("exit 1", seconds=10).exit_code == 1, "a script's failure is not sudo's"

    @pytest.mark.parametrize("sudo", ["password", None])
    def test_is_told_when_sudo_wants_a_password(self, tmp_path: Path, sudo: str | None) -> None:
        with (
            PveHost.typical(tmp_path / "pve1", user="admin", sudo=sudo) as host,
            SshHosts().open(host.spec()) as shell,
            pytest.raises(LoginRefusedError) as caught,
        ):
            shell.run("id -un", seconds=10)
        assert "admin has no sudo without a password: sudo: a password is required" in caught.value.summary
        assert "set ssh.user to root under hypervisors.pve1" in caught.value.next_step
        assert "admin ALL=(root) NOPASSWD: ALL" in caught.value.next_step

    def test_is_told_when_there_is_no_sudo(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1", user="admin") as host:
            host.remove_command("sudo")
            with SshHosts().open(host.spec()) as shell, pytest.raises(LoginRefusedError) as caught:
                shell.run("id -un", seconds=10)
        assert "not found" in caught.value.summary


def test_a_login_that_runs_nothing_is_told_from_a_script_that_fails(tmp_path: Path) -> None:
    with PveHost.typical(tmp_path / "pve1") as host:
        session = host.path("/.hardware/session")
        session.write_text("#!/bin/sh\necho This account is currently not available.\nexit 1\n")
        with SshHosts().open(host.spec()) as shell, pytest.raises(HypervisorError) as caught:
            shell.run("true", seconds=10)
    assert "This account is currently not available." in caught.value.summary
