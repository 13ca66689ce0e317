"""Graphics cards by name: what is written on the box, what the driver reports, what a program can have.

Three numbers, and the smallest decides. Cards with ordinary memory that check
it (ECC) give a sixteenth of it up; the driver keeps some for itself; and what
CUDA then calls total is less again, by 0.4 GiB on the cards that were looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from provisioner.domain.quantities import GIB, MIB

_MODAL = "thundergolfer.com/blog/nvidia-gpu-memory-capacity (NVML, 8 cards)"
_SMI = "nvidia-smi outputs in public repositories"
_NOMINAL = "size by its name; what the driver reports was not looked up"

CUDA_KEEPS = 430 * MIB
"""Between nvidia-smi's total and CUDA's: RTX 3090 24576 MiB and 23.58 GiB (vllm issue 10517, with a little in use),
H100 81559 MiB and 79.22 GiB (vllm PR 10511)."""
UNKNOWN_CARD_SHARE = 0.98
"""Of a size that no card stands behind; the same two cards, rounded down."""


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of card. `reported_mib` is what nvidia-smi calls total, or None where nobody looked."""

    name: str
    nominal_gib: int
    reported_mib: int | None
    source: str
    has_ecc: bool = False

    @property
    def usable_bytes(self) -> int:
        """What programs can have of it."""
        if self.reported_mib is not None:
            return self.reported_mib * MIB - CUDA_KEEPS
        return usable_of(self.nominal_gib * GIB)


def usable_of(size_bytes: int) -> int:
    """Return what programs can have of a size that no known card stands behind."""
    return int(size_bytes * UNKNOWN_CARD_SHARE)


CARDS = (
    Card("GTX 1060 6GB", 6, None, _NOMINAL),
    Card("GTX 1080", 8, None, _NOMINAL),
    Card("GTX 1080 Ti", 11, None, _NOMINAL),
    Card("RTX 2060", 6, None, _NOMINAL),
    Card("RTX 2070", 8, None, _NOMINAL),
    Card("RTX 2080", 8, None, _NOMINAL),
    Card("RTX 2080 Ti", 11, None, _NOMINAL),
    Card("RTX 3060 8GB", 8, None, _NOMINAL),
    Card("RTX 3060 12GB", 12, 12288, _SMI),
    Card("RTX 3070", 8, None, _NOMINAL),
    Card("RTX 3080", 10, 10240, _SMI),
    Card("RTX 3080 Ti", 12, 12288, _SMI),
    Card("RTX 3090", 24, 24576, _SMI),
    Card("RTX 3090 Ti", 24, None, _NOMINAL),
    Card("RTX 4060", 8, None, _NOMINAL),
    Card("RTX 4060 Ti 8GB", 8, None, _NOMINAL),
    Card("RTX 4060 Ti 16GB", 16, 16380, _SMI),
    Card("RTX 4070", 12, None, _NOMINAL),
    Card("RTX 4070 Ti", 12, None, _NOMINAL),
    Card("RTX 4080", 16, 16376, _SMI),
    Card("RTX 4080 SUPER", 16, None, _NOMINAL),
    Card("RTX 4090", 24, 24564, _SMI),
    Card("RTX 5070", 12, None, _NOMINAL),
    Card("RTX 5080", 16, None, _NOMINAL),
    Card("RTX 5090", 32, 32607, _SMI),
    Card("RTX A2000", 6, None, _NOMINAL),
    Card("RTX A4000", 16, 16376, _SMI),
    Card("RTX A5000", 24, 24564, _SMI),
    Card("RTX A6000", 48, 49140, _SMI, has_ecc=True),
    Card("RTX 6000 Ada", 48, 49140, _SMI, has_ecc=True),
    Card("RTX PRO 6000 Blackwell", 96, 97887, _SMI),
    Card("Quadro RTX 8000", 48, 49140, _SMI, has_ecc=True),
    Card("Tesla P40", 24, None, _NOMINAL, has_ecc=True),
    Card("Tesla P100 16GB", 16, None, _NOMINAL),
    Card("Tesla V100 16GB", 16, None, _NOMINAL),
    Card("Tesla V100 32GB", 32, 32768, _SMI),
    Card("Tesla T4", 16, 15360, _MODAL, has_ecc=True),
    Card("L4", 24, 23034, _MODAL, has_ecc=True),
    Card("L40", 48, None, _NOMINAL, has_ecc=True),
    Card("L40S", 48, 46068, _MODAL, has_ecc=True),
    Card("A10", 24, 23028, _MODAL, has_ecc=True),
    Card("A40", 48, None, _NOMINAL, has_ecc=True),
    Card("A100 40GB", 40, 40960, _MODAL),
    Card("A100 80GB", 80, 81920, _MODAL),
    Card("H100 80GB", 80, 81559, _MODAL),
    Card("H200", 141, 143771, _MODAL),
)
"""Cards that people pass through. Of those with ECC the sixteenth is gone where the driver's number says so; A6000,
6000 Ada and RTX 8000 stand here with ECC off, as bought. Cards sold in several sizes carry the size in their name."""


def _key(name: str) -> str:
    words = re.sub(r"nvidia|geforce|tesla|quadro| generation|pcie|sxm\d?", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", words)


_BY_KEY = {_key(card.name): card for card in CARDS} | {
    _key(spelling): card
    for card in CARDS
    for spelling in (re.sub(r" ?\d+GB$", "", card.name),)
    if sum(re.sub(r" ?\d+GB$", "", each.name) == spelling for each in CARDS) == 1
}


def find_card(name: str) -> Card | None:
    """Return a card by its name, however it is spelt: ``rtx3090``, ``3090``, ``NVIDIA GeForce RTX 3090``."""
    key = _key(name)
    return next((_BY_KEY[each] for each in (key, f"rtx{key}", f"gtx{key}") if each in _BY_KEY), None)


def sizes_of(name: str) -> tuple[str, ...]:
    """Return the cards that differ from `name` in their memory alone: what to ask back for ``A100``."""
    wanted = _key(name)
    return tuple(card.name for card in CARDS if wanted and re.fullmatch(wanted + r"\d+gb", _key(card.name)))
