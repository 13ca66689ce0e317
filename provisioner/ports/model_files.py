"""Models in files on this machine, as far as their headers tell."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from provisioner.domain.models.model import Subject


class ModelFiles(Protocol):
    """What is known of a model from its own file."""

    def subject(self, path: Path) -> Subject | None:
        """Return a model's shape and bytes; None where there is no such file, or nothing in it is understood."""
        ...
