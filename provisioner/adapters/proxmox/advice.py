"""What to do about Proxmox's own error texts: one row each, first match wins."""

from __future__ import annotations

import re

_ADVICE = (
    (
        r"PCI device '\S+' already in use by VMID '(\d+)'",
        "the GPU is with VM {0}: shut that one down first, then try again",
    ),
    (r"is currently reserved for use by VMID '(\d+)'", "VM {0} is starting with this GPU; try again in a moment"),
    (
        r"PCI device mapping invalid",
        "edit the PCI mapping so that it names the device as it is now (Datacenter > Resource Mappings)",
    ),
    (
        r"PCI device mapping not found",
        "add an entry for this server to the PCI mapping (Datacenter > Resource Mappings)",
    ),
    (r"IOMMU not present", "turn on VT-d or AMD-Vi in the server's firmware setup"),
    (
        r"no PCI device found",
        "the card is gone or has moved to another slot: compare `lspci` on the server with the mapping",
    ),
    (
        r"No space left on device|not enough free space|out of space",
        "free space on that storage, or name another one in the fleet file; then run the same command again",
    ),
    (
        r"checksum mismatch|checksum.*wrong|wrong checksum",
        "the file at the image's URL is not the one pinned: check url and sha256 under images",
    ),
    (r"refusing to override existing file", "a file of that name lies on the storage; delete it or check its sum"),
    (
        r"(?:got|can't connect|failed|unable).*(?:resolve|Connection refused|404|timed out)",
        "the server must be able to fetch the image's URL: check it from there, and its proxy settings",
    ),
    (
        r"download failed",
        "the server must be able to fetch the image's URL: check it from there, and its proxy settings",
    ),
    (
        r"can't lock file|VM is locked",
        "another task works on this VM; wait for it (Proxmox > Tasks), then run the same command again",
    ),
    (r"quit/powerdown failed - got timeout", "the guest did not shut down in time: look at its console"),
    (r"storage '([^']+)' does not exist", "name a storage that exists under clusters.*.storage (found: no {0})"),
    (
        r"shrinking disks is not supported|unable to skrink disk size",
        "the image is larger than the wanted disk: raise disk in the fleet file",
    ),
    (r"MAX (\d+) vcpus allowed", "the server has {0} threads: lower cores in the fleet file"),
    (
        r"cannot allocate memory|Cannot allocate memory",
        "the server has too little free memory: a VM with a GPU needs all of its memory at start",
    ),
)


def next_step_for(text: str) -> str:
    """Return the advice for one of Proxmox's texts."""
    for pattern, advice in _ADVICE:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            return advice.format(*match.groups())
    return "Proxmox > Tasks shows the task with its log; mend what it names, then run the same command again"
