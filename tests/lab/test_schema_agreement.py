"""Holds every declared endpoint against the schema that Proxmox publishes, field by field."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from provisioner.lab.schema import permissions as may
from provisioner.lab.schema.endpoints import Endpoint, endpoints
from provisioner.lab.schema.formats import checker_for
from provisioner.lab.schema.language import Param, for_major
from provisioner.lab.schema.property_strings import NAMED

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "pve"
FILES = {8: SHARED / "api-schema-8.4.2.json", 9: SHARED / "api-schema-9.1.3.json"}
CASES = [
    pytest.param(major, key, id=f"{major} {key[0]} {key[1]}") for major in FILES for key in sorted(endpoints(major))
]

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in FILES.values()), reason="the published API schemas are not next to the checkout"
)


@cache
def published(major: int) -> Any:
    return json.loads(FILES[major].read_text())


@cache
def declared(major: int) -> Any:
    return endpoints(major)


def official(major: int, key: tuple[str, str]) -> Any:
    method, path = key
    return published(major)[path][method]


@pytest.mark.parametrize(("major", "key"), CASES)
def test_parameters_are_those_of_the_published_schema(major: int, key: tuple[str, str]) -> None:
    ours = {name: facts(param, major) for name, param in declared(major)[key].params.by_name.items()}
    theirs = {
        name: official_facts(fields)
        for name, fields in official(major, key)["parameters"].get("properties", {}).items()
    }
    assert ours == theirs


@pytest.mark.parametrize(("major", "key"), CASES)
def test_rights_are_those_of_the_published_schema(major: int, key: tuple[str, str]) -> None:
    endpoint: Endpoint = declared(major)[key]
    assert rule_facts(endpoint.rule) == official_rule(official(major, key).get("permissions"))


@pytest.mark.parametrize("major", FILES)
def test_sub_keys_of_named_formats_are_those_of_the_printed_short_form(major: int) -> None:
    found = {}
    for path, methods in published(major).items():
        for method in methods.values():
            for fields in method["parameters"].get("properties", {}).values():
                name = fields.get("format")
                if "/qemu" in path and isinstance(name, str) and name in NAMED and name != "pve-qm-ide":
                    found[name] = printed_sub_keys(fields["typetext"])
    ours = {
        name: {part.name: part.optional for part in for_major(parts, major)}
        for name, parts in NAMED.items()
        if name != "pve-qm-ide" and for_major(parts, major) and name in found
    }
    assert set(NAMED) - set(found) - {"pve-qm-ide"} <= {"pve-qemu-tdx-fmt"}
    assert ours == found


def test_the_comparison_sees_a_wrong_bound() -> None:
    param = Param("cores", "integer", minimum=2, default=1)
    assert facts(param, 9) != official_facts(
        published(9)["/nodes/{node}/qemu"]["POST"]["parameters"]["properties"]["cores"]
    )


@pytest.mark.parametrize("major", FILES)
def test_every_named_format_has_rules_or_is_known_to_have_none(major: int) -> None:
    without = {"pve-task-status-type-list", "string-list", "storage-pair-list", "pve-dir-override-list"}
    used = {
        param.format
        for endpoint in endpoints(major).values()
        for param in endpoint.params.by_name.values()
        if param.format is not None
    }
    assert {name for name in used if checker_for(name, major) is None and name not in NAMED} <= without


def facts(param: Param, major: int) -> dict[str, object]:
    if param.alias:
        return {"alias": param.alias, "keyAlias": param.key_alias}
    found: dict[str, object] = {
        "type": param.type,
        "optional": param.optional,
        "enum": list(param.enum),
        "pattern": plain_pattern(param.pattern),
        "minimum": param.minimum,
        "maximum": param.maximum,
        "maxLength": param.max_length,
        "minLength": param.min_length,
        "default": as_text(param.default),
        "requires": param.requires,
        "default_key": param.default_key,
    }
    if param.parts:
        found["parts"] = {part.name: facts(part, major) for part in for_major(param.parts, major)}
    else:
        found["format"] = param.format
    if param.items is not None:
        items = facts(param.items, major)
        found["items"] = {key: items[key] for key in ("type", "parts", "format") if key in items}
    return found


def official_facts(fields: dict[str, Any]) -> dict[str, object]:
    if fields.get("alias"):
        return {"alias": fields["alias"], "keyAlias": fields.get("keyAlias")}
    found: dict[str, object] = {
        "type": fields.get("type", "string"),
        "optional": bool(fields.get("optional")),
        "enum": fields.get("enum") or [],
        "pattern": plain_pattern(fields.get("pattern")),
        "minimum": as_number(fields.get("minimum")),
        "maximum": as_number(fields.get("maximum")),
        "maxLength": fields.get("maxLength"),
        "minLength": fields.get("minLength"),
        "default": as_text(fields.get("default")),
        "requires": fields.get("requires"),
        "default_key": bool(fields.get("default_key")),
    }
    if isinstance(fields.get("format"), dict):
        found["parts"] = {name: official_facts(part) for name, part in fields["format"].items()}
    else:
        found["format"] = fields.get("format")
    if "items" in fields:
        items = official_facts(fields["items"])
        kept = {key: items[key] for key in ("type", "parts", "format") if key in items}
        found["items"] = {**kept, "type": fields["items"].get("type", "any")}
    return found


def plain_pattern(pattern: str | None) -> str | None:
    return pattern.replace("(?^:", "(?:") if pattern else None


def as_number(value: object) -> float | None:
    return None if value is None else float(str(value))


def as_text(value: object) -> str | None:
    return None if value is None else str(value)


def printed_sub_keys(short_form: str) -> dict[str, bool]:
    """Read ``[[host=]<..>] [,pcie=<1|0>] ,attestation=<..>`` as key to whether it may be left out."""
    found = {}
    for part in re.findall(r"\[\[[\w-]+=\][^\]]*\]?|\[,?[\w-]+=[^\]]*\]|,[\w-]+=|^\[[\w-]+=\]", short_form):
        name = re.search(r"([\w-]+)=", part)
        assert name is not None
        found[name[1]] = part.startswith("[[") or part.startswith("[,") or (part.startswith("[") and "=]" not in part)
    return found


def rule_facts(rule: may.Rule) -> object:
    match rule:
        case may.Everyone():
            return "all" if rule.logged_in else "world"
        case may.RootOnly():
            return None
        case may.Has():
            return ("perm", rule.path, list(rule.privileges), rule.any_of, rule.needs_param)
        case may.AllOf():
            return ("and", [rule_facts(inner) for inner in rule.rules])
        case may.OneOf():
            return ("or", [rule_facts(inner) for inner in rule.rules])
        case may.Oneself():
            return ("userid-param", "self")
        case may.MayAllocateUser():
            return ("userid-param", "Realm.AllocateUser")
        case may.OverUser():
            return ("userid-group", list(rule.privileges), rule.creating)
        case may.MayModifyAcl():
            return ("perm-modify", rule.path)


def official_rule(permissions: Any) -> object:
    if not permissions:
        return None
    return permissions["user"] if "user" in permissions else official_check(permissions["check"])


def official_check(check: list[Any]) -> object:
    kind, *rest = check
    if kind in ("and", "or"):
        return (kind, [official_check(inner) for inner in rest])
    if kind == "perm":
        options = dict(zip(rest[2::2], rest[3::2], strict=True))
        return (kind, rest[0], rest[1], bool(options.get("any")), options.get("require_param"))
    if kind == "userid-group":
        options = dict(zip(rest[1::2], rest[2::2], strict=True))
        return (kind, rest[0], options.get("groups_param") == "create")
    return (kind, rest[0])
