"""An n8n in memory, behind the port `Web`: what its public API takes, refuses and does late, as version 2.41.1 does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from provisioner.ports.web import NO_HEADERS, Answer, Headers, NoAnswer
from tests.fakes.clock import FakeClock

URL = "http://127.0.0.1:5678"
KEY = "n8n-api-key-of-the-tests"
_READ_ONLY = ("active", "id", "tags", "meta", "versionId", "createdAt", "isArchived")
_TAKEN = ("name", "nodes", "connections", "settings", "staticData", "pinData", "nodeGroups", "shared", "projectId")
_PUBLISHED_AFTER = 0.2


class FakeN8n:
    """Workflows, tags and credentials; everything in it is there to be looked at and broken."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._ids = itertools.count(1)
        self.workflows: dict[str, dict[str, Any]] = {}
        self.credentials: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, str] = {}
        self.calls: list[str] = []
        self.writes = 0
        self.page = 250
        self.is_down = False
        self.missing_scopes: set[str] = set()
        self.refused_setting = ""
        self._live_at: dict[str, float] = {}

    def named(self, name: str) -> dict[str, Any]:
        """Return the one workflow of a name."""
        (found,) = [each for each in self.workflows.values() if each["name"] == name]
        return found

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        if self.is_down or not url.startswith(URL):
            raise NoAnswer("connection refused")
        place = urlsplit(url)
        self.calls.append(f"{method} {place.path}")
        if place.path.startswith("/webhook/"):
            return self._webhook(method, place.path.removeprefix("/webhook/"))
        if headers.get("X-N8N-API-KEY") != KEY:
            return _answer(401, {"message": "Unauthorized"})
        parts = place.path.removeprefix("/api/v1/").split("/")
        if parts[0] in self.missing_scopes:
            return _answer(403, {"message": "Forbidden"})
        self.writes += method != "GET"
        query = {key: values[0] for key, values in parse_qs(place.query).items()}
        sent = json.loads(json.dumps(body))
        handler = {"workflows": self._workflows, "credentials": self._credentials, "tags": self._tags}[parts[0]]
        status, value = handler(method, parts[1:], query, sent)
        return _answer(status, value)

    def _webhook(self, method: str, path: str) -> Answer:
        for each in self.workflows.values():
            live = each["active"] and self._clock.monotonic() >= self._live_at.get(each["id"], 0.0)
            if live and (method, path) in _hooks(each):
                return _answer(403, {"message": "Authorization data is wrong!"})
        return _answer(404, {"message": f"The requested webhook {path} is not registered."})

    def _paged(self, found: list[dict[str, Any]], query: Mapping[str, str]) -> tuple[int, object]:
        first = int(query.get("cursor", "0"))
        last = first + min(self.page, int(query.get("limit", "100")))
        return 200, {"data": found[first:last], "nextCursor": str(last) if last < len(found) else None}

    def _tags(self, method: str, parts: list[str], query: Mapping[str, str], sent: Any) -> tuple[int, object]:
        if method == "GET":
            return self._paged([{"id": key, "name": name} for key, name in self.tags.items()], query)
        if method == "DELETE":
            del self.tags[parts[0]]
            for each in self.workflows.values():
                each["tags"] = [tag for tag in each["tags"] if tag["id"] != parts[0]]
            return 200, {}
        if sent["name"] in self.tags.values():
            return 409, {"message": "Tag already exists"}
        key = f"tag{next(self._ids)}"
        self.tags[key] = sent["name"]
        return 201, {"id": key, "name": sent["name"]}

    def _credentials(self, method: str, parts: list[str], query: Mapping[str, str], sent: Any) -> tuple[int, object]:
        if method == "GET":
            shown = [{k: v for k, v in each.items() if k != "data"} for each in self.credentials.values()]
            return self._paged(shown, query)
        if method == "POST":
            taken = {"httpHeaderAuth": {"name", "value"}, "openAiApi": {"apiKey", "organizationId", "url"}}
            if set(sent["data"]) - taken[sent["type"]]:
                return 400, {"message": "request.body.data is not allowed"}
            key = f"cred{next(self._ids)}"
            self.credentials[key] = {"id": key, **sent}
            return 200, {"id": key, "name": sent["name"]}
        if parts[0] not in self.credentials:
            return 404, {"message": "Not Found"}
        if method == "PATCH":
            self.credentials[parts[0]]["data"] = sent["data"]
            return 200, {}
        if method == "DELETE":
            del self.credentials[parts[0]]
            return 200, {}
        return 405, {"message": "PUT method not allowed"}

    def _workflows(self, method: str, parts: list[str], query: Mapping[str, str], sent: Any) -> tuple[int, object]:
        if not parts:
            return self._list(query) if method == "GET" else self._write(None, sent)
        there = self.workflows.get(parts[0])
        if there is None:
            return 404, {"message": "Not Found"}
        match method, parts[1:]:
            case "PUT", []:
                return self._write(there, sent)
            case "PUT", ["tags"]:
                there["tags"] = [{"id": each["id"], "name": self.tags[each["id"]]} for each in sent]
                return 200, there["tags"]
            case "POST", ["activate"]:
                return self._activate(there)
            case "POST", ["deactivate"]:
                there["active"] = False
                self._live_at[there["id"]] = self._clock.monotonic() + _PUBLISHED_AFTER
                return 200, there
            case "DELETE", []:
                if there["active"]:
                    return 409, {"message": "Cannot delete a published workflow. Unpublish it before deleting."}
                if self._clock.monotonic() < self._live_at.get(there["id"], 0.0):
                    return 409, {"message": "Workflow is still being unpublished. Please try again in a few moments."}
                return 200, self.workflows.pop(parts[0])
            case _:
                return 405, {"message": "method not allowed"}

    def _list(self, query: Mapping[str, str]) -> tuple[int, object]:
        found = [
            each
            for each in self.workflows.values()
            if query.get("name", "") in each["name"]
            and ("tags" not in query or query["tags"] in [tag["name"] for tag in each["tags"]])
        ]
        return self._paged(json.loads(json.dumps(found)), query)

    def _write(self, there: dict[str, Any] | None, sent: Any) -> tuple[int, object]:
        for key in sent:
            if key in _READ_ONLY:
                return 400, {"message": f"request/body/{key} is read-only"}
            if key not in _TAKEN:
                return 400, {"message": f"Unrecognized key(s) in object: '{key}'"}
        if set(sent) < {"name", "nodes", "connections", "settings"}:
            return 400, {"message": "request/body must have required property"}
        if self.refused_setting in sent["settings"]:
            return 400, {
                "message": f"request/body/settings must NOT have additional properties: {self.refused_setting}"
            }
        if there is None:
            key = f"flow{next(self._ids)}"
            there = self.workflows[key] = {"id": key, "active": False, "tags": [], "isArchived": False}
            there |= sent
        else:
            # Those that are left out stay.
            there |= sent | {"settings": there["settings"] | sent["settings"]}
        return 200, there

    def _activate(self, there: dict[str, Any]) -> tuple[int, object]:
        taken = {
            hook for each in self.workflows.values() if each["active"] and each is not there for hook in _hooks(each)
        }
        if taken & set(_hooks(there)):
            return 409, {"message": "There is a conflict with one of the webhooks."}
        if not there["active"]:
            self._live_at[there["id"]] = self._clock.monotonic() + _PUBLISHED_AFTER
        there["active"] = True
        return 200, there


def _hooks(workflow: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (node["parameters"]["httpMethod"], node["parameters"]["path"])
        for node in workflow["nodes"]
        if node["type"] == "n8n-nodes-base.webhook"
    ]


def _answer(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value))
