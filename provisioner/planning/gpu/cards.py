"""Which generation a graphics card is of, by its PCI ids, and what that means for drivers.

The ranges are those of the chips in the public list of PCI ids
(github.com/pciutils/pciids, 2026-08-22), display functions only; every id that
it names between two ends of a range is of that chip or of one with the same
properties. Driver branches and CUDA versions: NVIDIA's "CUDA Toolkit, Driver,
and Architecture Matrix" and the kernel-modules page of its driver
installation guide, as of October 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Generation(Enum):
    """NVIDIA's architectures, oldest first; the value is how people call them."""

    KEPLER = "Kepler or older"
    MAXWELL = "Maxwell"
    PASCAL = "Pascal"
    VOLTA = "Volta"
    TURING = "Turing"
    AMPERE = "Ampere"
    ADA = "Ada"
    HOPPER = "Hopper"
    BLACKWELL = "Blackwell"
    RUBIN = "Rubin"


class Modules(Enum):
    """Which kernel modules drive a generation; the open ones need the processor that came with Turing."""

    NONE = "none"
    PROPRIETARY = "proprietary"
    EITHER = "either"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Support:
    """What a generation can run. `last_branch` is None while new drivers still support it."""

    modules: Modules
    last_branch: int | None
    first_branch: int
    last_cuda: int | None = None


SUPPORT = {
    # Branch 470 was the last, and no engine of today runs with it.
    Generation.KEPLER: Support(Modules.NONE, 470, 0, 11),
    Generation.MAXWELL: Support(Modules.PROPRIETARY, 580, 0, 12),
    Generation.PASCAL: Support(Modules.PROPRIETARY, 580, 0, 12),
    Generation.VOLTA: Support(Modules.PROPRIETARY, 580, 0, 12),
    Generation.TURING: Support(Modules.EITHER, None, 0),
    Generation.AMPERE: Support(Modules.EITHER, None, 0),
    Generation.ADA: Support(Modules.EITHER, None, 525),
    Generation.HOPPER: Support(Modules.EITHER, None, 525),
    # CUDA 12.8 was the first for it, which came with branch 570.
    Generation.BLACKWELL: Support(Modules.OPEN, None, 570),
    # Known by name only: no source says which branch is its first.
    Generation.RUBIN: Support(Modules.OPEN, None, 610),
}


@dataclass(frozen=True, slots=True)
class Chip:
    """A stretch of device ids."""

    first: int
    last: int
    generation: Generation
    compute_capability: str


_MAXWELL, _PASCAL, _TURING = Generation.MAXWELL, Generation.PASCAL, Generation.TURING
_AMPERE, _BLACKWELL = Generation.AMPERE, Generation.BLACKWELL
CHIPS = (
    Chip(0x1340, 0x13BF, _MAXWELL, "5.0"),
    Chip(0x13C0, 0x1436, _MAXWELL, "5.2"),
    Chip(0x15C2, 0x15FF, _PASCAL, "6.0"),
    Chip(0x1613, 0x1676, _MAXWELL, "5.2"),
    Chip(0x1725, 0x172F, _PASCAL, "6.0"),
    Chip(0x174D, 0x17B0, _MAXWELL, "5.0"),
    Chip(0x17C2, 0x17FD, _MAXWELL, "5.2"),
    Chip(0x1B00, 0x1D56, _PASCAL, "6.1"),
    Chip(0x1D81, 0x1DF6, Generation.VOLTA, "7.0"),
    Chip(0x1E02, 0x1FF9, _TURING, "7.5"),
    Chip(0x2080, 0x20FF, _AMPERE, "8.0"),
    Chip(0x2182, 0x21D1, _TURING, "7.5"),
    Chip(0x2200, 0x2276, _AMPERE, "8.6"),
    Chip(0x2302, 0x23F0, Generation.HOPPER, "9.0"),
    Chip(0x2414, 0x25FB, _AMPERE, "8.6"),
    Chip(0x2681, 0x28F8, Generation.ADA, "8.9"),
    Chip(0x2900, 0x29FF, _BLACKWELL, "10.0"),
    Chip(0x2B80, 0x2DF9, _BLACKWELL, "12.0"),
    Chip(0x2E03, 0x2E2A, _BLACKWELL, "12.1"),
    Chip(0x2F04, 0x2F58, _BLACKWELL, "12.0"),
    Chip(0x3000, 0x30C0, Generation.RUBIN, ""),
    Chip(0x3180, 0x31FE, _BLACKWELL, "10.3"),
)
# Below this every card is Kepler or older; above the table it is newer than the table.
_FIRST_KNOWN = 0x1340


def chip_of(device_id: str) -> Chip | None:
    """Return the chip of an NVIDIA device id such as ``2204``, or None for one that is not in the table."""
    number = int(device_id, 16)
    return next((chip for chip in CHIPS if chip.first <= number <= chip.last), None)


def generation_of(device_id: str) -> Generation | None:
    """Return the generation of an NVIDIA device id, or None for one that is not in the table."""
    chip = chip_of(device_id)
    if chip is not None:
        return chip.generation
    return Generation.KEPLER if int(device_id, 16) < _FIRST_KNOWN else None
