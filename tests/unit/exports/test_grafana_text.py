"""Dashboards, as Grafana's own library reads them; a real Prometheus answers their queries in another test."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from provisioner.errors import InputError
from provisioner.exports.grafana import dashboards
from provisioner.exports.grafana.panels import BOARDS
from provisioner.fleet import Fleet
from provisioner.metrics.table import TABLE
from provisioner.settings import Settings
from tests.fleets import FLEET

FILES = dashboards()


@pytest.fixture(params=FILES)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILES[request.param])
    return found


def test_the_library_reads_back_all_that_it_wrote(board: dict[str, Any]) -> None:
    # It drops keys that it does not know without a word.
    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board


def test_no_panel_is_beyond_the_edge_or_over_another(board: dict[str, Any]) -> None:
    places = [each["gridPos"] for each in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, two in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        below = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert beside or below, (one, two)


def test_every_panel_has_a_name_of_its_own_and_queries_the_chosen_source(board: dict[str, Any]) -> None:
    panels = [each for each in board["panels"] if each["type"] != "row"]
    titles = [each["title"] for each in panels]
    assert len(set(titles)) == len(titles)
    sources = {json.dumps(target["datasource"], sort_keys=True) for each in panels for target in each["targets"]}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert board["schemaVersion"] <= 41


def test_queries_speak_only_of_metrics_that_there_are() -> None:
    known = {metric.name for metric in TABLE} | {f"{metric.name}_bucket" for metric in TABLE}
    text = " ".join(
        query.expression for board in BOARDS for row in board.rows for panel in row.panels for query in panel.queries
    )
    used = set(re.findall(r"\bprovisioner_\w+", text))
    assert len(used) > 20
    assert used <= known


def test_everything_that_is_asked_of_them_is_shown() -> None:
    titles = " ".join(panel.title for board in BOARDS for row in board.rows for panel in row.panels)
    for words in ("Latency per node", "Tokens per second", "Utilisation", "Power", "Queue depth", "Error rate",
                  "Wakes and sleeps", "Energy saved", "Money saved"):  # fmt: skip
        assert words in titles


def exported(folder: Path) -> tuple[Path, ...]:
    path = folder / "fleet.yml"
    path.write_text(FLEET)
    return Fleet.load(path, settings=Settings(path, folder / "state")).export_grafana(folder / "out")


def test_they_are_written_into_a_folder(tmp_path: Path) -> None:
    assert {path.name: path.read_text() for path in exported(tmp_path)} == FILES


def test_without_grafanas_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk.cog.encoder", None)
    with pytest.raises(InputError) as refused:
        exported(tmp_path)
    assert "provisioner[grafana]" in refused.value.next_step
