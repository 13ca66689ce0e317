"""Prometheus: a file of targets (file_sd), which it reads again by itself whenever it changes.

The whole file is ours: JSON has no place for a mark, and whoever adds targets names a second file.
"""

from __future__ import annotations

import json
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

_NONE = "[]\n"


class Prometheus:
    """The description of Prometheus."""

    name = OrchestratorName("prometheus")
    title = "Prometheus"
    traits = OrchestratorTraits(needs=("targets_file",))
    scopes: frozenset[Scope] = frozenset()

    def headers(self, news: News) -> Mapping[str, str]:
        """Return nothing: nobody is called."""
        return NO_HEADERS

    def verify(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Read the file."""
        path = _path(news)
        reply = yield ReadFile(path)
        if reply.status == 404:
            state = ItemState.MISSING
        else:
            state = ItemState.SAME if reply.text == _text(news) else ItemState.OUTDATED
        return (_item(news, path, state),)

    def announce(self, news: News, *, force: bool) -> Conversation[tuple[Item, ...]]:
        """Write the file unless it is as it should be; a write would have Prometheus look at all of it anew."""
        path = _path(news)
        (item,) = yield from self.verify(news)
        if item.state is ItemState.SAME:
            return (item,)
        yield WriteFile(path, _text(news))
        deed = Deed.CREATED if item.state is ItemState.MISSING else Deed.UPDATED
        return (_item(news, path, ItemState.SAME, deed),)

    def withdraw(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Leave no target in it; a file that is missing would be an error to Prometheus."""
        path = _path(news)
        reply = yield ReadFile(path)
        if reply.status == 404 or reply.text == _NONE:
            return ()
        yield WriteFile(path, _NONE)
        return (Item("targets", str(path), ItemState.SURPLUS, deed=Deed.REMOVED),)


def _path(news: News) -> Path:
    path = news.spec.file
    assert path is not None  # noqa: S101 - the loader has refused the fleet file otherwise
    return path


def _text(news: News) -> str:
    return f"{json.dumps(news.targets, indent=2)}\n" if news.targets else _NONE


def _item(news: News, path: Path, state: ItemState, deed: Deed = Deed.NOTHING) -> Item:
    count = len(news.targets)
    return Item("targets", str(path), state, f"{count} engine{'s' if count != 1 else ''} with metrics", deed)
