"""The package as a stranger installs it: a wheel in a fresh environment, away from any checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.lab.support import NODE, Site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, as `python -m build` leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel where nothing else of ours is; its dependencies are borrowed from this environment."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # Behind our own folder on the path: the editable install over there must not win.
    (packages / "borrowed.pth").write_text(borrowed + "\n")
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *arguments], cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_wheel_carries_playbooks_and_templates(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("playbooks/deploy-llama-cpp.yml", "playbooks/ansible.cfg", "cloud-init/user-data.yml.j2"):
        assert f"provisioner/shipped/{name}" in names
    assert "provisioner/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_it_finds_its_own_files_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import provisioner.adapters.files.shipped as s; print(s.__file__, s.shipped_folder('playbooks'))"
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    module, folder = done.stdout.split()
    assert not module.startswith(str(ROOT))
    assert folder.startswith(str(Path(module).parents[2]))


def test_up_works_from_the_wheel(installed: Path, tmp_path: Path, site: Site) -> None:
    environment = {name: site.environment[name] for name in ("PROVISIONER_FLEET", "PROVISIONER_STATE")}
    done = run(installed, tmp_path, "-m", "provisioner", "up", NODE, **environment)
    assert done.returncode == 0, done.stderr
    assert "serves tiny.gguf" in done.stdout
    assert run(installed, tmp_path, "-m", "provisioner", "status", **environment).returncode == 0


def test_ansible_finds_the_shipped_playbook_and_callback(installed: Path, tmp_path: Path) -> None:
    code = (
        "from provisioner.adapters.ansible.playbook_runner import _ansible\n"
        "from pathlib import Path\n"
        "folder = Path('.').resolve()\n"
        "(folder / 'inventory.yml').write_text('all: {hosts: {}}')\n"
        "(folder / 'variables.yml').write_text('{}')\n"
        "run, code, words = _ansible(folder, 'deploy-llama-cpp', print)\n"
        "print(code, words)\n"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.stdout.startswith("0 "), done.stdout + done.stderr
    assert "ERROR" not in done.stdout


def test_without_the_lab_extra_the_lab_says_what_is_missing(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None; sys.argv = ['provisioner', 'lab']\n"
        "from provisioner.cli.app import main; main()"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 1
    assert "pip install 'provisioner[lab]'" in done.stderr
    assert "Traceback" not in done.stderr
