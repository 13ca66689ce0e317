"""The port `NodeLocks` for one machine: a second `up`, `sleep` or `destroy` of the same node is told so."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioner.adapters.storage.state_folder import writing_below
from provisioner.domain.names import NodeName
from provisioner.errors import RefusedError


class FileNodeLocks:
    """File locks; the kernel drops them with the process, so kill -9 leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def held(self, node: NodeName) -> Iterator[None]:
        """Hold a node. Raises RefusedError when another process does."""
        with writing_below(self._folder):
            descriptor = os.open(self._folder / f"{node}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise RefusedError(
                    f"cannot work on the node: another provisioner (process {holder}) does",
                    subject=f'node "{node}"',
                    next_step="let it finish, then run the same command again",
                    retryable=True,
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)
