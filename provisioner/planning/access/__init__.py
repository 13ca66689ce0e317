"""Who may do what in Proxmox: which rights we need, which are missing, and the steps to get there; pure."""

from __future__ import annotations

from provisioner.planning.access.rights import (
    Permissions,
    Place,
    Right,
    Verb,
    is_held,
    missing_rights,
    needed_rights,
    rights_by_path,
)

__all__ = ["Permissions", "Place", "Right", "Verb", "is_held", "missing_rights", "needed_rights", "rights_by_path"]
