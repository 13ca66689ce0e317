"""Reads what is known of a model from its files: a GGUF file, a ``config.json``, a folder of either."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from provisioner.domain.models.model import Subject
from provisioner.errors import InputError


def looks_like_path(name: str) -> bool:
    """Tell a path from a model's name; ``org/name`` is a name until such a folder stands here."""
    path = Path(name).expanduser()
    return path.exists() or name.startswith(("/", "./", "../", "~")) or name.endswith("config.json")


def read_model(name: str) -> Subject:
    """Read a model from a file or folder.

    Raises:
        InputError: there is nothing, or it is damaged or no model; says which and what to do.
    """
    from provisioner.adapters.files.models.gguf_model import read_gguf
    from provisioner.adapters.files.models.hugging_face import read_config

    path = Path(name).expanduser()
    try:
        if path.is_dir():
            if (path / "config.json").is_file():
                return read_config(path / "config.json", name)
            files = sorted(path.glob("*.gguf"))
            parts = [each for each in files if "-of-" in each.name]
            if files and (len(files) == 1 or len(parts) == len(files)):
                return read_gguf(files[0], name)
            raise _no_model(path, "several GGUF files" if files else "neither config.json nor a GGUF file")
        if not path.exists():
            raise InputError(
                "cannot find that model: there is no such file or folder",
                subject=str(path),
                next_step="give the folder of a model, its config.json, a GGUF file, or a name of the catalogue",
            )
        return read_config(path, name) if path.suffix == ".json" else read_gguf(path, name)
    except OSError as error:
        raise InputError(
            f"cannot read the model: {error.strerror or error}",
            subject=str(error.filename or path),
            next_step="check that the file is there and that you may read it",
        ) from error


def _no_model(path: Path, what: str) -> InputError:
    return InputError(
        f"cannot tell which model is meant: the folder has {what}",
        subject=str(path),
        next_step="name one GGUF file, or a folder with a config.json",
    )


class LocalModelFiles:
    """The port `ModelFiles`; a file is read anew only when it has changed."""

    def subject(self, path: Path) -> Subject | None:
        """Return what a file tells of its model."""
        try:
            found = path.stat()
        except OSError:
            return None
        return _read_once(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_once(path: Path, size: int, changed: int) -> Subject | None:
    try:
        return read_model(str(path))
    except InputError:
        # What is wrong with it, the checksum or the engine says.
        return None
