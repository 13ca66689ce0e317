"""The engine archive: its version, its bytes, its launcher. Building it needs a network and is tested with QEMU."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from provisioner.errors import OutsideError
from provisioner.lab.images import engine_archive, guest_image


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("llama.cpp (1:0.7.0+dfsg-2) unstable; urgency=medium", "0.7.0"),
        ("llama.cpp (8064-1) unstable; urgency=medium", "8064"),
        ("llama.cpp (0.9~rc1-1) unstable; urgency=medium", "0.9"),
    ],
)
def test_the_version_is_upstreams(line: str, version: str) -> None:
    assert engine_archive.upstream_version(line) == version


def test_a_changelog_without_version_is_an_error() -> None:
    with pytest.raises(OutsideError):
        engine_archive.upstream_version("nothing here")


def a_tree(folder: Path) -> Path:
    top = folder / "llama.cpp-1"
    (top / "lib").mkdir(parents=True)
    (top / "bin").mkdir()
    (top / "bin" / "run").write_text("#!/bin/sh\n")
    (top / "bin" / "run").chmod(0o775)
    (top / "lib" / "b.so").write_text("b")
    (top / "lib" / "a.so").write_text("a")
    return top


def test_the_same_content_packs_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar.gz", tmp_path / "2.tar.gz"
    engine_archive.pack(a_tree(tmp_path / "one"), first)
    other = a_tree(tmp_path / "two")
    (other / "bin" / "run").touch()
    engine_archive.pack(other, second)
    assert first.read_bytes() == second.read_bytes()


def test_the_archive_has_one_top_folder_and_belongs_to_nobody(tmp_path: Path) -> None:
    archive = tmp_path / "1.tar.gz"
    engine_archive.pack(a_tree(tmp_path / "one"), archive)
    with tarfile.open(archive) as tar:
        entries = {entry.name: entry for entry in tar}
    assert all(name.split("/")[0] == "llama.cpp-1" for name in entries)
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries.values()} == {(0, 0, 0)}
    assert entries["llama.cpp-1/bin/run"].mode == 0o755
    assert entries["llama.cpp-1/lib/a.so"].mode == 0o644


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """The launcher in a folder with a blank in its name, with a loader that only tells what it was given."""
    top = tmp_path / "a folder"
    (top / "lib").mkdir(parents=True)
    script = top / "llama-server"
    script.write_text(engine_archive._launcher())
    script.chmod(0o755)
    loader = top / "lib" / engine_archive.LOADER
    loader.write_text('#!/bin/sh\necho "$GGML_BACKEND_PATH"\nfor word in "$@"; do echo "$word"; done\n')
    loader.chmod(0o755)
    return script


def told(command: list[str], **more: object) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, **more)  # type: ignore[call-overload]
    return list(done.stdout.splitlines())


def real(path: str) -> Path:
    return Path(path).resolve()


def test_the_launcher_finds_its_own_libraries_from_anywhere(launcher: Path) -> None:
    top = launcher.parent
    backend, option, libraries, program, *rest = told([str(launcher), "--port", "1 2"], cwd="/")
    assert option == "--library-path"
    assert real(libraries) == top / "lib"
    assert real(program) == top / "libexec" / "llama-server"
    assert rest == ["--port", "1 2"]
    assert real(backend).name in {f"libggml-cpu-{build}.so" for build in engine_archive.CPU_BUILDS}


def test_the_launcher_works_through_a_link_and_by_its_bare_name(launcher: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked"
    link.symlink_to(launcher)
    lib = launcher.parent / "lib"
    assert real(told([str(link)])[2]) == lib
    assert (launcher.parent / told(["sh", "llama-server"], cwd=launcher.parent)[2]).resolve() == lib


def test_the_launcher_obeys_a_backend_set_from_outside(launcher: Path) -> None:
    assert told([str(launcher)], env={"GGML_BACKEND_PATH": "/x.so", "PATH": "/usr/bin:/bin"})[0] == "/x.so"


def test_manifests_that_are_none_are_passed_over(tmp_path: Path) -> None:
    for name, text in (
        ("guest-1", '{"qcow2": "disk.qcow2", "sha256": "aa", "kernel": "vmlinuz", "cmdline": "root=/dev/x"}'),
        ("guest-2", '{"archive": "x"}'),
        ("guest-3", "not json"),
        ("guest-4", "[]"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / guest_image.MANIFEST).write_text(text)
    (found,) = guest_image.manifests(tmp_path)
    assert found == guest_image.GuestImage(
        qcow2=tmp_path / "guest-1" / "disk.qcow2",
        sha256="aa",
        kernel=tmp_path / "guest-1" / "vmlinuz",
        cmdline="root=/dev/x",
    )
