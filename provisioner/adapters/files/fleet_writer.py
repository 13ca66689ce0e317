"""Puts a fleet file of ours into place: only one that loads, whole or not at all, never over one that exists."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from provisioner.adapters.files.fleet_file import load_fleet
from provisioner.adapters.files.fleet_text import fleet_text
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.mode import EngineTraits
from provisioner.domain.names import EngineName
from provisioner.domain.proposal import FleetProposal
from provisioner.errors import InputError


class FleetFileWriter:
    """The port `FleetFiles` over this machine's disk. `engines` are those that a fleet file may use."""

    def __init__(self, engines: Mapping[EngineName, EngineTraits]) -> None:
        self._engines = engines

    def require_absent(self, path: Path) -> None:
        """Make sure that nothing would be written over."""
        if os.path.lexists(path):
            raise _exists(path)

    def text(self, proposal: FleetProposal) -> str:
        """Return a proposal as a fleet file with comments."""
        return fleet_text(proposal)

    def check(self, text: str, path: Path) -> FleetSpec:
        """Load a fleet file as if it lay at `path`."""
        with tempfile.TemporaryDirectory(prefix="provisioner-") as folder:
            draft = Path(folder) / path.name
            draft.write_text(text, encoding="utf-8")
            return load_fleet(draft, engines=self._engines)

    def write(self, text: str, path: Path) -> FleetSpec:
        """Put a fleet file into place."""
        self.require_absent(path)
        try:
            with _folders(path.parent), _draft_beside(path) as draft:
                draft.write_text(text, encoding="utf-8")
                # From where it will lie: relative paths in it count from its folder.
                load_fleet(draft, engines=self._engines)
                _place(draft, path)
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            raise InputError(
                f"cannot write the fleet file: {error.strerror or error}",
                subject=str(path),
                next_step="choose another place with --output FILE, or look with --dry-run",
            ) from error
        return load_fleet(path, engines=self._engines)


@contextlib.contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Make a folder and those around it; whatever ends the work early takes the new ones away again."""
    missing = []
    here = folder
    while not here.exists():
        missing.append(here)
        here = here.parent
    made: list[Path] = []
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            made.append(each)
        yield
    except BaseException:
        for each in reversed(made):
            with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
                each.rmdir()
        raise


@contextlib.contextmanager
def _draft_beside(path: Path) -> Iterator[Path]:
    """Yield a new file in the same folder, which is gone afterwards."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        # mkstemp lets nobody else read; a fleet file holds no secret and is for whoever the umask allows.
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _place(draft: Path, path: Path) -> None:
    """Give the draft its name in one step that fails if the name is taken. Raises FileExistsError."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links. A rename would write over a file made in this very moment.
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        draft.rename(path)


def _exists(path: Path) -> InputError:
    return InputError(
        "cannot write the fleet file: there is one already",
        subject=str(path),
        next_step="give --output another name, compare the two, and take over what is new",
    )
