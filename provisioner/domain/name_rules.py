"""Which names may stand where in the fleet file, as patterns. One place, for the file's shape and for who writes one.

The patterns are read by Python, by pydantic's Rust engine and by editors (JSON
Schema), so they use what all three mean alike.
"""

from __future__ import annotations

import re

LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""A node's name: a DNS label, for it becomes the guest's host name and Proxmox refuses the rest."""

WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""A name of the fleet file's own: a cluster, a mode, a GPU slot. Also Proxmox's bridges."""

CONFIG_ID = r"^[A-Za-z][A-Za-z0-9_-]+$"
"""Proxmox's configuration ids (pve-configid): a letter, then at least one more; no dots."""

STORAGE_ID = r"^[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]$"
"""Proxmox's storage ids (pve-storage-id): dots are fine inside."""

HYPERVISOR = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
"""Proxmox's node names (pve-node): the server's host name, in whichever case it was given."""

TOKEN_ID = r"^[^\s@!]+@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+$"  # noqa: S105 - a pattern
"""USER@REALM!TOKENID."""

API_URL = r"^https://[^/\s?#]+/?$"
"""An https URL without a path."""


def fits(rule: str, name: str) -> bool:
    """Say whether the whole of a name follows a rule."""
    return re.fullmatch(rule, name) is not None


def normal_fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as ``AB:CD:...``. Raises ValueError that says what is allowed."""
    digits = text.replace(":", "").strip().upper()
    if re.fullmatch(r"[0-9A-F]{64}", digits) is None:
        raise ValueError("a SHA-256 fingerprint: 32 bytes in hexadecimal, such as AB:CD:... (64 digits)")
    return ":".join(digits[at : at + 2] for at in range(0, 64, 2))
