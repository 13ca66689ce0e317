"""How a guest's filesystems come to fill their disks. Pure.

Cloud-init does this on the first boot and is switched off then; a disk that
grows later waits for us.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from provisioner.domain.model_keeping import MODEL_FOLDER

LOOK = ("lsblk", "--json", "--list", "--bytes", "--output", "NAME,PKNAME,TYPE,FSTYPE,MOUNTPOINT,SIZE")
"""Shows every block device; its answer is what `filling` reads."""
# Alignment and the backup of the partition table keep a few MiB to themselves.
_SLACK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Command:
    """One command as root. `idle_words` in its output mean that there was nothing to do."""

    words: tuple[str, ...]
    idle_words: str


@dataclass(frozen=True, slots=True)
class Filling:
    """What to run, or why nothing is run."""

    commands: tuple[Command, ...]
    why_not: str = ""


def filling(answer: str) -> Filling:
    """Return what makes the root filesystem fill its disk.

    Growing what is full already changes nothing, so a run that was killed
    between partition and filesystem is continued by the next.
    """
    try:
        devices = {str(each["name"]): each for each in json.loads(answer)["blockdevices"]}
    except (ValueError, KeyError, TypeError):
        return Filling((), "lsblk answered something else than expected")
    root = next((each for each in devices.values() if each.get("mountpoint") == "/"), None)
    if root is None:
        return Filling((), "no block device holds the root filesystem")
    grow = _grow_filesystem(str(root.get("fstype")), f"/dev/{root['name']}")
    if grow is None:
        return Filling((), f"its filesystem is {root.get('fstype')}, which we do not know how to grow")
    if root.get("type") == "disk":
        return Filling((grow,))
    number = re.search(r"(\d+)$", str(root["name"]))
    if root.get("type") != "part" or number is None or root.get("pkname") not in devices:
        return Filling((), f"it is on {root['name']} ({root.get('type')}), not on a plain partition")
    disk = devices[str(root["pkname"])]
    used = sum(int(each["size"]) for each in devices.values() if each.get("pkname") == disk["name"])
    if int(disk["size"]) - used <= _SLACK_BYTES:
        return Filling((grow,))
    return Filling((Command(("growpart", f"/dev/{disk['name']}", number[1]), "NOCHANGE"), grow))


def filling_models(answer: str) -> Filling:
    """Return what makes the filesystem for models fill its disk; nothing while none is mounted."""
    try:
        found = next(each for each in json.loads(answer)["blockdevices"] if each.get("mountpoint") == MODEL_FOLDER)
        grow = _grow_filesystem(str(found.get("fstype")), f"/dev/{found['name']}", MODEL_FOLDER)
    except (ValueError, KeyError, TypeError, StopIteration):
        return Filling(())
    return Filling((grow,)) if grow is not None else Filling((), f"models are on {found.get('fstype')}")


def _grow_filesystem(kind: str, device: str, mounted_at: str = "/") -> Command | None:
    return {
        "ext4": Command(("resize2fs", device), "Nothing to do"),
        "ext3": Command(("resize2fs", device), "Nothing to do"),
        "xfs": Command(("xfs_growfs", mounted_at), "data size unchanged"),
        # It does not say whether anything was left to grow.
        "btrfs": Command(("btrfs", "filesystem", "resize", "max", mounted_at), "Resize"),
    }.get(kind)
