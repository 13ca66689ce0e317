"""A tunnel that brings ports of a guest to this machine's loopback address: OpenSSH with our trust and no other."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import IO

from provisioner.adapters.processes import dying_with_us
from provisioner.adapters.ssh.command_line import SshCommand
from provisioner.errors import GuestError, InputError
from provisioner.ports.clock import Clock
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

_LOCAL = "127.0.0.1"
_CONNECT_SECONDS = 20.0
_END_SECONDS = 5.0
# Three signs of life in vain, and the guest counts as gone.
_OPTIONS = (
    "BatchMode=yes",
    "ExitOnForwardFailure=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ControlPath=none",
)


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the guest, under the name of what listens there, and the port here that leads to it; 0 is any.

    With `needs_key` clients must send the node's API key.
    """

    name: str
    remote_port: int
    local_port: int
    needs_key: bool = False

    @property
    def url(self) -> str:
        """Where it is found on this machine."""
        return f"http://{_LOCAL}:{self.local_port}"

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "name": self.name,
            "url": self.url,
            "local_port": self.local_port,
            "remote_port": self.remote_port,
            "needs_key": self.needs_key,
        }


class Tunnel:
    """A context manager: open inside, closed outside."""

    def __init__(self, command: SshCommand, forwards: Sequence[Forward], subject: str, clock: Clock) -> None:
        self._command = command
        self.wanted = tuple(forwards)
        self._subject = subject
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None
        self.forwards: tuple[Forward, ...] = ()
        """What is open, with the ports it was given."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line, once the ports are chosen."""
        options = tuple(word for option in _OPTIONS for word in ("-o", option))
        places = tuple(
            word for each in self.forwards for word in ("-L", f"{_LOCAL}:{each.local_port}:{_LOCAL}:{each.remote_port}")
        )
        program, *rest = self._command.arguments
        return (program, "-N", "-T", *options, *places, *rest)

    def __enter__(self) -> Tunnel:
        """Open it.

        Raises:
            InputError: a port here is taken, or there is no ssh on this machine.
            GuestError: the guest does not let us in.
        """
        self.forwards = tuple(self._with_port(each) for each in self.wanted)
        self._words = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                dying_with_us(*self.arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                # Ctrl-C is for us, who then close it in order.
                start_new_session=True,
            )
        except FileNotFoundError:
            self.close()
            raise InputError(
                "cannot open the tunnel: there is no ssh on this machine",
                subject=self._subject,
                next_step="install openssh-client",
            ) from None
        try:
            wait_until(self._is_open, clock=self._clock, seconds=_CONNECT_SECONDS, pace=Pace(longest=0.2))
        except WaitedInVain as waited:
            self.close()
            raise self._failure(f"nothing came of it within {waited.seconds:g} s") from waited
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Stay until the connection ends. Raises GuestError, for it never ends of itself."""
        if self._process is not None:
            self._process.wait()
            raise self._failure("the connection ended")

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._words is not None:
            self._words.close()
            self._words = None

    def _is_open(self) -> bool | NotYet:
        if self._process is not None and self._process.poll() is not None:
            raise self._failure("ssh ended at once")
        for each in self.forwards:
            try:
                socket.create_connection((_LOCAL, each.local_port), timeout=1.0).close()
            except OSError as error:
                return NotYet(str(error.strerror or error))
        return True

    def _with_port(self, forward: Forward) -> Forward:
        """Return the forward with a port of this machine that nobody has."""
        with socket.socket() as probe:
            try:
                # As ssh will do: a port whose last connections have not quite gone is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((_LOCAL, forward.local_port))
            except OSError as error:
                raise InputError(
                    f"cannot open port {forward.local_port} on this machine: {error.strerror}",
                    subject=f"{forward.name} of {self._subject}",
                    next_step="choose another with --port PORT, or --port 0 for any that is free",
                ) from error
            return replace(forward, local_port=int(probe.getsockname()[1]))

    def _failure(self, what: str) -> GuestError:
        words = ""
        if self._words is not None:
            self._words.seek(0)
            lines = self._words.read().decode("utf-8", "replace").strip().splitlines()
            words = lines[-1] if lines else ""
        return GuestError(
            f"cannot keep the tunnel open: {what}{f' ({words})' if words else ''}",
            subject=self._subject,
            next_step="provisioner status says whether the node is awake; then try again",
            retryable=True,
        )
