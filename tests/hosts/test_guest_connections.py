"""What goes through a connection to a guest and stays: lines as they come, and tunnels; over a real OpenSSH server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from provisioner.adapters.ansible.model_sizes import size_question
from provisioner.adapters.ssh.command_line import SshCommand, trusting
from provisioner.adapters.ssh.fabric_shell import FabricShells
from provisioner.adapters.ssh.login_key import LoginKey
from provisioner.adapters.ssh.tunnel import Forward, Tunnel
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.fleet import ConnectSpec, FleetSpec, NodeSpec, SshAccess
from provisioner.domain.names import EngineName, ModeName
from provisioner.engines.base import Launch
from provisioner.engines.registry import ENGINES
from provisioner.errors import GuestError, InputError
from provisioner.planning.launches import EngineUnit
from provisioner.planning.live_numbers import live_command, live_numbers
from provisioner.ports.guest_shell import GuestAway, GuestShell
from provisioner.services.engine_evidence import unit_evidence
from tests.pve_host import PveHost

SUBJECT = 'node "llm-gpu-01"'


class Hello(BaseHTTPRequestHandler):
    """An engine that says one thing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the engine")

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PveHost]:
    with PveHost(tmp_path_factory.mktemp("guest") / "host", "=== uname\n6.8.0-85-generic\n") as running:
        yield running


@pytest.fixture
def engine() -> Iterator[int]:
    """The port of an engine in the guest."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def command(host: PveHost, folder: Path) -> SshCommand:
    ssh = host.ssh
    return trusting("guest", ssh.address, ssh.port, ssh.user, host.host_key, ssh.private_key, folder / "known")


@pytest.fixture
def shell(host: PveHost, fleet: FleetSpec, node: NodeSpec, tmp_path: Path) -> Iterator[GuestShell]:
    """A shell as services get one."""
    ssh = host.ssh
    shells = FabricShells(SshAccess(user=ssh.user), LoginKey(ssh.private_key, tmp_path))
    there = replace(node, connect=ConnectSpec(ssh.address, ssh.port))
    with shells.open(there, host.host_key) as opened:
        yield opened


class TestTunnel:
    """`forward`."""

    def test_it_brings_a_port_of_the_guest_here_and_closes_cleanly(
        self, host: PveHost, engine: int, tmp_path: Path
    ) -> None:
        with Tunnel(command(host, tmp_path), [Forward("engine", engine, 0)], SUBJECT, SystemClock()) as tunnel:
            (there,) = tunnel.forwards
            assert there.local_port != engine
            assert requests.get(there.url, timeout=10).text == "the engine"
        with pytest.raises(requests.ConnectionError):
            requests.get(there.url, timeout=10)

    def test_several_ports_come_through_one_tunnel(self, host: PveHost, engine: int, tmp_path: Path) -> None:
        wanted = [Forward("engine", engine, 0), Forward("port 2", engine, 0)]
        with Tunnel(command(host, tmp_path), wanted, SUBJECT, SystemClock()) as tunnel:
            first, second = tunnel.forwards
            assert first.local_port != second.local_port
            assert [requests.get(each.url, timeout=10).text for each in tunnel.forwards] == ["the engine"] * 2

    def test_a_port_that_is_taken_here_is_said_before_anybody_logs_in(
        self, host: PveHost, engine: int, tmp_path: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            tunnel = Tunnel(command(host, tmp_path), [Forward("engine", engine, port)], SUBJECT, SystemClock())
            with pytest.raises(InputError, match=f"cannot open port {port} on this machine: Address") as caught, tunnel:
                pass
        assert "--port" in caught.value.next_step

    def test_a_guest_that_is_not_the_one_we_made_is_refused(self, host: PveHost, engine: int, tmp_path: Path) -> None:
        wrong = command(host, tmp_path)
        wrong.known_hosts.write_text("")
        tunnel = Tunnel(wrong, [Forward("engine", engine, 0)], SUBJECT, SystemClock())
        with pytest.raises(GuestError, match="Host key verification failed"), tunnel:
            pass

    def test_a_connection_that_ends_is_an_error_and_no_silence(
        self, host: PveHost, engine: int, tmp_path: Path
    ) -> None:
        with Tunnel(command(host, tmp_path), [Forward("engine", engine, 0)], SUBJECT, SystemClock()) as tunnel:
            threading.Timer(0.1, host.cut_sessions).start()
            with pytest.raises(GuestError, match="the connection ended"):
                tunnel.wait()


class TestRunning:
    """Programs that end."""

    def test_a_connection_that_breaks_in_the_middle_is_no_exit_code(self, shell: GuestShell, host: PveHost) -> None:
        mark = host.path("/tmp/running")
        cutter = threading.Thread(target=_cut_once_there, args=(host, mark))
        cutter.start()
        with pytest.raises(GuestAway, match="the connection broke in the middle of sh"):
            shell.run(["sh", "-c", "touch /tmp/running; sleep 60"], seconds=60)
        cutter.join()

    def test_a_guest_that_has_gone_silent_is_not_waited_for_before_a_command(
        self, host: PveHost, node: NodeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("provisioner.adapters.ssh.fabric_shell._OPEN_SECONDS", 0.5)
        ssh, silent = host.ssh, threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:
            relay = threading.Thread(target=_relay, args=(server, (ssh.address, ssh.port), silent))
            relay.start()
            shells = FabricShells(SshAccess(user=ssh.user), LoginKey(ssh.private_key, tmp_path))
            there = replace(node, connect=ConnectSpec("127.0.0.1", server.getsockname()[1]))
            with shells.open(there, host.host_key) as opened:
                assert opened.run(["true"], seconds=10).exit_code == 0
                silent.set()
                with pytest.raises(GuestAway, match="Timeout opening channel"):
                    opened.run(["true"], seconds=10)
            relay.join()


def _relay(server: socket.socket, there: tuple[str, int], silent: threading.Event) -> None:
    """Carry one connection's bytes both ways; once it is silent they are taken and lost."""
    with server.accept()[0] as here, socket.create_connection(there) as beyond:
        for one in (here, beyond):
            one.settimeout(0.05)
        others = {here: beyond, beyond: here}
        while True:
            for one, other in others.items():
                try:
                    part = one.recv(1 << 16)
                except TimeoutError:
                    continue
                if not part:
                    return
                if not silent.is_set():
                    other.sendall(part)


