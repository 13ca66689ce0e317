"""What a fleet file may say of when a node sleeps."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.files.fleet_schema import json_schema
from provisioner.domain.names import NodeName
from tests.fleets import FLEET, fleet_from

OWN = NodeName("llm-gpu-01")
OTHER = NodeName("llm-gpu-02")
HOURS = '[{days: Mon-Fri, from: "08:00", to: "18:00"}]'


def with_defaults(*lines: str) -> str:
    return FLEET.replace("  idle_after: 20m\n", "".join(f"  {line}\n" for line in ("idle_after: 20m", *lines)))


def with_node(*entries: str) -> str:
    return FLEET.replace("modes: [small], gateway", f"modes: [small], {', '.join(entries)}, gateway")


def test_by_default_nothing_but_a_request_keeps_a_node_awake(tmp_path: Path) -> None:
    node = fleet_from(tmp_path).nodes[OWN]
    assert (node.awake.hours, node.awake.pre_wake_seconds, node.rest_after_seconds) == ((), None, None)
    assert (node.min_uptime_seconds, node.may_cut_power, node.software.off_by_itself_seconds) == (None, False, None)


def test_hours_may_stand_under_defaults_and_a_node_may_have_its_own(tmp_path: Path) -> None:
    text = with_defaults(f"awake: {HOURS}", "time_zone: Europe/Berlin", "pre_wake: 5m").replace(
        "modes: [small], gateway", "modes: [small], awake: [], gateway"
    )
    fleet = fleet_from(tmp_path, text)
    plan = fleet.nodes[OTHER].awake
    assert [(each.begins, each.ends, each.text) for each in plan.hours] == [(480, 1080, "Mon-Fri 08:00-18:00")]
    assert (plan.zone, plan.pre_wake_seconds) == ("Europe/Berlin", 300.0)
    assert fleet.nodes[OWN].awake.hours == ()


def test_the_rest_is_read(tmp_path: Path) -> None:
    text = with_defaults("may_cut_power: true", "off_by_itself_after: 6h", "rest_after: 5m", "min_uptime: 10m")
    node = fleet_from(tmp_path, text).nodes[OWN]
    assert (node.min_uptime_seconds, node.may_cut_power, node.software.off_by_itself_seconds) == (600.0, True, 21600.0)
    assert node.rest_after_seconds == 300.0


@pytest.mark.parametrize(
    ("text", "line", "found", "allowed"),
    [
        (with_defaults(f"awake: {HOURS}"), 17, "awake without time_zone", "such as Europe/Berlin"),
        (with_node(f"awake: {HOURS}"), 24, "awake without time_zone", "such as Europe/Berlin"),
        (with_node("pre_wake: 5m"), 24, "pre_wake without awake", "awake beside it"),
        (with_node("rest_after: 20m"), 24, "rest_after of 20 min", "less than idle_after, which is 20 min"),
        (with_defaults("time_zone: Europe/Bonn"), 17, '"Europe/Bonn"', "a time zone that this machine knows"),
        (with_defaults("time_zone: ../../etc/passwd"), 17, "passwd", "a time zone that this machine knows"),
        (with_defaults(f"awake: {HOURS.replace('Mon-Fri', 'weekdays')}"), 17, '"weekdays"', "days such as Mon-Fri"),
        (with_defaults(f"awake: {HOURS.replace('08:00', '8')}"), 17, '"8"', 'a time of day in quotes, such as "08:00"'),
        (with_defaults(f"awake: {HOURS.replace('18:00', '08:00')}"), 17, "", "from and to that differ"),
        (with_defaults(f"awake: {HOURS.replace('to', 'until')}"), 17, 'unknown key "until"', "the keys days, from, to"),
        (with_defaults("off_by_itself_after: 1m"), 17, "'1m'", "10m or more"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_remedy(
    tmp_path: Path, text: str, line: int, found: str, allowed: str
) -> None:
    with pytest.raises(FleetFileError) as caught:
        fleet_from(tmp_path, text)
    told = [(at, problem.found, problem.allowed) for at, problem in caught.value.problems]
    assert any(at == line and found.strip("'") in what and allowed in may for at, what, may in told), told


def test_the_schema_knows_the_keys() -> None:
    text = with_defaults(
        f"awake: {HOURS}", "time_zone: Europe/Berlin", "pre_wake: 5m", "rest_after: 5m", "may_cut_power: true"
    )
    jsonschema.validate(yaml.safe_load(text), json_schema())
    for wrong in (HOURS.replace("08:00", "8:00"), HOURS.replace("from", "begins"), HOURS.replace("Mon-Fri", "mon")):
        document = yaml.safe_load(with_defaults(f"awake: {wrong}"))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, json_schema())
