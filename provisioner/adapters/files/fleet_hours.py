"""The fleet file's awake hours as a value, and what must stand beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from provisioner.adapters.files.fleet_schema import AwakeShape, FleetShape
from provisioner.domain.awake import AwakeHours, AwakePlan, parse_days, parse_time_of_day
from provisioner.domain.problems import Problem

_ZONE = "time_zone beside it or under defaults, such as Europe/Berlin: hours mean nothing without one"
_HOURS = 'awake beside it or under defaults, such as awake: [{days: Mon-Fri, from: "08:00", to: "18:00"}]'


def awake_plan(hours: Iterable[AwakeShape], zone: str | None, pre_wake: float | None) -> AwakePlan:
    """Return the hours as wanted."""
    return AwakePlan(tuple(map(_hours, hours)), zone or "UTC", pre_wake)


def hours_problems(shape: FleetShape) -> Iterator[Problem]:
    """Yield hours without a zone, and what has no effect without hours."""
    common = shape.defaults
    if common.awake and common.time_zone is None:
        yield Problem(("defaults", "awake"), "awake without time_zone", _ZONE)
    for name, node in shape.nodes.items():
        hours = common.awake if node.awake is None else node.awake
        if node.awake and node.time_zone is None and common.time_zone is None:
            yield Problem(("nodes", name, "awake"), "awake without time_zone", _ZONE)
        for key in ("pre_wake", "time_zone"):
            if key in node.model_fields_set and not hours:
                yield Problem(("nodes", name, key), f"{key} without awake", _HOURS)


def _hours(entry: AwakeShape) -> AwakeHours:
    text = f"{entry.days} {entry.begins}-{entry.ends}"
    return AwakeHours(parse_days(entry.days), parse_time_of_day(entry.begins), parse_time_of_day(entry.ends), text)
