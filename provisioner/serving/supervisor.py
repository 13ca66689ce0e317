"""Tells systemd, where it asked to be told, that the service is ready and that it stops."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def tell_supervisor(state: str) -> None:
    """Send ``READY=1`` or ``STOPPING=1`` to whoever started us with ``NOTIFY_SOCKET``; nothing where nobody did."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # An abstract socket begins with a zero byte, which no environment can hold.
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address)
