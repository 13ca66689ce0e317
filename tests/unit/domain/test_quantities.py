"""Sizes and times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.quantities import GIB, MIB, duration_text, parse_duration, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size"), [("48GiB", 48 * GIB), ("512MiB", 512 * MIB), ("1.5GiB", 1536 * MIB), ("2 TiB", 2048 * GIB)]
)
def test_sizes_are_read_in_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["48", "48GB", "48G", "GiB", "-1GiB", "0GiB", "1e3MiB", "", "48GiBs", "٤GiB GiB"])
def test_a_size_in_any_other_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="48GiB"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("2h", 7200), ("1d", 86400), ("1.5h", 5400)])
def test_times_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["90", "20min", "h", "", "-5m", "5M"])
def test_a_time_in_any_other_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="20m"):
        parse_duration(text)


# 8 PiB is beyond anything that a disk holds, and where floating point is no longer exact.
@given(st.integers(1, (1 << 33) - 1))
def test_what_is_written_is_read_back(mebibytes: int) -> None:
    assert parse_size(size_text(mebibytes * MIB)) == mebibytes * MIB


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.051, "51 ms"), (14.23, "14.2 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3600, "1 h")],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
