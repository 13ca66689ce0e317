"""Small words that several checks share."""

from __future__ import annotations

from provisioner.domain.quantities import GIB, MIB, TIB, size_text


def about(size_bytes: int) -> str:
    """Write a size that was measured: ``117.3 GiB``; one that is round as people write it: ``48GiB``."""
    if size_bytes % GIB == 0:
        return size_text(size_bytes) if size_bytes else "0"
    for unit, factor in (("TiB", TIB), ("GiB", GIB)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes // MIB} MiB"
