"""Builds an archive of llama.cpp's server that runs from any folder of any x86-64 Linux.

The binaries are Debian's, from a newer suite than the guest's, so they come with
their own C library and the loader that belongs to it. The archive has one top
folder with `llama-server` inside, as an upstream release would after
unpacking, and depends on the package versions only: no times, no user names.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tarfile
from importlib import resources
from pathlib import Path

from provisioner.errors import OutsideError
from provisioner.lab.images import store, tools
from provisioner.lab.images.store import Artifact, Progress

SUITE = "forky"
"""The first Debian suite with llama.cpp; the guest's own has none."""

PACKAGE = "llama.cpp-tools"

CPU_BUILDS = ("haswell", "x64")
"""Of Debian's fifteen builds for kinds of processors: one for any of the last decade, one for all others."""

LOADER = "ld-linux-x86-64.so.2"
MANIFEST = "manifest.json"

_LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
_PROBE_SECONDS = 60


def ensure_engine_archive(cache_dir: Path | None = None, on_progress: Progress = lambda _line: None) -> Artifact:
    """Return the archive `llama.cpp-<version>-linux-x64.tar.gz`, building it when the cache has none."""
    cache = cache_dir or store.default_cache_dir()
    launcher = _launcher()
    # The number stands for the code below; raise it when the layout changes.
    key = store.recipe_key(
        {"suite": SUITE, "package": PACKAGE, "builds": CPU_BUILDS, "launcher": launcher, "layout": 2}
    )
    folder = store.obtain(cache, "llama.cpp", key, lambda work: _build(work, launcher, key, on_progress), on_progress)
    told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return Artifact(path=folder / told["archive"], sha256=told["sha256"], version=told["version"])


def upstream_version(changelog: str) -> str:
    """Return upstream's version from the first line of a Debian changelog."""
    found = re.match(r"\S+ \((?:\d+:)?([^-+~)]+)", changelog)
    if found is None:
        raise OutsideError(
            "cannot tell the version of llama.cpp: its changelog does not begin with one",
            subject=f"Debian package {PACKAGE}",
            next_step="look whether Debian changed the package and adapt the engine archive builder",
        )
    return found.group(1)


def pack(folder: Path, archive: Path) -> None:
    """Write a folder as tar.gz, the same bytes for the same content."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            entry = tar.gettarinfo(str(path), arcname=str(path.relative_to(folder.parent)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = 0
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            if entry.isreg():
                with path.open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)


def _build(work: Path, launcher: str, key: str, tell: Progress) -> None:
    tell(f"building the llama.cpp archive from Debian {SUITE} packages")
    with tools.tree_folder(work) as room:
        tree = room / "tree"
        tools.bootstrap(tree, suite=SUITE, options=["--variant=extract", f"--include={PACKAGE}"], tell=tell)
        with gzip.open(tree / "usr/share/doc" / PACKAGE / "changelog.Debian.gz", "rt", encoding="utf-8") as file:
            version = upstream_version(file.readline())
        top = work / f"llama.cpp-{version}"
        _lay_out(tree, top, launcher)
    _prove(top)
    archive = work / f"{top.name}-linux-x64.tar.gz"
    tell("packing the archive")
    pack(top, archive)
    shutil.rmtree(top)
    manifest = {"archive": archive.name, "sha256": store.sha256_of(archive), "version": version, "recipe": key}
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _lay_out(tree: Path, top: Path, launcher: str) -> None:
    """Copy what the server loads, and nothing else, into the archive's folder."""
    for name in ("lib", "libexec", "share/doc"):
        (top / name).mkdir(parents=True)
    server = tree / "usr/bin/llama-server"
    builds = [tree / _LIBRARIES / "ggml/backends0" / f"libggml-cpu-{build}.so" for build in CPU_BUILDS]
    shutil.copy(server, top / "libexec/llama-server")
    for library in {*_loaded_by(tree, [server, *builds]), *builds, tree / _LIBRARIES / LOADER}:
        # Under the name it is asked for by, whatever the file behind the link is called.
        shutil.copy(library, top / "lib" / library.name)
    (top / "lib" / LOADER).chmod(0o755)
    for licence in (tree / "usr/share/doc").glob("*/copyright"):
        shutil.copy(licence, top / "share/doc" / f"{licence.parent.name}.copyright")
    (top / "llama-server").write_text(launcher, encoding="utf-8")
    (top / "llama-server").chmod(0o755)


def _loaded_by(tree: Path, programs: list[Path]) -> set[Path]:
    """Ask the tree's own loader which libraries the programs load."""
    libraries = tree / _LIBRARIES
    found: set[Path] = set()
    for program in programs:
        told = _ask(
            [
                str(libraries / LOADER),
                "--inhibit-cache",
                "--library-path",
                f"{libraries}:{libraries / 'llama'}",
                "--list",
                str(program),
            ]
        )
        if "not found" in told:
            raise OutsideError(
                f"cannot gather the libraries of {program.name}: {' '.join(told.split())}",
                subject=f"Debian package {PACKAGE}",
                next_step="look whether Debian changed the package's dependencies",
            )
        found.update(Path(path) for path in re.findall(r"=> (/\S+)", told))
    strangers = [path for path in found if not path.is_relative_to(tree)]
    if strangers:
        raise OutsideError(
            f"cannot gather the libraries: {strangers[0]} would come from this machine, not from the package",
            subject=f"Debian package {PACKAGE}",
            next_step="look whether Debian changed the package's dependencies",
        )
    return found


def _prove(top: Path) -> None:
    """Start what is about to be packed once, through its launcher."""
    _ask([str(top / "llama-server"), "--version"])


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutsideError(
            f"cannot run {command[0]}: {error}", subject="the engine archive", next_step="look at it by hand"
        ) from error
    if done.returncode != 0:
        raise OutsideError(
            f"cannot build the engine archive: {command[-2]} {command[-1]} ended with {done.returncode}: "
            + " ".join((done.stderr or done.stdout).split()[-40:]),
            subject=f"Debian package {PACKAGE} of {SUITE}",
            next_step="run that program by hand to see what it lacks",
        )
    return done.stdout


def _launcher() -> str:
    return (resources.files(__package__ or "provisioner.lab.images") / "recipe" / "llama-server.sh").read_text("utf-8")
