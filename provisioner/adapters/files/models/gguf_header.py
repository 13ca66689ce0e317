"""Reads the header of a GGUF file: its key-value pairs and its tensors' shapes, never their data.

The format is small (ggml/docs/gguf.md), and the header says all that `fit`
asks, so no library is needed for it. Lengths come from the file and are not
believed: nothing is read past the end, and no count may promise more than the
file could hold.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from provisioner.errors import InputError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Generous: a chat template has some 10 KiB, a name less than 64 bytes.
_LONGEST_STRING = 16 << 20
_LONGEST_KEY = 1 << 16
_MOST_DIMENSIONS = 8

_FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

# Type number -> (weights per block, bytes per block): gguf-py/gguf/constants.py.
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
}

Value = int | float | bool | str | tuple[int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its dimensions, the fastest first, and the bytes of its data."""

    name: str
    dimensions: tuple[int, ...]
    size_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the data. Of a list of strings only its length is kept, under its key in `lengths`."""

    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: tuple[Tensor, ...]

    @property
    def tensor_bytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)


def read_header(path: Path) -> GgufHeader:
    """Read a file's header. Raises InputError for anything that is no whole GGUF file, OSError from the disk."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, size, path)
        if reader.take(4) != MAGIC:
            raise damaged(path, "it does not begin with GGUF")
        version = reader.number("<I")
        if version not in _VERSIONS:
            swapped = struct.unpack(">I", struct.pack("<I", version))[0]
            what = "it is big-endian" if swapped in _VERSIONS else f"it has version {version}; known are 2 and 3"
            raise damaged(path, what)
        tensor_count, pair_count = reader.number("<Q"), reader.number("<Q")
        # The shortest pair has 13 bytes, the shortest tensor 24.
        if pair_count * 13 + tensor_count * 24 > size:
            raise damaged(path, f"it promises {tensor_count} tensors and {pair_count} values in {size} bytes")
        values: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(pair_count):
            key = reader.text(_LONGEST_KEY)
            reader.value(key, reader.number("<I"), values, lengths)
        tensors = tuple(reader.tensor() for _ in range(tensor_count))
        alignment = values.get("general.alignment", 32)
        start = _aligned(reader.at, alignment if isinstance(alignment, int) and alignment > 0 else 32)
        end = start + max((tensor.offset + tensor.size_bytes for tensor in tensors), default=0)
        if tensors and end > size:
            raise damaged(path, f"it is cut short: {size} of {end} bytes are there")
        return GgufHeader(values, lengths, tensors)


def damaged(path: Path, what: str) -> InputError:
    """Return the error for a file that is no whole model."""
    return InputError(
        f"cannot read the GGUF file: {what}",
        subject=str(path),
        next_step="download it again and compare its checksum; a Git LFS pointer is not the file itself",
    )


def _aligned(at: int, step: int) -> int:
    return -(-at // step) * step


class _Reader:
    """Takes numbers and texts out of a file, and refuses to go past its end."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file, self._size, self._path = file, size, path
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > self._size - self.at:
            raise damaged(self._path, f"its header ends in the middle, at byte {self._size}")
        self.at += count
        return self._file.read(count)

    def skip(self, count: int) -> None:
        """Leave bytes out."""
        if count > self._size - self.at:
            raise damaged(self._path, f"its header ends in the middle, at byte {self._size}")
        self.at += count
        self._file.seek(self.at)

    def number(self, kind: str) -> int:
        """Return a whole number."""
        return int(struct.unpack(kind, self.take(struct.calcsize(kind)))[0])

    def text(self, longest: int = _LONGEST_STRING) -> str:
        """Return a text."""
        length = self.number("<Q")
        if length > longest:
            raise damaged(self._path, f"a text of {length} bytes stands at byte {self.at}")
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, key: str, kind: int, values: dict[str, Value], lengths: dict[str, int]) -> None:
        """Read one value and keep it under its key."""
        if kind in _FIXED:
            values[key] = struct.unpack(_FIXED[kind], self.take(struct.calcsize(_FIXED[kind])))[0]
        elif kind == _STRING:
            values[key] = self.text()
        elif kind == _ARRAY:
            self._array(key, values, lengths)
        else:
            raise damaged(self._path, f'value "{key}" is of an unknown type {kind}')

    def _array(self, key: str, values: dict[str, Value], lengths: dict[str, int]) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        lengths[key] = count
        if kind == _STRING:
            if count * 8 > self._size - self.at:
                raise damaged(self._path, f'list "{key}" promises {count} texts')
            for _ in range(count):
                self.skip(self.number("<Q"))
            return
        if kind not in _FIXED:
            raise damaged(self._path, f'list "{key}" is of an unknown type {kind}')
        width = struct.calcsize(_FIXED[kind])
        # One number per layer is of interest, one per token of the vocabulary is not.
        if count <= 1024:
            data = self.take(width * count)
            values[key] = tuple(struct.unpack(f"<{count}{_FIXED[kind][1]}", data))
        else:
            self.skip(width * count)

    def tensor(self) -> Tensor:
        """Read one tensor's description."""
        name, ranks = self.text(_LONGEST_KEY), self.number("<I")
        if ranks > _MOST_DIMENSIONS:
            raise damaged(self._path, f'tensor "{name}" has {ranks} dimensions')
        dimensions = tuple(self.number("<Q") for _ in range(ranks))
        kind, offset = self.number("<I"), self.number("<Q")
        if kind not in _BLOCKS:
            raise damaged(self._path, f'tensor "{name}" is of an unknown type {kind}')
        weights = 1
        for dimension in dimensions:
            weights *= dimension
        per_block, block_bytes = _BLOCKS[kind]
        return Tensor(name, dimensions, -(-weights // per_block) * block_bytes, offset)
