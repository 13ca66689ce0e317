"""Open WebUI: a connection to our gateway among its OpenAI connections, by the API that its settings page uses.

By its source (routers/openai.py): administrators read and replace the whole list, addresses, keys and options side by
side. Ours is known by the tag in its options, so that it is found again when our address has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.domain.callers import Scope
from provisioner.domain.orchestrator import OrchestratorName, OrchestratorTraits
from provisioner.orchestrators.base import Call, Conversation, Deed, Item, ItemState, News, refused

_TAG = "provisioner"
_NO_KEY = "none"
_READ, _WRITE = "/openai/config", "/openai/config/update"


@dataclass(slots=True)
class _Connections:
    """The list as it is there; one entry may be ours."""

    rest: dict[str, Any]
    urls: list[str]
    keys: list[str]
    options: list[dict[str, Any]]

    def ours(self, url: str) -> int | None:
        """Return the place of ours: the one with our tag, else the one with our address."""
        tagged = [
            at
            for at, each in enumerate(self.options)
            if any(isinstance(tag, dict) and tag.get("name") == _TAG for tag in each.get("tags") or ())
        ]
        return next(iter(tagged), self.urls.index(url) if url in self.urls else None)

    def document(self) -> dict[str, Any]:
        """Return it as it is sent back."""
        options = {str(at): each for at, each in enumerate(self.options)}
        return {
            **self.rest,
            "OPENAI_API_BASE_URLS": self.urls,
            "OPENAI_API_KEYS": self.keys,
            "OPENAI_API_CONFIGS": options,
        }


class OpenWebUi:
    """The description of Open WebUI."""

    name = OrchestratorName("open-webui")
    title = "Open WebUI"
    traits = OrchestratorTraits(needs=("url", "api_key"), takes=("token",))
    scopes = frozenset((Scope.ROUTE,))

    def headers(self, news: News) -> Mapping[str, str]:
        """Return the administrator's key."""
        return {"Authorization": f"Bearer {news.api_key}"}

    def verify(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Read the connections."""
        there = yield from self._read(news)
        return (_judged(there, news),)

    def announce(self, news: News, *, force: bool) -> Conversation[tuple[Item, ...]]:
        """Add or mend our connection; the others stay as they are."""
        there = yield from self._read(news)
        item = _judged(there, news)
        if item.state is ItemState.SAME:
            return (item,)
        if item.state is ItemState.INACTIVE and not force:
            return (_item(news, item.state, item.detail, Deed.LEFT),)
        url = _url(news)
        at = there.ours(url)
        if at is None:
            there.urls.append(url)
            there.keys.append(_key(news))
            there.options.append({"enable": True, "tags": [{"name": _TAG}]})
        else:
            there.urls[at], there.keys[at] = url, _key(news)
            tags = [tag for tag in there.options[at].get("tags") or () if tag != {"name": _TAG}]
            there.options[at] |= {"enable": True, "tags": [*tags, {"name": _TAG}]}
        there.rest["ENABLE_OPENAI_API"] = True
        yield from self._write(news, there)
        return (_item(news, ItemState.SAME, "", Deed.CREATED if at is None else Deed.UPDATED),)

    def withdraw(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Take our connection out."""
        there = yield from self._read(news)
        at = there.ours(_url(news))
        if at is None:
            return ()
        for each in (there.urls, there.keys, there.options):
            del each[at]
        yield from self._write(news, there)
        return (_item(news, ItemState.SURPLUS, "", Deed.REMOVED),)

    def _read(self, news: News) -> Conversation[_Connections]:
        call = Call("GET", _READ)
        reply = yield call
        value = reply.value
        is_known = isinstance(value, dict) and isinstance(value.get("OPENAI_API_BASE_URLS"), list)
        if reply.status >= 400 or not is_known:
            raise refused(self, news, call, reply)
        urls = [str(url).rstrip("/") for url in value.pop("OPENAI_API_BASE_URLS")]
        keys = [str(key) for key in value.pop("OPENAI_API_KEYS", None) or []]
        options = value.pop("OPENAI_API_CONFIGS", None) or {}
        return _Connections(
            rest=value,
            urls=urls,
            keys=[*keys, *[""] * len(urls)][: len(urls)],
            # Older ones are kept by address instead of by place.
            options=[dict(options.get(str(at), options.get(url)) or {}) for at, url in enumerate(urls)],
        )

    def _write(self, news: News, there: _Connections) -> Conversation[None]:
        call = Call("POST", _WRITE, there.document())
        reply = yield call
        if reply.status >= 400:
            raise refused(self, news, call, reply)


def _judged(there: _Connections, news: News) -> Item:
    at = there.ours(_url(news))
    if at is None:
        return _item(news, ItemState.MISSING)
    if there.rest.get("ENABLE_OPENAI_API") is False:
        return _item(news, ItemState.INACTIVE, "connections of this kind are switched off there")
    if there.options[at].get("enable") is False:
        return _item(news, ItemState.INACTIVE, "it is switched off")
    is_right = (there.urls[at], there.keys[at]) == (_url(news), _key(news))
    return _item(news, ItemState.SAME if is_right else ItemState.OUTDATED)


def _url(news: News) -> str:
    return f"{news.service_url}/v1"


def _key(news: News) -> str:
    return news.token or _NO_KEY


def _item(news: News, state: ItemState, detail: str = "", deed: Deed = Deed.NOTHING) -> Item:
    return Item("connection", _url(news), state, detail, deed)
