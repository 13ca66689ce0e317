"""Where a fleet file goes that we write."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.proposal import FleetProposal


class FleetFiles(Protocol):
    """Writes fleet files, never over one that exists."""

    def require_absent(self, path: Path) -> None:
        """Make sure that nothing would be written over. Raises InputError."""
        ...

    def text(self, proposal: FleetProposal) -> str:
        """Return a proposal as a fleet file with comments."""
        ...

    def check(self, text: str, path: Path) -> FleetSpec:
        """Load a fleet file as if it lay at `path`, without putting it there. Raises InputError."""
        ...

    def write(self, text: str, path: Path) -> FleetSpec:
        """Put a fleet file that loads into place, whole or not at all, and make its folder.

        Raises:
            InputError: something is there already, the place cannot be written, or the text does not load.
        """
        ...
