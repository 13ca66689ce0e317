"""Dashboards for Grafana, built with its own library from the panels beside this file.

They name no data source of their own: whoever imports one chooses it at the top of the board. The layout is that of
schema 41, which Grafana 11.6 and later read.
"""

from __future__ import annotations

import json
from typing import Any

from provisioner.errors import InputError
from provisioner.exports.grafana.panels import BOARDS, Board, Panel

_SOURCE = "datasource"
# Of Grafana's 24 columns: the whole width, three panels beside each other, six figures beside each other. The library
# puts each beside the last until a line is full, so widths in a row must add up.
_WHOLE, _WIDE, _HIGH, _SMALL, _LOW = 24, 8, 8, 4, 4


def dashboards() -> dict[str, str]:
    """Return every dashboard as JSON, by the name of its file. Raises InputError where the library is missing."""
    try:
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
    except ImportError as error:
        raise InputError(
            "cannot build dashboards: Grafana's library is not installed",
            subject="provisioner export grafana",
            next_step="pip install 'provisioner[grafana]'",
        ) from error
    return {
        f"{board.uid}.json": json.dumps(_built(board), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for board in BOARDS
    }


def _built(board: Board) -> Any:
    from grafana_foundation_sdk.builders import dashboard as made

    found = (
        made.Dashboard(board.title)
        .uid(board.uid)
        .tags(["provisioner", "gpu"])
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(made.DatasourceVariable(_SOURCE).label("Data source").type("prometheus"))
    )
    if any("$node" in query.expression for row in board.rows for panel in row.panels for query in panel.queries):
        nodes = (
            made.QueryVariable("node")
            .label("Node")
            .datasource(_source())
            .query("label_values(provisioner_node_info, node)")
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
        found = found.with_variable(nodes)
    for row in board.rows:
        found = found.with_row(made.Row(row.title))
        for panel in row.panels:
            found = found.with_panel(_panel(panel))
    return found.build()


def _panel(panel: Panel) -> Any:
    from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, timeseries
    from grafana_foundation_sdk.models.common import StackingMode

    made: Any
    match panel.kind:
        case "stat":
            made = stat.Panel().span(_SMALL).height(_LOW)
        case "state-timeline":
            made = statetimeline.Panel().span(_WHOLE).height(_HIGH)
        case _:
            made = timeseries.Panel().span(_WIDE).height(_HIGH).fill_opacity(10)
            if panel.stacked:
                made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    made = made.title(panel.title).description(panel.description).unit(panel.unit).datasource(_source())
    if panel.kind == "timeseries":
        made = made.min(0)
    if panel.most is not None:
        made = made.max(panel.most)
    for place, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + place))
        made = made.with_target(target.datasource(_source()))
    return made


def _source() -> Any:
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    return DataSourceRef(type_val="prometheus", uid=f"${{{_SOURCE}}}")
