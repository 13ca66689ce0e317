"""What a guest gets beside its engines: who may reach it, how it mends itself, what is built in it. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network


@dataclass(frozen=True, slots=True)
class GuestSoftware:
    """The base of a guest, as the fleet file wants it.

    `allowed_networks` may reach SSH and the engines, nobody else may. Without
    `upgrades_itself` no package is ever upgraded unless somebody does it.
    `cuda_toolkit` is NVIDIA's own name of a version, ``12-9``. After
    `off_by_itself_seconds` without use, and without anybody of ours looking,
    the guest shuts itself down; None for never.
    """

    allowed_networks: tuple[IPv4Network, ...] = ()
    upgrades_itself: bool = True
    cuda_toolkit: str | None = None
    off_by_itself_seconds: float | None = None
