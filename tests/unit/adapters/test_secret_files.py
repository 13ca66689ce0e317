"""A token's secret: where it goes, and what is known of one that is there."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.adapters import secret_files
from provisioner.adapters.proxmox.token_secret import look_at_secret
from provisioner.adapters.secrets import SecretText
from provisioner.domain.access import AccessWanted, SecretState
from provisioner.domain.fleet import SecretReference, SecretSource
from provisioner.errors import InputError
from tests.fleets import fleet_from


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_place_is_made_empty_and_private_and_then_filled(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    secret_files.reserve(path)
    assert (path.read_text(), mode_of(path), mode_of(path.parent)) == ("", 0o600, 0o700)
    secret_files.reserve(path)  # what a killed run left behind will do
    secret_files.keep(path, SecretText("s3cret"))
    assert path.read_text() == "s3cret\n"
    with pytest.raises(InputError, match="never overwritten"):
        secret_files.reserve(path)
    with pytest.raises(InputError, match="never overwritten"):
        secret_files.keep(path, SecretText("other"))
    assert path.read_text() == "s3cret\n"
    secret_files.forget(path)
    secret_files.forget(path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda path: path.symlink_to("/dev/null"), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to(path.parent / "nowhere"), "Too many levels of symbolic links"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: (path.touch(), path.chmod(0o644)), "others may use it"),
        (lambda path: path.write_text("x"), "holds something already"),
    ],
)
def test_a_place_that_is_not_fit_for_a_secret(tmp_path: Path, prepare: Callable[[Path], object], problem: str) -> None:
    path = tmp_path / "secret"
    prepare(path)
    with pytest.raises(InputError, match=problem):
        secret_files.reserve(path)


def test_a_disk_that_cannot_be_written_is_one_of_our_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot keep the token's secret: File name too long"):
        secret_files.reserve(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="cannot keep the token's secret: No such file"):
        secret_files.keep(tmp_path / "never-reserved", SecretText("s3cret"))


def wanted(folder: Path, reference: str, secret_file: Path | None = None) -> AccessWanted:
    fleet = fleet_from(folder)
    source, _, name = reference.partition(":")
    cluster = replace(next(iter(fleet.clusters.values())), token_secret=SecretReference(SecretSource(source), name))
    return AccessWanted(fleet, cluster, secret_file)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.touch(mode)
    path.write_text(text)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("prepare", "accepts", "state"),
    [
        (lambda path: None, None, SecretState.ABSENT),
        (lambda path: write(path, ""), None, SecretState.EMPTY),
        (lambda path: write(path, "good\n"), None, SecretState.SAVED),
        (lambda path: write(path, "good\n"), "good", SecretState.ACCEPTED),
        (lambda path: write(path, "bad\n"), "good", SecretState.REFUSED),
        (lambda path: write(path, "good\n", 0o644), "good", SecretState.UNUSABLE),
        (lambda path: write(path, "two words\n"), "good", SecretState.UNUSABLE),
        (lambda path: path.mkdir(), "good", SecretState.UNUSABLE),
    ],
)
def test_what_is_known_of_a_secret_in_a_file(
    tmp_path: Path, prepare: Callable[[Path], object], accepts: str | None, state: SecretState
) -> None:
    path = tmp_path / "secret"
    prepare(path)
    tries = None if accepts is None else (lambda secret: secret.reveal() == accepts)
    seen = look_at_secret(wanted(tmp_path, f"file:{path}"), tries, {})
    assert (seen.state, seen.file) == (state, path)


def test_a_path_that_nobody_can_look_at_is_unusable(tmp_path: Path) -> None:
    seen = look_at_secret(wanted(tmp_path, f"file:{tmp_path / ('x' * 300)}"), None, {})
    assert (seen.state, seen.reason) == (SecretState.UNUSABLE, "File name too long")


@pytest.mark.parametrize(
    ("variable", "file", "accepts", "state", "place"),
    [
        (None, None, None, SecretState.NOWHERE, "env:X"),
        (None, "new", None, SecretState.ABSENT, "file:new"),
        ("good", None, "good", SecretState.ACCEPTED, "env:X"),
        ("good", "new", "good", SecretState.ACCEPTED, "env:X"),
        ("bad", None, "good", SecretState.REFUSED, "env:X"),
        # A variable left over from an old token does not stand in the way of a new one.
        ("bad", "new", "good", SecretState.ABSENT, "file:new"),
        ("old", "new", None, SecretState.ABSENT, "file:new"),
        ("old", None, None, SecretState.NOWHERE, "env:X"),
    ],
)
def test_what_is_known_of_a_secret_in_the_environment(
    tmp_path: Path, variable: str | None, file: str | None, accepts: str | None, state: SecretState, place: str
) -> None:
    tries = None if accepts is None else (lambda secret: secret.reveal() == accepts)
    path = tmp_path / file if file else None
    seen = look_at_secret(wanted(tmp_path, "env:X", path), tries, {"X": variable} if variable else {})
    assert seen.state is state
    assert seen.place == place.replace("file:", f"file:{tmp_path}/")
    assert seen.file == (path if place.startswith("file:") else None)


def test_two_places_for_one_secret_are_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot tell where the token's secret goes"):
        look_at_secret(wanted(tmp_path, "file:/srv/one", tmp_path / "other"), None, {})
