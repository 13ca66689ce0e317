"""The one reader of the program's own environment: where the fleet file is, and where we keep what we must keep."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths. `state_folder` holds the login key, locks and the activity log; losing it loses no node."""

    fleet_file: Path
    state_folder: Path


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read ``PROVISIONER_FLEET`` and ``PROVISIONER_STATE``, with the usual places as defaults."""
    state_home = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Settings(
        fleet_file=Path(environment.get("PROVISIONER_FLEET") or "inventory/fleet.yml"),
        state_folder=Path(environment.get("PROVISIONER_STATE") or Path(state_home) / "provisioner"),
    )
