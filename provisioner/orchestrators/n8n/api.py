"""n8n's public API, as conversations: what is asked, and what the answers mean.

By the answers of n8n 2.41.1: creating says 200, names are not unique and looked for as parts, tags cannot be sent with
a workflow, an active workflow cannot be deleted, and lists come in pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from provisioner.errors import OrchestratorError
from provisioner.orchestrators.base import Call, Conversation, Pause, Reply

_Value = TypeVar("_Value")

API = "/api/v1"
_PAGE = 250
# A list that never ends is a mistake there.
_MOST_PAGES = 40

# Tenths of a second on a machine that is idle, several seconds on one that is not.
_PAUSES = (0.1, 0.2, 0.4, 0.8, *[1.0] * 12)

Refuse = Callable[[Call, Reply], OrchestratorError]
"""Makes an error of a refusal."""


class N8nApi:
    """Conversations about n8n's things; every one raises what `refuse` makes of a refusal."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse

    def ask(self, call: Call, *fine: int) -> Conversation[Reply]:
        """Make a call that must succeed, or end in one of some other ways."""
        reply = yield call
        if reply.status >= 400 and reply.status not in fine:
            raise self._refuse(call, reply)
        return reply

    def listed(self, path: str, **query: str) -> Conversation[list[dict[str, Any]]]:
        """Return all entries of a list, page by page."""
        found: list[dict[str, Any]] = []
        cursor = ""
        for _ in range(_MOST_PAGES):
            more = {"cursor": cursor} if cursor else {}
            call = Call("GET", f"{API}{path}?{urlencode({'limit': _PAGE, **query, **more})}")
            reply = yield from self.ask(call)
            page = reply.value
            if not isinstance(page, dict) or not isinstance(page.get("data"), list):
                raise self._refuse(call, reply)
            found += page["data"]
            cursor = page.get("nextCursor") or ""
            if not cursor:
                break
        return found

    def tag(self, name: str, *, make: bool) -> Conversation[str]:
        """Return a tag's id, made if need be; empty where there is none."""
        found = yield from self._tag(name)
        if found or not make:
            return found
        yield from self.ask(Call("POST", f"{API}/tags", {"name": name}), 409)
        # At 409 somebody was quicker.
        return (yield from self._tag(name))

    def _tag(self, name: str) -> Conversation[str]:
        tags = yield from self.listed("/tags")
        return next((str(tag["id"]) for tag in tags if tag.get("name") == name), "")

    def credentials(self) -> Conversation[list[dict[str, Any]]]:
        """Return all credentials: id, name and type; nobody is told what is in them."""
        return (yield from self.listed("/credentials"))

    def put_credential(self, identity: str, name: str, kind: str, data: Mapping[str, object]) -> Conversation[str]:
        """Write a credential; return its id. Empty `identity` makes a new one."""
        if identity:
            yield from self.ask(Call("PATCH", f"{API}/credentials/{quote(identity)}", {"data": data}))
            return identity
        body = {"name": name, "type": kind, "data": data}
        made = yield from self._made(Call("POST", f"{API}/credentials", body))
        return str(made["id"])

    def _made(self, call: Call) -> Conversation[dict[str, Any]]:
        reply = yield from self.ask(call)
        made = reply.value
        if not isinstance(made, dict) or "id" not in made:
            raise self._refuse(call, reply)
        return made

    def workflows(self, tag: str, names: list[str]) -> Conversation[list[dict[str, Any]]]:
        """Return the workflows that have a tag or one of some names, each whole and once."""
        found = {str(each["id"]): each for each in (yield from self.listed("/workflows", tags=tag))}
        for name in names:
            # Its answer holds those whose names contain this one.
            for each in (yield from self.listed("/workflows", name=name)):
                if each.get("name") == name:
                    found.setdefault(str(each["id"]), each)
        return [each for each in found.values() if not each.get("isArchived")]

    def create(self, workflow: dict[str, Any]) -> Conversation[dict[str, Any]]:
        """Make a workflow; it is switched off and has no tag."""
        return (yield from self._made(Call("POST", f"{API}/workflows", workflow)))

    def update(self, identity: str, workflow: dict[str, Any]) -> Conversation[None]:
        """Replace a workflow; one that is switched on goes on as the new one."""
        yield from self.ask(Call("PUT", f"{API}/workflows/{quote(identity)}", workflow))

    def set_tag(self, workflow: dict[str, Any], tag: str) -> Conversation[None]:
        """Add a tag to a workflow; those that people gave it stay."""
        ids = [str(each["id"]) for each in workflow.get("tags") or ()]
        if tag not in ids:
            body = [{"id": each} for each in (*ids, tag)]
            yield from self.ask(Call("PUT", f"{API}/workflows/{quote(str(workflow['id']))}/tags", body))

    def activate(self, identity: str) -> Conversation[str]:
        """Switch a workflow on; return why that is not possible, empty where it is."""
        call = Call("POST", f"{API}/workflows/{quote(identity)}/activate")
        reply = yield from self.ask(call, 400, 409)
        return "" if reply.status < 400 else reply.words

    def deactivate(self, identity: str) -> Conversation[None]:
        """Switch a workflow off."""
        yield from self.ask(Call("POST", f"{API}/workflows/{quote(identity)}/deactivate"), 404)

    def delete(self, path: str) -> Conversation[None]:
        """Delete a thing; one that is gone already is gone."""
        yield from self.ask(Call("DELETE", f"{API}{path}"), 404)

    def delete_workflow(self, identity: str) -> Conversation[None]:
        """Delete a workflow that was switched off: n8n says 409 until it has really taken it from the public."""
        call = Call("DELETE", f"{API}/workflows/{quote(identity)}")
        for pause in _PAUSES:
            reply = yield from self.ask(call, 404, 409)
            if reply.status != 409:
                return
            yield Pause(pause)
        yield from self.ask(call, 404)
