"""What `--help` lists on a terminal of the usual width."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from provisioner.cli.app import root

GROUPS: list[tuple[str, ...]] = [
    (),
    *((name,) for name, command in root.commands.items() if isinstance(command, click.Group)),
]


@pytest.mark.parametrize("words", GROUPS, ids=lambda words: " ".join(words) or "provisioner")
def test_no_command_is_described_by_half_a_sentence(words: tuple[str, ...]) -> None:
    said = CliRunner().invoke(root, [*words, "--help"], terminal_width=80)
    assert said.exit_code == 0
    assert [line for line in said.output.partition("Commands:")[2].splitlines() if line.endswith("...")] == []
