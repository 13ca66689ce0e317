"""What a fleet on a lab is made of: guest image, engine archive, tiny model, each with its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A qcow2 header: magic, version 3, no backing file, then the size at byte 24: 1 GiB.
_EMPTY_QCOW2 = (b"QFI\xfb" + (3).to_bytes(4, "big")).ljust(24, b"\0") + (1 << 30).to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class Piece:
    """One file with its SHA-256."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Material:
    """The files a fleet names."""

    image: Piece
    engine: Piece
    model: Piece


def real_material(
    cache: Path | None, say: Callable[[str], object], cloud_image: tuple[str, str] | None = None
) -> Material:
    """Build guest image, engine archive and tiny model, or find them in the cache.

    Args:
        cache: where they are kept.
        say: told what goes on.
        cloud_image: address and SHA-256 of a distribution's image to use instead of one built here.
    """
    from provisioner.lab.images.cloud import fetch_cloud_image
    from provisioner.lab.images.engine_archive import ensure_engine_archive
    from provisioner.lab.images.guest_image import ensure_guest_image
    from provisioner.lab.images.tiny_model import ensure_tiny_model

    if cloud_image is not None:
        fetched = fetch_cloud_image(*cloud_image, cache, say)
        image = Piece(fetched.path, fetched.sha256)
    else:
        built = ensure_guest_image(cache, say)
        image = Piece(built.qcow2, built.sha256)
    engine = ensure_engine_archive(cache, say)
    model = ensure_tiny_model(cache)
    return Material(image, Piece(engine.path, engine.sha256), Piece(model.path, model.sha256))


def pretended_material(folder: Path) -> Material:
    """Write stand-ins for simulated guests, which run no software."""
    folder.mkdir(parents=True, exist_ok=True)

    def piece(name: str, content: bytes) -> Piece:
        path = folder / name
        path.write_bytes(content)
        return Piece(path, hashlib.sha256(content).hexdigest())

    return Material(
        piece("image.qcow2", _EMPTY_QCOW2.ljust(512, b"\0")),
        piece("engine.tar.gz", b"engine"),
        piece("tiny.gguf", b"GGUF"),
    )
