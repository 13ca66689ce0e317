"""Where a node keeps its models, and how much they may take. Pure values."""

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
    the one that holds the boot disks. `budget_bytes` is the most that models may take together; None for no bound.
    """

    disk_bytes: int | None = None
    storage: StorageName | None = None
    budget_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelDisk:
    """What a VM has in the place of the model disk; not `is_ours` where somebody else put a disk there."""

    storage: StorageName
    size_bytes: int
    is_ours: bool


class ModelStore(Enum):
    """In what form models lie on a node's disk; each is deleted from in its own way."""

    OLLAMA = "ollama"
    HUGGING_FACE = "huggingface"
    FILES = "models"


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """A model on a node's disk. `bytes` are those that would be free without it; `used_at` is in UNIX seconds."""

    store: ModelStore
    name: str
    bytes: int
    used_at: float
    is_in_use: bool = False


@dataclass(frozen=True, slots=True)
class ModelsSeen:
    """What a node's models take, all parts and remains of downloads with them, and what is free beside them."""

    models: tuple[StoredFiles, ...]
    used_bytes: int
    free_bytes: int