def _cut_once_there(host: PveHost, mark: Path) -> None:
    while not mark.exists():
        threading.Event().wait(0.01)
    host.cut_sessions()


class TestLines:
    """Programs that go on."""

    def test_lines_come_while_the_program_still_runs(self, shell: GuestShell) -> None:
        lines = shell.lines(["sh", "-c", "echo one; echo 'two; three'; sleep 60"])
        assert next(lines) == "one"
        assert next(lines) == "two; three"
        lines.close()  # type: ignore[attr-defined]

    def test_a_program_ends_when_nobody_listens_any_more(self, shell: GuestShell, host: PveHost) -> None:
        lines = shell.lines(["sh", "-c", "echo $$; exec sleep 3600"])
        number = next(lines)
        assert shell.run(["test", "-e", f"/proc/{number}"], seconds=10).exit_code == 0
        lines.close()  # type: ignore[attr-defined]
        gone = ["sh", "-c", f"for i in $(seq 100); do test -e /proc/{number} || exit 0; sleep 0.1; done; exit 1"]
        assert shell.run(gone, seconds=30).exit_code == 0

    def test_a_program_is_told_that_colours_are_not_wanted(self, shell: GuestShell) -> None:
        assert list(shell.lines(["sh", "-c", "test -t 1 && echo $TERM"])) == ["dumb"]

    def test_a_program_that_ends_ends_the_lines(self, shell: GuestShell) -> None:
        assert list(shell.lines(["printf", "a\\nb"])) == ["a", "b"]

    def test_a_program_that_fails_is_told(self, shell: GuestShell) -> None:
        with pytest.raises(GuestAway, match="exit code 3"):
            list(shell.lines(["sh", "-c", "exit 3"]))


class TestNumbers:
    """The one command of a look, through a real shell."""

    def test_load_and_memory_come_in_one_round_trip(self, shell: GuestShell) -> None:
        result = shell.run(live_command(), seconds=60)
        numbers, facts = live_numbers(result.out)
        assert numbers.load is not None
        assert numbers.memory_bytes is None or numbers.memory_bytes > 0
        assert [room.mounted_at for room in numbers.disks] == ["/"]
        assert 0 <= numbers.disks[0].free_bytes <= numbers.disks[0].bytes
        assert facts.readings == ()
        assert facts.cards == ()

    def test_a_machine_without_systemd_tells_nothing_of_units(self, shell: GuestShell) -> None:
        unit = EngineUnit(ModeName("small"), ENGINES[EngineName("llama.cpp")], Launch(()), ())
        assert unit_evidence(shell, unit) is None


def test_a_question_as_long_as_a_program_comes_through(shell: GuestShell, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"x" * 1000)
    files = [{"name": "own", "source": str(own), "sha256": "a" * 64}]
    answer = shell.run(size_question("deploy-llama-cpp", {"engine_files": files, "engine_launches": []}), seconds=30)
    assert (answer.exit_code, answer.out, answer.err) == (0, "1000\n", "")
