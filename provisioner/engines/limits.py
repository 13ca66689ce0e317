"""The limits that systemd puts on an engine, alike for all of them."""

from __future__ import annotations

from provisioner.domain.mode import ModeSpec


def memory_max_bytes(mode: ModeSpec) -> int | None:
    """Return the most memory it may use, or None."""
    return mode.memory_limit_bytes


def cpu_quota_percent(mode: ModeSpec) -> int | None:
    """Return the most processor time it may use, in per cent of one core, or None."""
    return None if mode.cpu_limit is None else max(1, round(mode.cpu_limit * 100))
