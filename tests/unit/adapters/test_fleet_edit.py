"""One fact of a fleet file is changed, and not a sign more."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.files.fleet_edit import with_fact, write_fact
from provisioner.errors import InputError

PLACE = ("hypervisors", "pve1", "gpus", "rtx3090", "survives_stop")
FLOW = """\
# Ünser fleet
hypervisors:
  pve1:            # in the cellar
    gpus:
      rtx3090: {mapping: rtx3090, vram: 24GiB}  # the loud one
      other: {mapping: b, survives_stop: false}
"""
BLOCK = """\
hypervisors:
  pve1:
    gpus:
      rtx3090:
        mapping: rtx3090   # by hand
        vram: 24GiB
nodes: {}
"""


def test_a_table_on_one_line_gets_the_key_at_its_end() -> None:
    changed = with_fact(FLOW, PLACE, "true")
    assert "rtx3090: {mapping: rtx3090, vram: 24GiB, survives_stop: true}  # the loud one\n" in changed
    assert changed.replace(", survives_stop: true", "") == FLOW


def test_a_table_over_several_lines_gets_a_line() -> None:
    changed = with_fact(BLOCK, PLACE, "false")
    assert changed.replace("        survives_stop: false\n", "") == BLOCK


def test_a_value_that_is_there_is_replaced() -> None:
    place = ("hypervisors", "pve1", "gpus", "other", "survives_stop")
    assert with_fact(FLOW, place, "true") == FLOW.replace("survives_stop: false", "survives_stop: true")
    assert with_fact(FLOW, place, "false") == FLOW


@pytest.mark.parametrize(
    "table", ["{}", "{mapping: a,}", "{ mapping: a }", "{\n        mapping: a,\n        vram: 1GiB\n      }"]
)
def test_tables_of_all_shapes(table: str) -> None:
    text = f"hypervisors: {{pve1: {{gpus: {{rtx3090: {table} }}}}}}\n"
    assert "survives_stop: true" in with_fact(text, PLACE, "true")


def test_a_table_that_is_used_twice_is_left_to_its_author() -> None:
    text = "a: &card {mapping: x}\nhypervisors: {pve1: {gpus: {rtx3090: *card}}}\n"
    with pytest.raises(ValueError, match="more than this would change"):
        with_fact(text, PLACE, "true")


def test_a_place_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="it has no pve1"):
        with_fact("hypervisors: {}\n", PLACE, "true")


def test_the_file_keeps_its_mode_and_its_name(tmp_path: Path) -> None:
    real = tmp_path / "real.yml"
    real.write_text(FLOW)
    real.chmod(0o640)
    link = tmp_path / "fleet.yml"
    link.symlink_to(real)
    write_fact(link, PLACE, "true")
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "survives_stop: true" in real.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.yml", "real.yml"]


def test_what_cannot_be_written_is_said_with_the_line_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write into the fleet file") as caught:
        write_fact(tmp_path / "none.yml", PLACE, "true")
    assert caught.value.next_step == "write it yourself: hypervisors.pve1.gpus.rtx3090.survives_stop: true"
