"""What somebody's rights keep from them without a word; pure.

Proxmox leaves out of its lists what one may not see. A refusal says so itself
and is noted where it happens; these here are the silent ones.
"""

from __future__ import annotations

from collections.abc import Iterator

from provisioner.domain.discovery import Discovery, Unseen
from provisioner.planning.access.rights import is_held

# Path, privileges of which one is enough, what is hidden without it. Source: pve-manager at 14a22df3, PVE/API2:
# Cluster.pm, Network.pm, Cluster/Mapping/PCI.pm.
_SILENT = (
    ("/vms", ("VM.Audit",), "VMs and containers: who uses which GPU, VMID and address"),
    ("/storage", ("Datastore.Audit",), "storages"),
    ("/sdn/zones/localnetwork", ("SDN.Audit", "SDN.Use"), "bridges and their network"),
    ("/mapping/pci", ("Mapping.Audit", "Mapping.Use", "Mapping.Modify"), "PCI mappings"),
)

EASIEST = "give the user and its token the role PVEAuditor on /, which shows everything and changes nothing"


def hidden(discovery: Discovery) -> Iterator[Unseen]:
    """Say which lists may be shorter than the truth."""
    for path, privileges, what in _SILENT:
        if not any(is_held(discovery.permissions, path, privilege) for privilege in privileges):
            yield Unseen(what, f"only some are listed to this login, which lacks {privileges[0]} on {path}", EASIEST)
