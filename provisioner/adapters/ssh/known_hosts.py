"""Reads OpenSSH's known_hosts files: which host keys a person has trusted before; opens no file.

Paramiko's own reader knows neither patterns (``*.example.org``) nor revoked
keys, and keeps one key of a kind where a file may hold several.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """Host keys, each as ``KIND BASE64``: those that are trusted, and those that must never be accepted."""

    trusted: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()


def known_keys(address: str, port: int, texts: Iterable[str]) -> KnownKeys:
    """Return what the texts of known_hosts files say of a host.

    A port of its own is looked up as ``[address]:port``; as OpenSSH does, the
    bare address counts where that gives nothing.
    """
    entries = [entry for text in texts for entry in _entries(text)]
    places = [address.lower()] if port == 22 else [f"[{address.lower()}]:{port}", address.lower()]
    for place in places:
        found = [(marker, key) for marker, names, key in entries if _matches(place, names)]
        trusted = tuple(dict.fromkeys(key for marker, key in found if not marker))
        revoked = tuple(dict.fromkeys(key for marker, key in found if marker == "@revoked"))
        if trusted or revoked:
            return KnownKeys(tuple(key for key in trusted if key not in revoked), revoked)
    return KnownKeys()


def _entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield marker, names and key of each line that has them. Certificate authorities are not for host keys alone."""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) < 3 or marker not in ("", "@revoked"):
            continue
        try:
            base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        yield marker, words[0], f"{words[1]} {words[2]}"


def _matches(place: str, names: str) -> bool:
    if names.startswith("|"):
        return _matches_hash(place, names)
    is_match = False
    for pattern in names.lower().split(","):
        # Square brackets stand for themselves here, not for a choice of characters.
        plain = pattern.removeprefix("!").replace("[", "[[]")
        if fnmatchcase(place, plain):
            if pattern.startswith("!"):
                return False
            is_match = True
    return is_match


def _matches_hash(place: str, names: str) -> bool:
    parts = names.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, digest = base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except (binascii.Error, ValueError):
        return False
    # OpenSSH's own choice for hiding names in that file; nothing is signed with it.
    return hmac.compare_digest(hmac.new(salt, place.encode(), hashlib.sha1).digest(), digest)
