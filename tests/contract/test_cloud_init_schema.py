"""What we render is judged by cloud-init itself: `cloud-init schema`, from Debian's package.

The package is unpacked, never installed: installed, it would configure this
machine at its next boot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.adapters.cloud_init.seeds import CloudInitSeeds, new_key_pair
from provisioner.domain.fleet import FleetSpec, NodeSpec

# cloud-init, and what of its own dependencies this project's environment does not have.
PACKAGES = (
    "cloud-init",
    "python3-configobj",
    "python3-json-pointer",
    "python3-jsonpatch",
    "python3-netifaces",
    "python3-oauthlib",
    "python3-serial",
    "python3-six",
)
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "provisioner" / "tests" / "cloud-init"


@pytest.fixture(scope="session")
def cloud_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with cloud-init's Python packages."""
    modules = CACHE / "usr/lib/python3/dist-packages"
    if not modules.is_dir():
        if shutil.which("apt-get") is None:
            pytest.skip("cloud-init's Debian package cannot be fetched: there is no apt-get")
        folder = tmp_path_factory.mktemp("packages")
        fetched = subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False, timeout=300
        )
        if fetched.returncode:
            pytest.skip(f"cloud-init's Debian package cannot be fetched: {fetched.stderr.strip()[-200:]}")
        draft = folder / "tree"
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, draft], check=True, timeout=60)
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        if not CACHE.exists():
            shutil.move(draft, CACHE)
    return modules


def verdict(modules: Path, document: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "user-data.yml").write_text(document)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "cloudinit.cmd.main", "schema", "--config-file", "user-data.yml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(modules)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("has_extra", [False, True], ids=["ours", "merged"])
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_cloud_init_accepts_what_a_guest_gets(
    cloud_init: Path, fleet: FleetSpec, node: NodeSpec, tmp_path: Path, sealed: bool, has_extra: bool
) -> None:
    if has_extra:
        path = tmp_path / "extra.yml"
        path.write_text("#cloud-config\npackages: [htop]\nwrite_files:\n  - {path: /etc/motd, content: hello}\n")
        node = replace(node, extra_user_data=path)
    key = new_key_pair()
    seeds = CloudInitSeeds(lambda: ("ssh-ed25519 AAAALogin",))
    document = seeds.documents(fleet, node, key.public, None if sealed else key)["user-data"]
    judged = verdict(cloud_init, document, tmp_path)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "Valid" in judged.stdout


def test_cloud_init_refuses_nonsense(cloud_init: Path, tmp_path: Path) -> None:
    judged = verdict(cloud_init, "#cloud-config\nusers: 3\n", tmp_path)
    assert judged.returncode != 0
    assert "users: 3 is not of type" in judged.stdout + judged.stderr
