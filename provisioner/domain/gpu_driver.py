"""Which driver a node is to have: what the fleet file may say of it, and what was chosen. Pure values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

DRIVER_PATTERN = r"^(auto|none|rocm|[3-9]\d\d(-server)?(-open)?(-dkms)?)$"
"""What ``driver:`` of a GPU may say; the names are those of Ubuntu's packages."""
DRIVER_HELP = "auto, none, rocm, or a branch of Ubuntu's packages such as 580-server, 580-server-open, 595-open"
DEFAULT_BRANCH = 580
"""The branch with long-term support until June 2028, and the last one for cards before Turing."""


class DriverKind(Enum):
    """What is installed."""

    NONE = "none"
    """Nothing: the image, or somebody else, brings the driver."""
    NVIDIA = "nvidia"
    ROCM = "rocm"


@dataclass(frozen=True, slots=True)
class DriverWish:
    """What the fleet file says. Without a branch, and where `is_open` is None, the cards' generation chooses."""

    kind: DriverKind | None = None
    branch: int | None = None
    is_server: bool = True
    is_open: bool | None = None
    is_dkms: bool = False


@dataclass(frozen=True, slots=True)
class DriverChoice:
    """The one driver of a node. For ROCm and none, the rest says nothing."""

    kind: DriverKind
    branch: int = DEFAULT_BRANCH
    is_server: bool = True
    is_open: bool = False
    is_dkms: bool = False

    @property
    def packages(self) -> str:
        """The branch in the names of Ubuntu's packages for tools and libraries: ``580-server``."""
        return f"{self.branch}-server" if self.is_server else str(self.branch)

    @property
    def modules(self) -> str:
        """The branch in the names of Ubuntu's packages for kernel modules: ``580-server-open``."""
        return f"{self.packages}-open" if self.is_open else self.packages

    def __str__(self) -> str:
        if self.kind is not DriverKind.NVIDIA:
            return str(self.kind.value)
        return f"{self.modules}-dkms" if self.is_dkms else self.modules


def parse_driver(text: str) -> DriverWish:
    """Return what ``driver:`` of a GPU says. Raises ValueError that says what is allowed."""
    if re.fullmatch(DRIVER_PATTERN, text) is None:
        raise ValueError(DRIVER_HELP)
    if text == "auto":
        return DriverWish()
    if text in ("none", "rocm"):
        return DriverWish(DriverKind(text))
    words = text.split("-")
    return DriverWish(
        DriverKind.NVIDIA,
        int(words[0]),
        is_server="server" in words,
        # Whoever names a branch without "open" names the proprietary packages.
        is_open="open" in words,
        is_dkms="dkms" in words,
    )
