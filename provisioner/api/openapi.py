"""The OpenAPI document (3.1), made from the same table that the server is made from; and a page to read it on."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from provisioner.api import shapes
from provisioner.api.problems import MEDIA_TYPE
from provisioner.api.routes import ROUTES, Route

_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The node's name in the fleet file.",
    "schema": {"type": "string", "minLength": 1},
}
_AFTER = {
    "name": "after",
    "in": "query",
    "description": "Only what has a higher number; without it, or with 0, the newest.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1},
}
_EVENTS = {
    "get": {
        "operationId": "events",
        "summary": "What happens, as server-sent events; goes on after Last-Event-ID",
        "description": "Takes scope read. An event's id is its number in the journal; after=0 begins with the oldest.",
        "security": [{"token": []}],
        "parameters": [
            {"name": "after", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}},
            {"name": "node", "in": "query", "schema": {"type": "string", "minLength": 1}},
            {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"}},
        ],
        "responses": {
            "200": {"description": "A stream that ends with the service.", "content": {"text/event-stream": {}}}
        },
    }
}
_REFUSALS = {
    "401": "The token is missing or nobody's.",
    "403": "The token does not allow this.",
}
_ABOUT_NODES = {"404": "There is no such node, mode or model; the answer lists those there are."}
_ABOUT_BODIES = {
    "400": "The body is not JSON.",
    "413": "The body is too long.",
    "415": "The body's type is not application/json.",
    "422": "The body is not of the shape.",
}
_ABOUT_ACTS = {
    "409": "A rule says no, or another is at work on it; the answer says why.",
    "502": "Proxmox, the guest or the engine failed; the answer carries its words.",
    "504": "It did not happen in its time.",
    "507": "A storage is full.",
}


def document(version: str, routes: Iterable[Route] = ROUTES, *, needs_token: bool = True) -> dict[str, Any]:
    """Return the OpenAPI document of the API, for a service that needs tokens or one that does not."""
    routes = tuple(routes)
    bodies = [route.body for route in routes if route.body is not None]
    answers: list[type[BaseModel]] = [route.answer for route in routes]
    answers += [shapes.AcceptedAnswer, shapes.ProblemAnswer]
    taken: list[tuple[type[BaseModel], JsonSchemaMode]] = [(body, "validation") for body in bodies]
    given: list[tuple[type[BaseModel], JsonSchemaMode]] = [(answer, "serialization") for answer in answers]
    used = list(dict.fromkeys((*taken, *given)))
    _, definitions = models_json_schema(used, ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    paths["/api/events"] = _with_refusals(_EVENTS)
    if not needs_token:
        for path in paths.values():
            for operation in path.values():
                operation["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "provisioner",
            "version": version,
            "description": "Nodes that sleep until a request wakes them. Errors are problem documents (RFC 9457). "
            "OpenAI's and Ollama's own routes are below /v1 and /ollama, documented by their makers.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    statuses = dict(_REFUSALS)
    if route.is_about_a_node or route.body is shapes.RouteBody:
        statuses |= _ABOUT_NODES
    if route.ends_with_caller:
        statuses |= {"429": "As many wait for the node as may; Retry-After says when to ask again."}
    if route.is_numbered:
        statuses |= {"400": "The number to go on behind is none."}
    if route.method == "POST":
        statuses |= _ABOUT_BODIES | _ABOUT_ACTS
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"Takes scope {' or '.join(scope.value for scope in route.scopes)}.",
        "security": [{"token": []}],
        "parameters": [_NAME] * route.is_about_a_node + [_AFTER] * route.is_numbered,
        "responses": {"200": _answer("Done.", route.answer.__name__)},
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_is_optional,
            "content": {"application/json": {"schema": _reference(route.body.__name__)}},
        }
    if route.accepts:
        operation["responses"]["202"] = _answer("Begun; Location says where to look.", shapes.AcceptedAnswer.__name__)
    operation["responses"] |= {status: _problem(words) for status, words in statuses.items()}
    return operation


def _with_refusals(path: dict[str, Any]) -> dict[str, Any]:
    operation = path["get"]
    statuses = _REFUSALS | {"400": "The number to begin after is none.", "404": "There is no such node."}
    refusals = {status: _problem(words) for status, words in statuses.items()}
    return {"get": operation | {"responses": operation["responses"] | refusals}}


def _answer(words: str, name: str) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": _reference(name)}}}


def _problem(words: str) -> dict[str, Any]:
    return {"description": words, "content": {MEDIA_TYPE: {"schema": _reference(shapes.ProblemAnswer.__name__)}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
code, pre { font: 14px/1.4 ui-monospace, monospace } h2 { margin: 2rem 0 .3rem } table { border-collapse: collapse }
td { padding: .1rem .8rem .1rem 0; vertical-align: top } .verb { color: #0a5 } .dim { color: #667 }
@media (prefers-color-scheme: dark) {
  body { background: #14171a; color: #dde } .verb { color: #5d9 } .dim { color: #99a }
}
"""


def page(version: str) -> str:
    """Return a page that shows the API to a person; it needs nothing from elsewhere and runs no script."""
    whole = document(version)
    schemas = whole["components"]["schemas"]
    parts = []
    for path, operations in whole["paths"].items():
        for verb, operation in operations.items():
            parts.append(f'<h2><code><span class="verb">{verb.upper()}</span> {escape(path)}</code></h2>')
            parts.append(
                f'<p>{escape(operation["summary"])}. <span class="dim">{escape(operation["description"])}</span></p>'
            )
            body = operation.get("requestBody")
            if body is not None:
                schema = schemas[body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]]
                parts.append(_keys(schema))
            rows = "".join(
                f"<tr><td><code>{status}</code></td><td>{escape(answer['description'])}</td></tr>"
                for status, answer in sorted(operation["responses"].items())
            )
            parts.append(f"<table>{rows}</table>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>provisioner API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f'<h1>provisioner API <span class="dim">{escape(version)}</span></h1>'
        f'<p>{escape(whole["info"]["description"])} <a href="/api/openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}</body></html>"
    )


def _keys(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(key)}</code></td><td>{'required' if key in required else 'optional'}</td>"
        f"<td>{escape(each.get('description', ''))}</td></tr>"
        for key, each in schema.get("properties", {}).items()
    )
    return f"<p>Body:</p><table>{rows}</table>"
