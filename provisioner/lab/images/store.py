"""Keeps built artifacts in a cache folder, each under the hash of its recipe.

An artifact is a folder `<name>-<key>`, built in a hidden sibling and renamed into
place: it is whole or it is not there. A lock file per name keeps two builders
apart; the kernel drops the lock of a builder that died, and the next one clears
what the dead one left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import NotReadyError

Progress = Callable[[str], object]
"""Told one line about what is going on."""

LOCK_SECONDS = 1800
_LOOK_AGAIN_SECONDS = 0.5
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """A built file, its checksum, and the version of what is inside."""

    path: Path
    sha256: str
    version: str


def default_cache_dir() -> Path:
    """Return where artifacts are kept unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "provisioner" / "lab"


def recipe_key(recipe: object) -> str:
    """Return a short name for a recipe, given as plain values: the same recipe, the same name."""
    text = json.dumps(recipe, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def obtain(cache_dir: Path, name: str, key: str, build: Callable[[Path], None], tell: Progress) -> Path:
    """Return the folder of an artifact, building it with `build(folder)` where it is not there yet.

    Raises NotReadyError when another builder holds the lock for too long, and
    whatever `build` raises; a failed build leaves nothing behind.
    """
    final = cache_dir / f"{name}-{key}"
    if final.is_dir():
        return final
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir / f".{name}.lock", name, tell):
        if final.is_dir():
            return final
        for left_behind in cache_dir.glob(f".building-{name}-*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        work = cache_dir / f".building-{name}-{key}-{secrets.token_hex(4)}"
        work.mkdir()
        try:
            build(work)
            _flush(work)
            work.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


@contextmanager
def _locked(path: Path, name: str, tell: Progress) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    told = False
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NotReadyError(
                        f"cannot build {name}: another builder has held the lock for {LOCK_SECONDS} s",
                        subject=str(path),
                        next_step="look which process has that file open (`fuser -v`), end it, and try again",
                        retryable=True,
                    ) from None
                if not told:
                    tell(f"waiting for another builder of {name}")
                    told = True
                time.sleep(_LOOK_AGAIN_SECONDS)
        yield


def _flush(folder: Path) -> None:
    """Put the files on disk before the rename does, so that a power cut leaves no hollow artifact."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
