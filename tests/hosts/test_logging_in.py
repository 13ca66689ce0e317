"""Logging in to a host: whom we trust, whom it trusts, and in which words either is refused."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.adapters.ssh.host_trust import fingerprint_of
from provisioner.adapters.ssh.hosts import SshHosts, host_ssh_command
from provisioner.domain.fleet import HypervisorSpec, HypervisorSsh
from provisioner.domain.names import ClusterName, HypervisorName
from provisioner.errors import (
    InputError,
    LoginRefusedError,
    ProvisionerError,
    UnreachableError,
    UntrustedError,
)
from tests.pve_host import PASSWORD, PveHost
from tests.pve_host.access import make_key


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without keys, agent or known hosts."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


def refused(spec: HypervisorSpec, kind: type[ProvisionerError]) -> ProvisionerError:
    """Return the error of a login that must not succeed; its words carry no secret and all three parts."""
    with pytest.raises(kind) as caught, SshHosts().open(spec):
        pass
    error = caught.value
    assert error.summary.startswith("cannot ")
    assert error.next_step
    assert "PRIVATE KEY" not in str(error)
    assert PASSWORD not in str(error)
    return error


def works(spec: HypervisorSpec) -> bool:
    with SshHosts().open(spec) as shell:
        return shell.run("id -u", seconds=10).out == "0\n"


class TestHostKeys:
    def test_the_fleet_files_key_is_enough(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            assert works(host.spec())
            assert works(host.spec(ssh=replace(host.ssh, host_key=f"{host.host_key} root@pve1")))

    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_a_fingerprint_of_any_of_its_keys_is_enough(self, tmp_path: Path, kind: str) -> None:
        with PveHost(tmp_path / "pve1", "=== uname\n6.8.12-4-pve\n", host_keys=("ed25519", "ecdsa", "rsa")) as host:
            key = host.path(f"/etc/ssh/ssh_host_{kind}_key.pub").read_text()
            assert works(host.spec(ssh=replace(host.ssh, host_key=fingerprint_of(key))))
            assert works(host.spec(ssh=replace(host.ssh, host_key=fingerprint_of(key) + "=")))
            assert works(host.spec(ssh=replace(host.ssh, host_key=" ".join(key.split()[:2]))))

    def test_the_users_known_hosts_is_enough(self, tmp_path: Path, home: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            spec = host.spec(ssh=replace(host.ssh, host_key=None))
            file = home / ".ssh" / "known_hosts"
            file.write_text(host.known_hosts_line)
            assert works(spec)
            subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
            assert host.address not in file.read_text()
            assert works(spec), "hashed names count, too"
            file.write_text(f"{host.address} {host.host_key}\n")
            assert works(spec), "as does the address without the port, if the port has no line of its own"

    def test_an_unknown_host_is_refused_with_the_line_to_add(self, tmp_path: Path, home: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            error = refused(host.spec(ssh=replace(host.ssh, host_key=None)), UntrustedError)
            assert fingerprint_of(host.host_key) in error.summary
            assert f"host_key: {host.host_key}" in error.next_step
            assert "hypervisors.pve1.ssh" in error.next_step
            assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in error.next_step
            assert error.subject == f"hypervisor pve1 (root@{host.address}:{host.port})"
            assert not (home / ".ssh" / "known_hosts").exists(), "nothing is trusted at first sight"
            assert host.logins() == 0

    def test_a_replaced_host_is_refused_showing_both_fingerprints(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            spec, old = host.spec(), host.host_key
            host.replace_host_keys()
            error = refused(spec, UntrustedError)
            assert fingerprint_of(old) in error.summary
            assert fingerprint_of(host.host_key) in error.summary
            assert not error.retryable
            by_print = host.spec(ssh=replace(host.ssh, host_key=fingerprint_of(old)))
            error = refused(by_print, UntrustedError)
            assert fingerprint_of(old) in error.summary
            assert fingerprint_of(host.host_key) in error.summary
            assert host.logins() == 0

    def test_a_replaced_host_known_by_known_hosts_names_the_way_out(self, tmp_path: Path, home: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            (home / ".ssh" / "known_hosts").write_text(host.known_hosts_line)
            old = host.host_key
            host.replace_host_keys()
            error = refused(host.spec(ssh=replace(host.ssh, host_key=None)), UntrustedError)
            assert fingerprint_of(old) in error.summary
            assert f"ssh-keygen -R [{host.address}]:{host.port}" in error.next_step

    def test_a_revoked_key_is_refused_even_if_it_is_also_listed(self, tmp_path: Path, home: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            line = host.known_hosts_line
            (home / ".ssh" / "known_hosts").write_text(f"{line}@revoked {line}")
            error = refused(host.spec(ssh=replace(host.ssh, host_key=None)), UntrustedError)
            assert "revoked" in error.summary

    def test_a_key_of_a_kind_that_the_host_has_not_shows_what_it_has(self, tmp_path: Path) -> None:
        make_key(tmp_path / "other", "rsa")
        other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
        with PveHost.typical(tmp_path / "pve1") as host:
            error = refused(host.spec(ssh=replace(host.ssh, host_key=other)), UntrustedError)
            assert fingerprint_of(other) in error.summary
            assert fingerprint_of(host.host_key) in error.summary

    def test_the_fleet_files_key_outranks_known_hosts(self, tmp_path: Path, home: Path) -> None:
        make_key(tmp_path / "other", "ed25519")
        other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
        with PveHost.typical(tmp_path / "pve1") as host:
            (home / ".ssh" / "known_hosts").write_text(host.known_hosts_line)
            refused(host.spec(ssh=replace(host.ssh, host_key=other)), UntrustedError)


class TestOurKeys:
    def test_without_a_named_key_the_users_own_is_used(self, tmp_path: Path, home: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            shutil.copy(host.private_key, home / ".ssh" / "id_ed25519")
            make_key(home / ".ssh" / "id_rsa", "rsa")
            assert works(host.spec(ssh=replace(host.ssh, private_key=None)))

    def test_without_a_named_key_the_agents_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with PveHost.typical(tmp_path / "pve1") as host, agent(tmp_path, monkeypatch):
            subprocess.run(["ssh-add", "-q", str(host.private_key)], check=True, capture_output=True)
            assert works(host.spec(ssh=replace(host.ssh, private_key=None)))

    def test_without_any_key_the_next_step_makes_one(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            error = refused(host.spec(ssh=replace(host.ssh, private_key=None)), LoginRefusedError)
            assert "there is no key to log in with" in error.summary
            assert "ssh-keygen -t ed25519" in error.next_step
            assert f"ssh-copy-id -p {host.port} root@{host.address}" in error.next_step

    def test_a_key_that_the_host_does_not_know_is_refused_by_name(self, tmp_path: Path) -> None:
        make_key(tmp_path / "stranger", "ed25519")
        with PveHost.typical(tmp_path / "pve1") as host:
            error = refused(host.spec(ssh=replace(host.ssh, private_key=tmp_path / "stranger")), LoginRefusedError)
            assert str(tmp_path / "stranger") in error.summary
            assert f"ssh-copy-id -i {tmp_path / 'stranger'}" in error.next_step

    def test_a_server_that_takes_passwords_only_is_told_from_one_that_refuses_our_key(self, tmp_path: Path) -> None:
        with PveHost(tmp_path / "pve1", "=== uname\n6.8.12-4-pve\n", login="password") as host:
            error = refused(host.spec(), LoginRefusedError)
            assert "takes no keys, only password" in error.summary
            assert "ssh-copy-id" in error.next_step

    def test_a_named_key_with_a_passphrase_asks_for_the_agent(self, tmp_path: Path) -> None:
        make_key(tmp_path / "locked", "ed25519", passphrase="open sesame")
        with PveHost.typical(tmp_path / "pve1") as host:
            error = refused(host.spec(ssh=replace(host.ssh, private_key=tmp_path / "locked")), InputError)
            assert "passphrase" in error.summary
            assert f"ssh-add {tmp_path / 'locked'}" in error.next_step

    def test_a_named_key_with_a_passphrase_is_used_through_the_agent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with PveHost.typical(tmp_path / "pve1") as host, agent(tmp_path, monkeypatch):
            subprocess.run(["ssh-add", "-q", str(host.private_key)], check=True, capture_output=True)
            lock = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(host.private_key)]
            subprocess.run(lock, check=True, capture_output=True)
            assert works(host.spec())

    def test_an_own_key_with_a_passphrase_is_named(self, tmp_path: Path, home: Path) -> None:
        make_key(home / ".ssh" / "id_ed25519", "ed25519", passphrase="open sesame")
        with PveHost.typical(tmp_path / "pve1") as host:
            error = refused(host.spec(ssh=replace(host.ssh, private_key=None)), LoginRefusedError)
            assert "it has a passphrase" in error.summary
            assert f"ssh-add {home / '.ssh' / 'id_ed25519'}" in error.next_step

    @pytest.mark.parametrize(("content", "words"), [(None, "no such file"), ("hello", "no private key")])
    def test_a_named_key_that_is_none_is_an_input_error(self, tmp_path: Path, content: str | None, words: str) -> None:
        path = tmp_path / "key"
        if content is not None:
            path.write_text(content)
        with PveHost.typical(tmp_path / "pve1") as host:
            error = refused(host.spec(ssh=replace(host.ssh, private_key=path)), InputError)
            assert words in error.summary

    def test_more_keys_than_the_server_has_patience_for_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with PveHost.typical(tmp_path / "pve1") as host, agent(tmp_path, monkeypatch):
            for number in range(8):
                make_key(tmp_path / f"key{number}", "ed25519")
                subprocess.run(["ssh-add", "-q", str(tmp_path / f"key{number}")], check=True, capture_output=True)
            error = refused(host.spec(ssh=replace(host.ssh, private_key=None)), LoginRefusedError)
            assert "of our keys" in error.summary


class TestNobodyThere:
    def test_no_ssh_in_the_fleet_file(self) -> None:
        spec = HypervisorSpec(HypervisorName("pve1"), ClusterName("homelab"))
        error = refused(spec, InputError)
        assert "hypervisors.pve1: ssh:" in error.next_step

    def test_a_closed_port(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            spec = host.spec()
        error = refused(spec, UnreachableError)
        assert "refuses connections" in error.summary
        assert error.retryable

    def test_an_unknown_name(self) -> None:
        for name in ("pve1.invalid", "x" * 80):
            error = refused(spec_at(name), UnreachableError)
            assert "no address is known" in error.summary
            assert not error.retryable

    def test_a_server_that_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("provisioner.adapters.ssh.host_connection._BANNER_SECONDS", 0.3)
        with listening(b"") as port:
            error = refused(spec_at("127.0.0.1", port), UnreachableError)
        assert "no SSH server, or busy" in error.summary

    def test_a_server_of_another_kind(self) -> None:
        with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200) as port:
            error = refused(spec_at("127.0.0.1", port), UnreachableError)
        assert "no SSH server" in error.summary or "closed the connection" in error.summary

    def test_a_host_that_does_not_come_back_from_its_reboot(self, tmp_path: Path) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            host.stay_down()
            with SshHosts().open(host.spec()) as shell, pytest.raises(UnreachableError):
                shell.run("reboot; sleep 60", seconds=30)
            assert refused(host.spec(), UnreachableError).retryable


class TestForAnsible:
    @pytest.mark.parametrize("trust", ["key", "fingerprint", "known_hosts"])
    def test_the_openssh_client_gets_the_same_trust(self, tmp_path: Path, home: Path, trust: str) -> None:
        with PveHost.typical(tmp_path / "pve1") as host:
            (home / ".ssh" / "known_hosts").write_text(host.known_hosts_line)
            given = {"key": host.host_key, "fingerprint": fingerprint_of(host.host_key), "known_hosts": None}[trust]
            command = host_ssh_command(host.spec(ssh=replace(host.ssh, host_key=given)), tmp_path / "run")
            assert openssh(command.arguments).stdout == "root\n"
            host.replace_host_keys()
            assert openssh(command.arguments).returncode == 255

    def test_without_a_named_key_it_uses_the_agent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with PveHost.typical(tmp_path / "pve1") as host, agent(tmp_path, monkeypatch):
            subprocess.run(["ssh-add", "-q", str(host.private_key)], check=True, capture_output=True)
            command = host_ssh_command(host.spec(ssh=replace(host.ssh, private_key=None)), tmp_path / "run")
            assert "-i" not in command.arguments
            assert openssh(command.arguments).stdout == "root\n"


def openssh(arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    words = [arguments[0], "-F", "none", "-o", "BatchMode=yes", *arguments[1:], "id -un"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def spec_at(address: str, port: int = 22) -> HypervisorSpec:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOyJSjWcrkdP2UwyPL4sn1dIHdmQKqV3VQe9YlK1BNBK"
    return HypervisorSpec(
        HypervisorName("pve1"), ClusterName("homelab"), {}, HypervisorSsh(address, port=port, host_key=key)
    )


@contextmanager
def agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent of our own."""
    path = Path(os.path.realpath(folder)) / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert process.poll() is None
            threading.Event().wait(0.01)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextmanager
def listening(words: bytes) -> Iterator[int]:
    """A server that says some words to everybody and waits."""
    open_ones: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                    connection.sendall(words)
                except OSError:
                    return
                open_ones.append(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in open_ones:
                connection.close()
