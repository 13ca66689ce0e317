"""The ports `GuestShells` and `GuestShell` over Fabric.

The guest's host key is known before the first login and nothing else is
accepted: no known_hosts file, no agent, no other key is looked at.
"""

from __future__ import annotations

import base64
import logging
import shlex
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType

import fabric
import invoke
import paramiko

from provisioner.adapters.ssh.host_trust import fingerprint_of
from provisioner.adapters.ssh.login_key import LoginKey
from provisioner.domain.fleet import NodeSpec, SshAccess
from provisioner.errors import HostKeyError
from provisioner.ports.guest_shell import CommandResult, GuestAway, GuestRefuses, GuestShell

# Its transport thread logs a traceback for every connection that a booting guest drops.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

# A port forward can accept a connection long before anything behind it listens.
_CONNECT_SECONDS = 1.0
_OPEN_SECONDS = 15.0
# A guest that lost its power says nothing any more; without a sign of life its connection would stay open for hours.
_KEEPALIVE_SECONDS = 15
# Key exchange in an emulated or swapping guest takes its time once the banner is there.
_BANNER_SECONDS = 5.0


class FabricShells:
    """Opens SSH connections to guests."""

    def __init__(self, access: SshAccess, login_key: LoginKey) -> None:
        self._access = access
        self._login_key = login_key

    def open(self, node: NodeSpec, host_key: str) -> GuestShell:
        """Log in once, without waiting for the guest."""
        reach = node.reach
        connection = fabric.Connection(
            reach.address,
            user=self._access.user,
            port=reach.ssh_port,
            config=fabric.Config(overrides={"load_ssh_configs": False}, lazy=True),
            connect_timeout=_CONNECT_SECONDS,
            connect_kwargs={
                "pkey": self._login_key.key(),
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": _BANNER_SECONDS,
                "auth_timeout": _BANNER_SECONDS,
            },
        )
        known = f"[{reach.address}]:{reach.ssh_port}" if reach.ssh_port != 22 else reach.address
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.client.get_host_keys().add(known, host_key.split()[0], _public_key(host_key))
        try:
            connection.open()
        except paramiko.BadHostKeyException as error:
            connection.close()
            raise _wrong_host(node, host_key, error.key) from error
        except paramiko.AuthenticationException as error:
            connection.close()
            raise GuestRefuses(f"{self._access.user}@{reach.address}: {error}") from error
        except (OSError, EOFError, paramiko.SSHException, paramiko.ssh_exception.NoValidConnectionsError) as error:
            connection.close()
            raise GuestAway(_words(error)) from error
        # Of a guest that hangs the network says nothing; paramiko would wait for an hour before each command.
        connection.transport.channel_timeout = _OPEN_SECONDS
        return _FabricShell(connection)


class _FabricShell:
    """One open connection."""

    def __init__(self, connection: fabric.Connection) -> None:
        self._connection = connection

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        """Run a program with arguments."""
        line = shlex.join([*(("sudo", "-n") if privileged else ()), *command])
        try:
            result = self._connection.run(line, hide=True, warn=True, in_stream=False, timeout=seconds)
        except invoke.exceptions.CommandTimedOut as error:
            raise GuestAway(f"{command[0]} took longer than {seconds:g} s") from error
        except (OSError, EOFError, paramiko.SSHException, invoke.exceptions.ThreadException) as error:
            raise GuestAway(_words(error)) from error
        if result.exited < 0:
            raise GuestAway(f"the connection broke in the middle of {command[0]}, or a signal ended it")
        return CommandResult(result.exited, result.stdout, result.stderr)

    def lines(self, command: Sequence[str], *, privileged: bool = False) -> Iterator[str]:
        """Run a program that goes on, and yield its lines as they come."""
        line = shlex.join([*(("sudo", "-n") if privileged else ()), *command])
        try:
            transport = self._connection.transport
            transport.set_keepalive(_KEEPALIVE_SECONDS)
            with transport.open_session(timeout=_OPEN_SECONDS) as channel:
                # A terminal hangs up on the program when we go; without one it would run until its next word. A dumb
                # one gets no colours, which journalctl would put even into JSON.
                channel.get_pty("dumb", width=1000)
                channel.exec_command(line)
                yield from _lines(channel)
                code = channel.recv_exit_status()
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise GuestAway(_words(error)) from error
        if code != 0:
            raise GuestAway(f"{command[0]} ended with exit code {code}" if code > 0 else "the connection was closed")

    def __enter__(self) -> _FabricShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


def _lines(channel: paramiko.Channel) -> Iterator[str]:
    """Yield whole lines; a terminal ends each with a carriage return too."""
    rest = b""
    while part := channel.recv(1 << 16):
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def _fingerprint(key: paramiko.PKey) -> str:
    return fingerprint_of(f"{key.get_name()} {key.get_base64()}")


def _public_key(line: str) -> paramiko.PKey:
    kind, _, data = line.partition(" ")
    return paramiko.PKey.from_type_string(kind, base64.b64decode(data.split()[0]))


def _wrong_host(node: NodeSpec, expected: str, got: paramiko.PKey) -> HostKeyError:
    return HostKeyError(
        f"cannot log in: {node.reach.address} shows host key {_fingerprint(got)}, "
        f"the guest was given {_fingerprint(_public_key(expected))}",
        subject=node.subject,
        next_step=(
            "another machine has this address, or the guest's keys were replaced: compare on its console "
            "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); if it is right, put the new public key "
            "into the VM's notes"
        ),
    )


def _words(error: BaseException) -> str:
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "nobody answers yet"
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return "connection refused" if "refused" in str(list(error.errors.values())) else "unreachable"
    if isinstance(error, EOFError):
        return "the connection was closed"
    text = str(error)
    # A forward that accepts for a guest that does not listen yet looks like this to paramiko.
    silent = "SSH protocol banner" in text or text == "No existing session"
    return "nobody answers yet" if silent else text or type(error).__name__
