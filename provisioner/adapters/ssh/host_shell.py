"""The port `HostShell`: scripts on a hypervisor over one open connection, with bounds on time and memory."""

from __future__ import annotations

import shlex
import threading
import time
from types import TracebackType

import fabric
import paramiko

from provisioner.domain.fleet import HypervisorSpec
from provisioner.errors import HypervisorError, LoginRefusedError, UnreachableError
from provisioner.ports.guest_shell import CommandResult

MAX_OUTPUT_BYTES = 8 * 1024 * 1024
"""More than any answer we ask for: a full kernel log is under 2 MiB."""

# Printed first by what we start: whatever stands before it came from somebody's .bashrc, and without it nothing of
# ours has run.
_MARK = "provisioner: the script begins"
# The script comes on standard input: no limit on its length, and nothing of it in the list of processes.
_START = f'echo "{_MARK}"; eval "$(cat)"'
# Between its end there and ours here: what `timeout` needs to end it, and a slow line.
_KILL_SECONDS = 3
_GRACE_SECONDS = 6.0
_BREAKING_SECONDS = 1.0
_TIMED_OUT = (124, 137)  # as timeout(1) says it, and when it had to kill


class FabricHostShell:
    """One open connection."""

    def __init__(self, connection: fabric.Connection, hypervisor: HypervisorSpec, subject: str) -> None:
        self._connection = connection
        self._user = connection.user
        self._name = hypervisor.name
        self._subject = subject

    @property
    def host_key(self) -> str:
        """The host's key that was accepted, as ``KIND BASE64``."""
        key = self._connection.transport.get_remote_server_key()
        return f"{key.get_name()} {key.get_base64()}"

    def run(self, script: str, *, seconds: float, privileged: bool = True) -> CommandResult:
        """Run a POSIX sh script."""
        needs_sudo = privileged and self._user != "root"
        words = ["sudo", "-n", "--"] if needs_sudo else []
        words += ["timeout", "-k", str(_KILL_SECONDS), f"{seconds:g}", "/bin/sh", "-c", _START]
        began = time.monotonic()
        try:
            out, err, code = self._exchange(shlex.join(words), script, seconds + _GRACE_SECONDS)
        except TimeoutError as error:
            raise self._too_slow(seconds) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost(error) from error
        before, mark, body = out.partition(f"{_MARK}\n")
        if not mark:
            raise self._not_started(code, err.strip() or before.strip(), needs_sudo=needs_sudo)
        if code in _TIMED_OUT and time.monotonic() - began >= seconds:
            raise self._too_slow(seconds)
        return CommandResult(code, body, err)

    def _exchange(self, line: str, script: str, seconds: float) -> tuple[str, str, int]:
        """Send and receive. Raises TimeoutError, OSError, EOFError or SSHException."""
        end = time.monotonic() + seconds
        channel = self._connection.transport.open_session(timeout=seconds)
        with channel:
            channel.settimeout(seconds)
            channel.exec_command(line)
            err = _Drain(channel)
            err.start()
            try:
                channel.sendall(script.encode())
                channel.shutdown_write()
            except OSError:
                pass  # it ended without reading: sudo refused, or the login shell is no shell
            out = bytearray()
            while True:
                channel.settimeout(max(0.0, end - time.monotonic()))
                piece = channel.recv(65536)
                if not piece:
                    break
                out += piece
                if len(out) + err.size > MAX_OUTPUT_BYTES:
                    raise self._too_much()
            if err.size > MAX_OUTPUT_BYTES:
                raise self._too_much()
            if not channel.status_event.wait(max(0.0, end - time.monotonic())):
                raise TimeoutError
            code = channel.recv_exit_status()
            if code < 0 and self._has_broken():
                raise EOFError("the connection broke")
            err.join(_GRACE_SECONDS)
        return out.decode(errors="replace"), err.text, code

    def _has_broken(self) -> bool:
        """Tell a connection that is gone from a program that a signal ended; neither has an exit code."""
        # Paramiko closes the channels of a broken connection a moment before its thread ends.
        self._connection.transport.join(_BREAKING_SECONDS)
        return not self._connection.transport.is_active()

    def _too_slow(self, seconds: float) -> HypervisorError:
        return HypervisorError(
            f"cannot finish a command there: it took longer than {seconds:g} s and was ended",
            subject=self._subject,
            next_step="look there at what hangs: ps -eo pid,stat,wchan:32,args --sort=start_time | tail -n 30",
            retryable=True,
        )

    def _too_much(self) -> HypervisorError:
        return HypervisorError(
            f"cannot take a command's answer: it printed more than {MAX_OUTPUT_BYTES >> 20} MiB",
            subject=self._subject,
            next_step="look there at what floods: dmesg | tail; journalctl -k | tail",
        )

    def _lost(self, error: BaseException) -> HypervisorError:
        return UnreachableError(
            f"cannot finish a command there: the connection broke in the middle of it ({error or 'closed'})",
            subject=self._subject,
            next_step="see that the server is on and the network stands, then run the same again",
            retryable=True,
        )

    def _not_started(self, code: int, words: str, *, needs_sudo: bool) -> HypervisorError:
        lines = words.splitlines() or [f"exit code {code}"]
        # sshd and the login shell have words of their own: a home that is not there, a greeting.
        last = next((line for line in lines if needs_sudo and "sudo" in line), lines[-1])
        if not needs_sudo:
            return HypervisorError(
                f"cannot run commands there: the login shell of {self._user} does not run them: {last}",
                subject=self._subject,
                next_step=f"see that this works: ssh {self._user}@... true; or set ssh.user to root",
            )
        rule = f"{self._user} ALL=(root) NOPASSWD: ALL"
        return LoginRefusedError(
            f"cannot become root there: {self._user} has no sudo without a password: {last}",
            subject=self._subject,
            next_step=(
                f"set ssh.user to root under hypervisors.{self._name} in the fleet file, or install sudo there and "
                f"put `{rule}` into /etc/sudoers.d/provisioner"
            ),
        )

    def __enter__(self) -> FabricHostShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


class _Drain(threading.Thread):
    """Reads a channel's standard error beside its output, so that neither waits for the other."""

    def __init__(self, channel: paramiko.Channel) -> None:
        super().__init__(name="host-stderr", daemon=True)
        self._channel = channel
        self._kept = bytearray()
        self.size = 0

    def run(self) -> None:
        """Read until it ends."""
        try:
            while piece := self._channel.recv_stderr(65536):
                self.size += len(piece)
                if self.size > MAX_OUTPUT_BYTES:
                    self._channel.close()  # which ends the reading of the output, too
                    return
                self._kept += piece
        except (OSError, EOFError):
            return  # its time is up, or the connection gone, which the reader of the output says

    @property
    def text(self) -> str:
        """What was printed."""
        return self._kept.decode(errors="replace")
