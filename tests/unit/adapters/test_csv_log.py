"""Rows at the end of a file that an earlier run may have left."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.files.csv_log import CsvLog
from provisioner.errors import InputError


def test_a_new_file_gets_headings_and_an_old_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "gpu.csv"
    for number in range(2):
        with CsvLog(path, ("time", "node")) as log:
            log.write([(number, "a, b")])
    assert path.read_text() == 'time,node\n0,"a, b"\n1,"a, b"\n'


def test_rows_are_there_at_once(tmp_path: Path) -> None:
    with CsvLog(tmp_path / "gpu.csv", ("time",)) as log:
        log.write([(1,)])
        assert (tmp_path / "gpu.csv").read_text() == "time\n1\n"


def test_a_row_that_a_killed_run_left_half_written_stays_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gpu.csv"
    path.write_text("time,node\n1,llm-")
    with CsvLog(path, ("time", "node")) as log:
        log.write([(2, "b")])
    assert path.read_text() == "time,node\n1,llm-\n2,b\n"


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gpu.csv"
    path.write_text("my,own\n")
    with pytest.raises(InputError, match="it holds other columns"), CsvLog(path, ("time",)):
        pass
    assert path.read_text() == "my,own\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write rows"), CsvLog(tmp_path / "no" / "gpu.csv", ("time",)):
        pass
