"""Tickets and the token against forged requests, as the web interface uses them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

LIFETIME_SECONDS = 2 * 3600


class Tickets:
    """Makes and checks tickets with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, user: str) -> str:
        """Return a ticket for a user."""
        plain = f"PVE:{user}:{int(time.time()):08X}"
        return f"{plain}::{self._sign(plain)}"

    def user_of(self, ticket: str) -> str | None:
        """Return whose ticket it is, None when it is forged or too old."""
        plain, mark, signature = ticket.partition("::")
        parts = plain.split(":")
        if not mark or len(parts) != 3 or not hmac.compare_digest(signature, self._sign(plain)):
            return None
        age = time.time() - int(parts[2], 16)
        return parts[1] if -300 < age < LIFETIME_SECONDS else None

    def csrf(self, user: str) -> str:
        """Return the token that changing calls must carry next to the ticket."""
        stamp = f"{int(time.time()):08X}"
        return f"{stamp}:{self._sign(f'{stamp}:{user}')}"

    def accepts_csrf(self, token: str, user: str) -> bool:
        """Say whether such a token is genuine."""
        stamp, _, signature = token.partition(":")
        return hmac.compare_digest(signature, self._sign(f"{stamp}:{user}"))

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.digest(self._secret, text.encode(), hashlib.sha256)).decode()
