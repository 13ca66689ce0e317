"""What we remember of telling orchestrators: only they know what they know, and only we know when we last failed."""

from __future__ import annotations

from typing import Protocol

from provisioner.domain.orchestrator import OrchestratorName, Registration


class Registrations(Protocol):
    """The latest try per orchestrator; survives kill -9."""

    def of(self, orchestrator: OrchestratorName) -> Registration:
        """Return what is known; one without any try where nothing is."""
        ...

    def put(self, registration: Registration) -> None:
        """Replace it."""
        ...
