"""Who may do what in Proxmox: which rights we need, which are missing, and the steps to get there; pure."""

from __future__ import annotations

from provisioner.planning.access.calls import Place, Verb
from provisioner.planning.access.plan import access_plan
from provisioner.planning.access.rights import (
    Permissions,
    Right,
    is_held,
    missing_rights,
    needed_rights,
    rights_by_path,
)
from provisioner.planning.access.withdraw import withdraw_plan

__all__ = [
    "Permissions",
    "Place",
    "Right",
    "Verb",
    "access_plan",
    "is_held",
    "missing_rights",
    "needed_rights",
    "rights_by_path",
    "withdraw_plan",
]
