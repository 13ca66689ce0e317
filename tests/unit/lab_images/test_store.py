"""Artifacts are whole or absent, whoever builds them and however it ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from provisioner.errors import NotReadyError
from provisioner.lab.images import store


def quiet(_line: str) -> None:
    pass


def test_the_key_follows_the_recipe_and_nothing_else() -> None:
    recipe = {"packages": ("a", "b"), "suite": "trixie"}
    assert store.recipe_key(recipe) == store.recipe_key({"suite": "trixie", "packages": ("a", "b")})
    assert store.recipe_key(recipe) != store.recipe_key(recipe | {"suite": "forky"})
    assert store.recipe_key(recipe) != store.recipe_key(recipe | {"packages": ("b", "a")})


def test_what_is_there_is_not_built_again(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("x")

    first = store.obtain(tmp_path, "thing", "k", build, quiet)
    assert store.obtain(tmp_path, "thing", "k", build, quiet) == first
    assert len(built) == 1
    assert (first / "file").read_text() == "x"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("broke")

    with pytest.raises(RuntimeError):
        store.obtain(tmp_path, "thing", "k", build, quiet)
    assert [path.name for path in tmp_path.iterdir()] == [".thing.lock"]


def test_what_a_killed_builder_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".building-thing-old-1234").mkdir()
    (tmp_path / ".building-thing-old-1234" / "half").write_text("x")
    store.obtain(tmp_path, "thing", "k", lambda _folder: None, quiet)
    assert not list(tmp_path.glob(".building-*"))


def test_two_builders_build_once(tmp_path: Path) -> None:
    built: list[str] = []

    def build(folder: Path) -> None:
        built.append(folder.name)
        time.sleep(0.3)
        (folder / "file").write_text("x")

    threads = [threading.Thread(target=store.obtain, args=(tmp_path, "thing", "k", build, quiet)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(built) == 1
    assert (tmp_path / "thing-k" / "file").exists()


def test_a_lock_that_never_opens_is_an_error_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    seen: list[str] = []

    def build_within(_folder: Path) -> None:
        with pytest.raises(NotReadyError) as caught:
            store.obtain(tmp_path, "thing", "other", lambda _folder: None, seen.append)
        assert ".thing.lock" in caught.value.subject

    store.obtain(tmp_path, "thing", "k", build_within, quiet)
    assert seen == ["waiting for another builder of thing"]


def test_the_cache_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.default_cache_dir() == tmp_path / "provisioner" / "lab"
