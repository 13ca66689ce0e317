"""The style sheet, the script and the icon, under names that change with them: a browser keeps them for ever."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent; `packed` is the same by gzip."""

    path: str
    media_type: str
    plain: bytes
    packed: bytes
    etag: str


class Assets:
    """What stands below ``/assets/``, in memory."""

    def __init__(self) -> None:
        self._by_name: dict[str, Asset] = {}
        for file in files("provisioner.page").joinpath("static").iterdir():
            stem, dot, kind = file.name.rpartition(".")
            if f".{kind}" not in _TYPES:
                continue
            plain = file.read_bytes()
            mark = hashlib.sha256(plain).hexdigest()[:12]
            path = f"/assets/{stem}-{mark}{dot}{kind}"
            packed = gzip.compress(plain, 9, mtime=0)
            self._by_name[file.name] = Asset(path, _TYPES[f".{kind}"], plain, packed, f'"{mark}"')
        self._by_path = {asset.path: asset for asset in self._by_name.values()}

    def path(self, name: str) -> str:
        """Return where a file stands now."""
        return self._by_name[name].path

    def at(self, path: str) -> Asset | None:
        """Return what stands at a path; None for nothing, or for what an older version had there."""
        return self._by_path.get(path)
