"""Rows that a file of comma-separated values gets at its end; one that a killed run left behind is continued."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from provisioner.errors import InputError


class CsvLog:
    """A context manager that appends rows."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = tuple(columns)
        self._file: TextIO | None = None

    def __enter__(self) -> CsvLog:
        """Open the file; a new one gets a line of headings. Raises InputError where it holds other columns."""
        try:
            file = self._path.open("a+", encoding="utf-8", newline="")
        except OSError as error:
            raise self._failure(error.strerror or str(error), "name another file") from error
        self._file = file
        file.seek(0)
        head = file.readline()
        if not head:
            self.write([self._columns])
        elif next(csv.reader([head])) != list(self._columns):
            self.__exit__(None, None, None)
            raise self._failure("it holds other columns", "name another file, or move this one away")
        elif not _ends_whole(self._path):
            # What was being written when the last run was killed is a line of its own, not the start of ours.
            file.write("\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """Append rows, at once. Raises InputError."""
        assert self._file is not None, "it is open inside `with`"  # noqa: S101
        try:
            csv.writer(self._file, lineterminator="\n").writerows(rows)
            self._file.flush()
        except OSError as error:
            raise self._failure(error.strerror or str(error), "make room, or name another file") from error

    def _failure(self, words: str, next_step: str) -> InputError:
        return InputError(f"cannot write rows: {words}", subject=str(self._path), next_step=next_step)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
