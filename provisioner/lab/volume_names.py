"""How storages name what they hold: volume ids, and where the file lies."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provisioner.lab.refusals import bad_parameters, failed
from provisioner.lab.schema.formats import STORAGE_ID

FILE_TYPES = frozenset({"dir", "nfs", "cifs", "cephfs", "btrfs"})
SHARED_TYPES = frozenset({"nfs", "cifs", "cephfs", "rbd", "pbs", "iscsi", "esxi"})
FOLDERS = {
    "iso": "template/iso",
    "vztmpl": "template/cache",
    "import": "import",
    "snippets": "snippets",
    "backup": "dump",
    "images": "images",
}
"""Content type to folder, as on a storage of files."""

_SPLIT = re.compile(rf"({STORAGE_ID}):(.+)", re.ASCII)
_FILE_CONTENT = re.compile(r"(iso|vztmpl|import|snippets|backup)/([^/]+)")
_FILE_IMAGE = re.compile(
    r"(?:(\d+)/(base-[^/\s]+)/)?(\d+)/((?:vm|base)-[^/\s]+\.(raw|qcow2|vmdk|qcow|qed|cloop)|[^/\s]+\.(?:raw|qcow2|vmdk))"
)
_BLOCK_IMAGE = re.compile(r"(?:((?:base|basevol)-\d+-\S+)/)?((?:base|basevol|vm|subvol)-(\d+)-\S+)")
_ENDINGS = {
    "iso": re.compile(r".+\.(iso|img)", re.IGNORECASE),
    "vztmpl": re.compile(r".+\.tar\.(gz|xz|zst|bz2)"),
    "import": re.compile(r"[A-Za-z0-9\-.+=_]+\.(ova|ovf|qcow2|raw|vmdk)"),
    "snippets": re.compile(r".+"),
    "backup": re.compile(r".+"),
}


@dataclass(frozen=True, slots=True)
class VolumeName:
    """A volume id taken apart; `vmid` is the owner of an image, else None."""

    storage: str
    name: str
    content: str
    format: str
    vmid: int | None = None
    parent: str | None = None

    @property
    def file_name(self) -> str:
        """Return the last part of the name."""
        return self.name.rpartition("/")[2]


def split_volume_id(volid: str) -> tuple[str, str] | None:
    """Return storage and name, or None for paths, ``none`` and the like."""
    found = _SPLIT.fullmatch(volid)
    return (found[1], found[2]) if found else None


def parse_volume_name(storage: str, storage_type: str, name: str) -> VolumeName:
    """Take a volume name of a storage apart. Raises Refusal with the text of its type."""
    if storage_type in FILE_TYPES:
        return _file_volume(storage, name)
    found = _BLOCK_IMAGE.fullmatch(name)
    if found is None:
        kind = "zfs" if storage_type == "zfspool" else "lvm" if storage_type.startswith("lvm") else storage_type
        raise failed(f"unable to parse {kind} volume name '{name}'")
    return VolumeName(storage, name, "images", "raw", int(found[3]), found[1])


def _file_volume(storage: str, name: str) -> VolumeName:
    content = _FILE_CONTENT.fullmatch(name)
    if content is not None and _ENDINGS[content[1]].fullmatch(content[2]) is not None:
        return VolumeName(storage, name, content[1], content[2].rpartition(".")[2].lower())
    image = _FILE_IMAGE.fullmatch(name)
    if image is None:
        raise failed(f"unable to parse directory volume name '{name}'")
    return VolumeName(storage, name, "images", image[4].rpartition(".")[2], int(image[3]), image[2])


def checked_upload_name(content: str, name: str) -> str:
    """Return a file name made safe the way Proxmox does it. Raises Refusal for wrong endings."""
    base = re.sub(r"[^a-zA-Z0-9_.-]", "_", re.split(r"[/\\]", name.rstrip("\n"))[-1])
    if content == "import":
        if re.fullmatch(r".+\.(ova|qcow2|raw|vmdk)", base) is None:
            raise bad_parameters({"filename": "invalid filename or wrong extension"})
    elif _ENDINGS[content].fullmatch(base) is None:
        raise bad_parameters({"filename": "wrong file extension"})
    return base
