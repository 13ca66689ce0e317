"""The way to a cluster's users, roles and rules for somebody who may change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from provisioner.domain.access import AccessSeen, AccessWanted
from provisioner.domain.access_plan import AccessStep

Permissions = Mapping[str, Mapping[str, int]]
"""Path -> privilege -> 1 if it also holds below the path, else 0, as ``GET /access/permissions`` answers."""


class AccessDoor(Protocol):
    """One cluster, entered as an administrator.

    Every method raises `HypervisorError` (or a branch of it) with Proxmox's own words in the summary.
    """

    @property
    def subject(self) -> str:
        """Who enters where, in the words of messages."""
        ...

    def major(self) -> int:
        """Return Proxmox VE's major version."""
        ...

    def own_permissions(self) -> Permissions:
        """Return what whoever entered may do."""
        ...

    def token_permissions(self, wanted: AccessWanted) -> Permissions:
        """Return what the fleet's token may do: Proxmox's own answer for each path that matters."""
        ...

    def look(self, wanted: AccessWanted, *, undoing: bool = False) -> AccessSeen:
        """Look at everything; with `undoing` also at who uses the mappings. Changes nothing.

        Raises:
            InputError: where the secret is to be kept is contradictory.
        """
        ...

    def carry_out(self, step: AccessStep) -> None:
        """Do one step. A new token's secret goes from the answer into its file and nowhere else.

        Raises:
            InputError: the secret's file cannot be made, or is in use.
        """
        ...
