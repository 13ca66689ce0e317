"""The README's library example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lab.support import BLOCK, Site

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_library_example_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    site.fleet_file.write_text(site.fleet_file.read_text().replace("tiny.gguf", "gemma-2-2b-it.gguf"))
    (site.folder / "inventory").mkdir()
    (site.folder / "inventory" / "fleet.yml").write_text(site.fleet_file.read_text())
    monkeypatch.chdir(site.folder)
    monkeypatch.setenv("PROVISIONER_STATE", str(site.folder / "client"))
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "[ok] mapping_rtx3090" in printed
    assert "create: there is no VM 5001 yet" in printed
    assert f"http://127.{BLOCK}.1:8080/v1" in printed
    assert "llm-gpu-01: stay" in printed


def test_every_command_of_the_readme_exists() -> None:
    from provisioner.cli.app import root

    named = set(re.findall(r"`provisioner (\w+)", README.read_text()))
    assert named <= set(root.commands)
    assert set(root.commands) <= named
