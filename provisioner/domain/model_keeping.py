"""Where a node keeps its models. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from provisioner.domain.names import StorageName

MODEL_FOLDER = "/var/lib/llm"
"""Where a guest keeps models; the mount point of their own disk, where they have one."""
MODEL_DISK_SERIAL = "llm-models"
"""By this the guest knows the disk among others, and we know it as ours. QEMU shows at most 20 signs of it."""


class VmDisk(Enum):
    """A disk of a node's VM that is ours to grow."""

    BOOT = "disk"
    MODELS = "model disk"


@dataclass(frozen=True, slots=True)
class ModelKeeping:
    """What the fleet file says of it.

    `disk_bytes` is the size of a disk for models alone, in whole GiB; None for none. `storage` holds it; None for
    the one that holds the boot disks.
    """

    disk_bytes: int | None = None
    storage: StorageName | None = None


@dataclass(frozen=True, slots=True)
class ModelDisk:
    """What a VM has in the place of the model disk; not `is_ours` where somebody else put a disk there."""

    storage: StorageName
    size_bytes: int
    is_ours: bool
