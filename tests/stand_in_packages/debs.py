"""Makes packages, and repositories with or without a signature."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SECONDS = 60
# Compressed too, or apt first asks in vain for each kind of compression that it knows.
_INDEX = "Packages.gz"


@dataclass(frozen=True)
class Deb:
    """One package.

    Args:
        name: of the package.
        version: of the package.
        depends: in dpkg's words.
        files: path without the leading slash, and what is in it.
        programs: the same, executable.
        links: path without the leading slash, and where it leads.
        after: shell commands that run when it is configured.
    """

    name: str
    version: str
    depends: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    after: str = ""

    def build(self, folder: Path) -> Path:
        """Write it into a folder."""
        path = folder / f"{self.name}_{self.version}_all.deb"
        with tempfile.TemporaryDirectory(dir=folder) as room:
            tree = Path(room)
            tree.chmod(0o755)
            for name, text in {**self.files, **self.programs}.items():
                file = tree / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                file.chmod(0o755 if name in self.programs else 0o644)
            for name, to in self.links.items():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).symlink_to(to)
            (tree / "DEBIAN").mkdir()
            needs = f"Depends: {', '.join(self.depends)}\n" if self.depends else ""
            (tree / "DEBIAN/control").write_text(
                f"Package: {self.name}\nVersion: {self.version}\nArchitecture: all\n"
                f"Maintainer: test <test@localhost>\n{needs}Description: stand-in\n"
            )
            if self.after:
                (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\nset -e\n{self.after}\n")
                (tree / "DEBIAN/postinst").chmod(0o755)
            _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path))
        return path


class Signer:
    """A key of its own that signs repositories."""

    def __init__(self) -> None:
        # Short, because its agent's socket lies in it.
        self._home = tempfile.mkdtemp(prefix="gpg-")
        self._gpg("--quick-generate-key", "stand-in <test@localhost>", "ed25519", "sign", "never")

    def __enter__(self) -> Signer:
        return self

    def __exit__(self, *_: object) -> None:
        _run("gpgconf", "--homedir", self._home, "--kill", "all")
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def public_key(self) -> str:
        """Its public key, armoured."""
        return self._gpg("--armor", "--export")

    def signed(self, text: str) -> str:
        """Return a text with a signature around it."""
        return self._gpg("--clear-sign", "--digest-algo", "SHA512", given=text)

    def _gpg(self, *words: str, given: str = "") -> str:
        return _run("gpg", "--homedir", self._home, "--batch", "--quiet", "--passphrase", "", *words, given=given)


def trusted_repository(folder: Path, debs: Iterable[Deb]) -> None:
    """Write a flat one without a signature: ``deb [trusted=yes] file:FOLDER ./``."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.deb"):
        old.unlink()
    (folder / "Packages").write_text(_index(folder, "./", [deb.build(folder) for deb in debs]))


def signed_repository(folder: Path, debs: Iterable[Deb], signer: Signer, *, origin: str, suite: str = "/") -> None:
    """Write one with a signature.

    Args:
        folder: its root.
        debs: what is in it.
        signer: who signs.
        origin: whom its Release file names.
        suite: the suite, whose one component is `main`; / for a flat repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flat = suite == "/"
    where = folder if flat else folder / "dists" / suite
    inside = _INDEX if flat else f"main/binary-amd64/{_INDEX}"
    index = _index(folder, "./" if flat else "", [deb.build(folder) for deb in debs]).encode()
    (where / inside).parent.mkdir(parents=True, exist_ok=True)
    (where / inside).write_bytes(packed := gzip.compress(index, mtime=0))
    plain = inside.removesuffix(".gz")
    release = (
        f"Origin: {origin}\nLabel: stand-in\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: amd64\n"
        + ("" if flat else f"Suite: {suite}\nCodename: {suite}\nComponents: main\n")
        + f"SHA256:\n {_sum(index)} {len(index)} {plain}\n {_sum(packed)} {len(packed)} {inside}\n"
    )
    (where / "InRelease").write_text(signer.signed(release))


def _index(folder: Path, prefix: str, paths: Iterable[Path]) -> str:
    entries = []
    for path in paths:
        fields, data = _run("dpkg-deb", "--field", str(path)), path.read_bytes()
        name = prefix + str(path.relative_to(folder))
        entries.append(f"{fields}Filename: {name}\nSize: {len(data)}\nSHA256: {_sum(data)}\n")
    return "\n".join(entries)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _run(*words: str, given: str = "") -> str:
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
