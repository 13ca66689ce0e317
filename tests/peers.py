"""What others made, to hold us against.

The Ansible collection community.proxmox is a Proxmox client that nobody here wrote. It is published inside the large
package `ansible`, so that package's pinned wheel is fetched, the one collection is taken out of it, and nothing is
installed: ``python -m tests.peers`` does so into the virtual environment.

LiteLLM's proxy, a gateway that nobody here wrote, has a virtual environment of its own inside ours, because it wants
other versions of what we use too: ``python -m tests.peers litellm``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

PEERS = Path(sys.prefix) / "peers"
"""Where the collection lies, as Ansible's search path wants it."""

_COLLECTION = "ansible_collections/community/proxmox/"
_LOCK = Path(__file__).parent / "requirements" / "peers.lock"
_LITELLM_LOCK = _LOCK.with_name("litellm.lock")
_LITELLM = PEERS / "litellm"
_DOWNLOAD_SECONDS = 600


def fetch() -> None:
    """Fetch the pinned wheel and take the collection out of it."""
    with tempfile.TemporaryDirectory() as folder:
        # The wheel holds data for Ansible, whatever Python it names; so the newest serves every interpreter here.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--python-version", "3.12", "-r", str(_LOCK)]
        subprocess.run([*command, "--dest", folder], check=True, timeout=_DOWNLOAD_SECONDS)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(PEERS, [name for name in archive.namelist() if name.startswith(_COLLECTION)])


def install_litellm() -> None:
    """Install LiteLLM's proxy (three quarters of a gigabyte) where nothing of ours meets it."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(_LITELLM)], check=True, timeout=_DOWNLOAD_SECONDS)
    command = [str(_LITELLM / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--require-hashes", "-r", str(_LITELLM_LOCK)], check=True, timeout=_DOWNLOAD_SECONDS)


@cache
def litellm_program() -> Path | None:
    """Return the program of LiteLLM's proxy, or None."""
    program = _LITELLM / "bin" / "litellm"
    return program if program.exists() else None


@cache
def collection_version() -> str | None:
    """Return the version of community.proxmox at hand, or None."""
    manifest = PEERS / _COLLECTION / "MANIFEST.json"
    return str(json.loads(manifest.read_text())["collection_info"]["version"]) if manifest.exists() else None


def require_collection() -> None:
    """Skip the test where the collection is not at hand."""
    if collection_version() is None:
        pytest.skip("the Ansible collection community.proxmox is not at hand: make peers fetches it (50 MB)")


def ansible_environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which ansible-playbook finds the collection, and nothing of this machine's own setup."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    (folder / "ansible.cfg").touch()
    return {
        **kept,
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(PEERS),
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "false",
        **variables,
    }


def collection_login(folder: Path, host: str, port: int, secret: str, certificate: Path) -> dict[str, str]:
    """Return an environment in which the collection logs in to a lab as our token and verifies its certificate."""
    return ansible_environment(
        folder,
        PROXMOX_HOST=host,
        PROXMOX_PORT=str(port),
        PROXMOX_USER="provisioner@pve",
        PROXMOX_TOKEN_ID="fleet",
        PROXMOX_TOKEN_SECRET=secret,
        PROXMOX_CA_PATH=str(certificate),
    )


def ansible_playbook() -> str:
    """Return the path of ansible-playbook."""
    return str(Path(sys.executable).with_name("ansible-playbook"))


if __name__ == "__main__":
    if sys.argv[1:] == ["litellm"]:
        install_litellm()
        sys.exit()
    fetch()
    print(f"community.proxmox {collection_version()} in {PEERS}")
