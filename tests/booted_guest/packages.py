"""What of Debian the lab's image leaves out and an engine's playbook asks for, from the same archive as the image."""

from __future__ import annotations

import shutil
from pathlib import Path

from provisioner.lab.images import guest_image, store, tools

_PARTS = ("usr/lib/python3.13/ensurepip", "usr/share/python-wheels")


def lay_python_venv_into(tree: Path) -> None:
    """Put what python3-venv holds into a guest's tree: `python3 -m venv` then makes environments with pip."""
    key = store.recipe_key({"suite": guest_image.SUITE, "parts": _PARTS})
    kept = store.obtain(store.default_cache_dir(), "python-venv", key, _build, lambda _line: None)
    for part in _PARTS:
        shutil.copytree(kept / part, tree / part, symlinks=True, dirs_exist_ok=True)


def _build(work: Path) -> None:
    with tools.tree_folder(work) as room:
        options = ["--variant=extract", "--include=python3-venv"]
        tools.bootstrap(room / "tree", suite=guest_image.SUITE, options=options, tell=lambda _line: None)
        for part in _PARTS:
            shutil.copytree(room / "tree" / part, work / part, symlinks=True)
