"""The places where the service is reached: its address, its private socket, and who is already there."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provisioner.adapters.secrets import read_secret
from provisioner.adapters.storage.state_folder import writing_below
from provisioner.adapters.web.private_socket import LOCK, SOCKET, in_folder
from provisioner.domain.callers import Caller, Callers
from provisioner.domain.service import ListenAddress, ServiceSpec
from provisioner.errors import InputError, RefusedError

# What 8 random bytes are in hexadecimal: shorter ones can be guessed.
_SHORTEST_TOKEN = 16
_WAITING_CONNECTIONS = 4096
# A client whose power or network is cut says nothing any more; within 60 + 4 * 15 seconds its connection is given up.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


def known_callers(service: ServiceSpec) -> Callers:
    """Read the tokens' secrets. Raises InputError."""
    tokens = []
    for token in service.tokens.values():
        subject = f"token {token.name} of the service"
        secret = read_secret(token.secret, subject=subject).reveal()
        if len(secret) < _SHORTEST_TOKEN:
            raise InputError(
                f"cannot use the token: it has {len(secret)} signs, and fewer than {_SHORTEST_TOKEN} can be guessed",
                subject=f"{subject} ({token.secret})",
                next_step="make one with: openssl rand -hex 24",
            )
        tokens.append((Caller(token.name, token.may), secret))
    return Callers(tokens)


def require_closed_or_private(address: ListenAddress, callers: Callers) -> None:
    """Let the service listen where others reach it only with tokens. Raises RefusedError."""
    if callers.are_open and not address.is_private_to_us:
        raise RefusedError(
            f"cannot listen on {address}: others reach it, and no token is needed",
            subject="the control service",
            next_step="add tokens to the fleet file's service:, or listen on 127.0.0.1",
        )


def listening(address: ListenAddress) -> socket.socket:
    """Return a socket that listens. Raises InputError."""
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted there has it from here.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
        opened.bind((str(address.ip), address.port))
        opened.listen(_WAITING_CONNECTIONS)
    except OSError as error:
        opened.close()
        raise InputError(
            f"cannot listen on {address}: {error.strerror}",
            subject="the control service",
            next_step="stop what listens there, or name another address: service: {listen: 127.0.0.1:8701}",
        ) from error
    opened.setblocking(False)
    return opened


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Be the only service of a state folder; the kernel ends that with the process. Raises RefusedError."""
    with writing_below(folder):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise RefusedError(
                f"cannot serve: another service (process {holder}) does",
                subject=f"state folder {folder}",
                next_step="stop it first; or give this one a folder of its own in PROVISIONER_STATE",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def private_socket(folder: Path) -> Iterator[socket.socket]:
    """Listen on a socket in the state folder that only its owner can reach. For whoever holds `only_one`."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with writing_below(folder), in_folder(folder) as path:
            # What is there was left by a service that was killed.
            with suppress(FileNotFoundError):
                os.unlink(path)
            before = os.umask(0o177)
            try:
                opened.bind(path)
            finally:
                os.umask(before)
            opened.listen(_WAITING_CONNECTIONS)
        opened.setblocking(False)
        yield opened
    finally:
        opened.close()
        with suppress(OSError):
            (folder / SOCKET).unlink()
