"""LiteLLM: a file with our models, which its configuration includes; it is read when LiteLLM starts.

    include: [/etc/litellm/provisioner.yaml]

Its API would take models too, with a database that most proxies run without. No secret is in the file: LiteLLM looks
our token up in its own environment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from provisioner.domain.callers import Scope
from provisioner.domain.orchestrator import OrchestratorName, OrchestratorTraits
from provisioner.orchestrators.base import (
    NO_HEADERS,
    Conversation,
    Deed,
    Item,
    ItemState,
    News,
    ReadFile,
    WriteFile,
)

_MARK = re.compile(r"^# provisioner-mark: ([0-9a-f]{64})\n", re.MULTILINE)
_TOKEN_VARIABLE = "PROVISIONER_TOKEN"  # noqa: S105 - a name


class LiteLlm:
    """The description of LiteLLM."""

    name = OrchestratorName("litellm")
    title = "LiteLLM"
    traits = OrchestratorTraits(needs=("config_file",), takes=("token",))
    scopes = frozenset((Scope.ROUTE,))

    def headers(self, news: News) -> Mapping[str, str]:
        """Return nothing: nobody is called."""
        return NO_HEADERS

    def verify(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Read the file."""
        reply = yield ReadFile(_path(news))
        state = ItemState.MISSING if reply.status == 404 else _state(reply.text, _text(news))
        return (_item(news, state),)

    def announce(self, news: News, *, force: bool) -> Conversation[tuple[Item, ...]]:
        """Write the file where it is missing or out of date; one that somebody edited with `force` only."""
        (item,) = yield from self.verify(news)
        if item.state is ItemState.SAME:
            return (item,)
        if item.state is ItemState.EDITED and not force:
            return (_item(news, item.state, Deed.LEFT),)
        yield WriteFile(_path(news), _text(news))
        deeds = {ItemState.MISSING: Deed.CREATED, ItemState.EDITED: Deed.OVERWRITTEN}
        return (_item(news, ItemState.SAME, deeds.get(item.state, Deed.UPDATED)),)

    def withdraw(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Leave no model in it: LiteLLM would not start with a file that is missing. What somebody edited is kept."""
        path, empty = _path(news), _marked("model_list: []\n")
        reply = yield ReadFile(path)
        if reply.status == 404 or reply.text == empty:
            return ()
        if (state := _state(reply.text, empty)) is ItemState.EDITED:
            return (_item(news, state, Deed.LEFT),)
        yield WriteFile(path, empty)
        return (Item("models", str(path), ItemState.SURPLUS, deed=Deed.REMOVED),)


def _path(news: News) -> Path:
    path = news.spec.file
    assert path is not None  # noqa: S101 - the loader has refused the fleet file otherwise
    return path


def _text(news: News) -> str:
    import yaml

    key = f"os.environ/{news.token_variable or _TOKEN_VARIABLE}" if news.spec.token else "none"
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"{news.service_url}/v1",
                "api_key": key,
                # A cold start; LiteLLM would give up and try another.
                "timeout": 900,
            },
        }
        for model in news.models
    ]
    return _marked(yaml.safe_dump({"model_list": models}, sort_keys=False, allow_unicode=True))


def _marked(body: str) -> str:
    head = "# Written by provisioner; LiteLLM reads it when it starts. What is changed here by hand is kept.\n"
    return f"{head}# provisioner-mark: {hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def _state(found: str, wanted: str) -> ItemState:
    if found == wanted:
        return ItemState.SAME
    mark = _MARK.search(found)
    ours = mark is not None and hashlib.sha256(found[mark.end() :].encode()).hexdigest() == mark[1]
    return ItemState.OUTDATED if ours else ItemState.EDITED


def _item(news: News, state: ItemState, deed: Deed = Deed.NOTHING) -> Item:
    words = "" if state is ItemState.SAME and deed is Deed.NOTHING else "LiteLLM reads it when it starts"
    return Item("models", str(_path(news)), state, words, deed)
