"""n8n: workflows that ask our control service for models, by its public API.

A workflow of ours carries our tag and, in its note, our mark (see `marks`). With both it is found again after somebody
has renamed it, and what somebody changed in it is seen and kept. Secrets are in credentials alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from provisioner.domain.callers import Scope
from provisioner.domain.orchestrator import OrchestratorName, OrchestratorTraits
from provisioner.errors import InputError, OrchestratorError
from provisioner.orchestrators.base import Call, Conversation, Deed, Item, ItemState, News, Reply, refused
from provisioner.orchestrators.n8n.api import N8nApi
from provisioner.orchestrators.n8n.marks import digest, mark_of
from provisioner.orchestrators.n8n.rendering import (
    CALLERS,
    CONTROL,
    GATEWAY,
    WEBHOOK,
    Credentials,
    workflows,
)

TAG = "provisioner"
_BY_HAND = "changed by hand"


@dataclass(slots=True)
class _Found:
    """What is there for one of our workflows, and how that stands to what should be."""

    wanted: dict[str, Any]
    there: list[dict[str, Any]] = field(default_factory=list)
    state: ItemState = ItemState.MISSING
    detail: str = ""

    @property
    def one(self) -> dict[str, Any]:
        """The one that is there."""
        return self.there[0]

    def item(self, deed: Deed = Deed.NOTHING, detail: str = "") -> Item:
        """Return it in the words of reports."""
        return Item("workflow", str(self.wanted["name"]), self.state, detail or self.detail, deed)


class N8n:
    """The description of n8n."""

    name = OrchestratorName("n8n")
    title = "n8n"
    traits = OrchestratorTraits(needs=("url", "api_key"), takes=("token", "webhook_key"))
    scopes = frozenset((Scope.ROUTE, Scope.WAKE))

    def headers(self, news: News) -> Mapping[str, str]:
        """Return the key that lets us in."""
        return {"X-N8N-API-KEY": news.api_key}

    def verify(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Ask for credentials, workflows, and whether the webhook answers."""
        api = self._api(news)
        ids, items = yield from self._credentials(api, news)
        found = yield from self._look(api, news, ids)
        items += [each.item() for each in found.values()]
        items += yield from self._surplus(api, news, found)
        balancer = next(iter(found.values()))
        if balancer.state is ItemState.SAME or (balancer.state is ItemState.EDITED and balancer.one.get("active")):
            items.append((yield from self._webhook(is_ours=balancer.state is ItemState.SAME)))
        return tuple(items)

    def announce(self, news: News, *, force: bool) -> Conversation[tuple[Item, ...]]:
        """Write the credentials, and the workflows that are missing or out of date."""
        api = self._api(news)
        tag = yield from api.tag(TAG, make=True)
        ids, items = yield from self._credentials(api, news, write=True)
        found = yield from self._look(api, news, ids)
        for each in found.values():
            items.append((yield from self._put(api, each, tag, force=force)))
        for surplus in (yield from self._surplus(api, news, found, remove=True)):
            items.append(surplus)
        return tuple(items)

    def withdraw(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Remove workflows, credentials and tag; a workflow that somebody changed is switched off and left to them."""
        api = self._api(news)
        items: list[Item] = []
        tagged = yield from api.workflows(TAG, [])
        ours = [(each, mark) for each in tagged if (mark := mark_of(each)) is not None]
        # Somebody may have given our tag to one of their own.
        kept = len(ours) < len(tagged)
        for each, _ in ours:
            if each.get("active"):
                yield from api.deactivate(str(each["id"]))
        for each, mark in ours:
            if digest(each) != mark[1]:
                kept = True
                words = f"{_BY_HAND}; switched off, for its credentials are gone"
                items.append(Item("workflow", str(each["name"]), ItemState.EDITED, words, Deed.LEFT))
                continue
            yield from api.delete_workflow(str(each["id"]))
            items.append(Item("workflow", str(each["name"]), ItemState.SURPLUS, deed=Deed.REMOVED))
        for each in (yield from api.credentials()):
            if each.get("name") in (CONTROL, CALLERS, GATEWAY):
                yield from api.delete(f"/credentials/{quote(str(each['id']))}")
                items.append(Item("credential", str(each["name"]), ItemState.SURPLUS, deed=Deed.REMOVED))
        tag = "" if kept else (yield from api.tag(TAG, make=False))
        if tag:
            yield from api.delete(f"/tags/{quote(tag)}")
            items.append(Item("tag", TAG, ItemState.SURPLUS, deed=Deed.REMOVED))
        return tuple(items)

    def _api(self, news: News) -> N8nApi:
        if not news.webhook_key:
            raise InputError(
                "cannot give n8n its workflows: anybody could use the webhook, for no key is named",
                subject="orchestrators.n8n of the fleet file",
                next_step="name one: webhook_key: env:N8N_WEBHOOK_KEY; or give the service a token for n8n",
            )

        def refuse(call: Call, reply: Reply) -> OrchestratorError:
            return refused(self, news, call, reply)

        return N8nApi(refuse)

    def _credentials(
        self, api: N8nApi, news: News, *, write: bool = False
    ) -> Conversation[tuple[Credentials, list[Item]]]:
        """Return the credentials' ids and how they stand. What is in them nobody can read, so it is always written."""
        ids: dict[str, str] = {}
        items: list[Item] = []
        listed = yield from api.credentials()
        for name, kind, data in _wanted_credentials(news):
            there = [str(each["id"]) for each in listed if (each.get("name"), each.get("type")) == (name, kind)]
            if len(there) > 1:
                raise OrchestratorError(
                    f'cannot tell which credential "{name}" is ours: there are {len(there)} ({", ".join(there)})',
                    subject=f"{self.title} at {news.spec.url}",
                    next_step="delete all but one of them there; then: provisioner register",
                )
            identity = there[0] if there else ""
            state = ItemState.SAME if identity else ItemState.MISSING
            deed = Deed.NOTHING
            if write:
                deed = Deed.NOTHING if identity else Deed.CREATED
                identity, state = (yield from api.put_credential(identity, name, kind, data)), ItemState.SAME
            ids[name] = identity
            items.append(Item("credential", name, state, deed=deed))
        return Credentials(ids.get(CONTROL, ""), ids[CALLERS]), items

    def _look(self, api: N8nApi, news: News, ids: Credentials) -> Conversation[dict[str, _Found]]:
        found = {key: _Found(wanted) for key, wanted in workflows(news, ids).items()}
        by_name = {each.wanted["name"]: key for key, each in found.items()}
        tagged = yield from api.workflows(TAG, list(by_name))
        for workflow in tagged:
            mark = mark_of(workflow)
            key = mark[0] if mark else by_name.get(workflow.get("name", "")) if _is_tagged(workflow) else None
            if key in found:
                found[key].there.append(workflow)
        for each in found.values():
            _judge(each)
        return found

    def _put(self, api: N8nApi, each: _Found, tag: str, *, force: bool) -> Conversation[Item]:
        if each.state is ItemState.DOUBLED:
            return each.item(Deed.LEFT)
        if each.state is ItemState.MISSING:
            made = yield from api.create(each.wanted)
            blocked = yield from api.activate(str(made["id"]))
            # Last: what has our tag and is switched off was switched off by somebody.
            if not blocked:
                yield from api.set_tag(made, tag)
            each.state = ItemState.BLOCKED if blocked else ItemState.SAME
            return each.item(Deed.CREATED, blocked)
        there = each.one
        identity = str(there["id"])
        if not force and each.state in (ItemState.EDITED, ItemState.INACTIVE):
            return each.item(Deed.LEFT)
        deed = Deed.NOTHING
        if digest(there) != digest(each.wanted) or (force and there["name"] != each.wanted["name"]):
            deed = Deed.OVERWRITTEN if each.state is ItemState.EDITED else Deed.UPDATED
            # A name that somebody gave it is kept as long as it is not forced.
            name = each.wanted["name"] if force else there["name"]
            yield from api.update(identity, {**each.wanted, "name": name})
        blocked = ""
        if not there.get("active"):
            blocked = yield from api.activate(identity)
            deed = deed if deed is not Deed.NOTHING or blocked else Deed.ACTIVATED
        if not blocked:
            yield from api.set_tag(there, tag)
        each.state = ItemState.BLOCKED if blocked else ItemState.SAME
        return each.item(deed, blocked or ("" if deed is Deed.OVERWRITTEN else each.detail))

    def _surplus(
        self, api: N8nApi, news: News, found: Mapping[str, _Found], *, remove: bool = False
    ) -> Conversation[list[Item]]:
        """Return those with our mark that are none of ours any more; what somebody changed in them is left."""
        items: list[Item] = []
        for each in (yield from api.workflows(TAG, [])):
            mark = mark_of(each)
            if mark is None or mark[0] in found:
                continue
            item = Item("workflow", str(each["name"]), ItemState.SURPLUS, "of an earlier version")
            if remove and digest(each) == mark[1]:
                if each.get("active"):
                    yield from api.deactivate(str(each["id"]))
                yield from api.delete_workflow(str(each["id"]))
                item = replace(item, deed=Deed.REMOVED)
            items.append(item)
        return items

    def _webhook(self, *, is_ours: bool) -> Conversation[Item]:
        """Knock at the webhook without a key: who is refused there has found it. Edited, it may be elsewhere."""
        reply = yield Call("POST", f"/webhook/{WEBHOOK}", {})
        name = f"POST /webhook/{WEBHOOK}"
        if reply.status == 403:
            return Item("webhook", name, ItemState.SAME)
        if reply.status == 404:
            state = ItemState.MISSING if is_ours else ItemState.EDITED
            return Item("webhook", name, state, "it is not published there")
        words = f"asked without a key it answers {reply.status} instead of 403"
        return Item("webhook", name, ItemState.EDITED, words)


def _wanted_credentials(news: News) -> list[tuple[str, str, dict[str, object]]]:
    """Return name, type and content of each. The last is for people's own workflows: the gateway as an OpenAI."""
    wanted: list[tuple[str, str, dict[str, object]]] = [
        (name, "httpHeaderAuth", {"name": "Authorization", "value": f"Bearer {secret}"})
        for name, secret in ((CONTROL, news.token), (CALLERS, news.webhook_key))
        if secret
    ]
    wanted.append((GATEWAY, "openAiApi", {"apiKey": news.token or "none", "url": f"{news.service_url}/v1"}))
    return wanted


def exported(news: News, *, with_token: bool) -> dict[str, str]:
    """Return the workflows as n8n's editor imports them, by their files' names; credentials are chosen there."""
    ids = Credentials("CHOOSE" if with_token else "", "CHOOSE")
    return {f"{key}.json": f"{json.dumps(each, indent=2)}\n" for key, each in workflows(news, ids).items()}


def _judge(each: _Found) -> None:
    """Say how what is there stands to what should be."""
    if not each.there:
        return
    if len(each.there) > 1:
        ids = ", ".join(sorted(str(workflow["id"]) for workflow in each.there))
        each.state, each.detail = ItemState.DOUBLED, f"there are {len(each.there)} ({ids}); delete all but one there"
        return
    there = each.one
    mark, now = mark_of(there), digest(there)
    if mark is None or now != mark[1]:
        each.state, each.detail = ItemState.EDITED, _BY_HAND if mark else f"{_BY_HAND}; our mark is gone"
    elif now != digest(each.wanted):
        each.state = ItemState.OUTDATED
    else:
        each.state = ItemState.SAME
    if there["name"] != each.wanted["name"]:
        each.detail = "; ".join(filter(None, (each.detail, f'it is called "{there["name"]}" there')))
    if not there.get("active"):
        each.detail = "; ".join(filter(None, (each.detail, "it is switched off")))
        if each.state is not ItemState.EDITED:
            # Without our tag it is one that we could not finish.
            each.state = ItemState.INACTIVE if _is_tagged(there) else ItemState.BLOCKED


def _is_tagged(workflow: Mapping[str, Any]) -> bool:
    return any(tag.get("name") == TAG for tag in workflow.get("tags") or ())
