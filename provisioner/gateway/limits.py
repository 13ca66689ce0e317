"""How much the gateway takes on, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.domain.quantities import MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, with defaults that suit a fleet at home. Bytes and seconds.

    A request's body is kept until its first byte has come, so that another
    node can be asked: `body_bytes` bounds one, `held_bytes` all of them.
    `waiting` bounds how many wait for one node, `running` how many one node is
    given. `hold_seconds` is the longest that a request waits for a node.
    """

    body_bytes: int = 32 * MIB
    held_bytes: int = 256 * MIB
    waiting: int = 1000
    running: int = 1000
    hold_seconds: float = 1200.0
    body_seconds: float = 30.0
    """A client takes no longer than this for its body, and what it takes at `body_rate`, in bytes a second."""
    body_rate: float = 64 * 1024.0
    first_byte_seconds: float = 1.5
    """A stream that has nothing to say by then says that it waits; clients are promised two."""
    document_seconds: float = 35.0
    """An answer in one piece that has nothing to say by then begins with blanks: proxies give up at 50 or 60 seconds,
    n8n at 300. Not earlier, because its status can no longer be an error's then."""
    heartbeat_seconds: float = 5.0
    """The pause between two signs of life; clients are promised one every ten."""
    suspect_seconds: float = 0.3
    """Without a first byte by then, the engine is asked for its health besides."""
    probe_seconds: float = 0.9
    """An engine that does not say that it is healthy within this hangs."""
    silence_seconds: float = 600.0
    """A stream that has begun and says nothing for so long has ended; so has one of which its client takes nothing."""
    overload_seconds: float = 30.0
    """How long an engine that is full is asked again before its client hears of it."""
