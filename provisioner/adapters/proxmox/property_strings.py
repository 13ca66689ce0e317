"""Proxmox's comma-separated option values: taken apart without regard to order, and put together again."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_TRUE = frozenset(("1", "on", "yes", "true"))


def parts_of(value: object, first: str) -> dict[str, str]:
    """Take a value apart.

    Args:
        value: such as ``host,flags=+aes``, or None when the option is not set.
        first: the name of the part that may stand without one.
    """
    parts: dict[str, str] = {}
    for part in str(value).split(",") if value not in (None, "") else ():
        name, equals, text = part.partition("=")
        parts[name.strip() if equals else first] = (text if equals else name).strip()
    return parts


def network_parts(value: object) -> dict[str, str]:
    """Take a network card apart; its model is usually written as the name of its address."""
    parts = parts_of(value, "model")
    for name in [name for name, text in parts.items() if _MAC.fullmatch(text) and name != "macaddr"]:
        parts["model"], parts["macaddr"] = name, parts.pop(name)
    return parts


def joined(parts: Mapping[str, str], first: str = "") -> str:
    """Put a value together, the part that may stand without a name in front."""
    rest = [f"{name}={text}" for name, text in parts.items() if name != first]
    return ",".join([parts[first], *rest] if first in parts else rest)


def is_on(value: object) -> bool:
    """Read a switch; one that is not set is off."""
    return str(value).lower() in _TRUE
