"""Storages as they are configured, for the whole cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from provisioner.lab.model import Storage
from provisioner.lab.refusals import Refusal, failed
from provisioner.lab.routes import views
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema import storage_options as options
from provisioner.lab.schema.formats import split_list

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_PREFIX = "update storage failed: "


@serves("GET", "/storage")
async def list_definitions(lab: Lab, call: Call) -> object:
    """List storage definitions the caller may see."""
    return [
        _definition(storage)
        for storage in lab.cluster.storages.values()
        if call.params.get("type") in (None, storage.type) and views.sees_storage(lab, call.who, storage.name)
    ]


@serves("GET", "/storage/{storage}")
async def read_definition(lab: Lab, call: Call) -> object:
    """Return one storage definition."""
    return _definition(lab.cluster.storage(call.text("storage")))


@serves("PUT", "/storage/{storage}")
async def update_definition(lab: Lab, call: Call) -> object:
    """Change a storage; content it cannot hold is left out with a warning in a log that nobody is shown."""
    try:
        storage = lab.cluster.storage(call.text("storage"))
    except Refusal as refusal:
        raise failed(f"{_PREFIX}{refusal.message}") from refusal
    changes = {name: value for name, value in call.params.items() if name not in ("storage", "digest", "delete")}
    _require_changeable(storage, changes)
    dropped = split_list(call.text("delete"))
    for name in dropped:
        _require_droppable(storage, name, changes)
    if "content" in changes:
        storage.content = _content(storage, call.text("content"))
    if "nodes" in changes:
        storage.nodes = split_list(call.text("nodes"))
    if "disable" in changes:
        storage.disabled = call.on("disable")
    storage.options |= {
        name: int(value) if isinstance(value, bool) else value
        for name, value in changes.items()
        if name not in options.CHANGEABLE_EVERYWHERE
    }
    for name in dropped:
        _drop(storage, name)
    lab.cluster.storages.save(storage.name, storage)
    return {"storage": storage.name, "type": storage.type}


def _require_changeable(storage: Storage, changes: Mapping[str, object]) -> None:
    known = options.CHANGEABLE.get(storage.type, options.CHANGEABLE_EVERYWHERE)
    for name in changes:
        if name in options.FIXED.get(storage.type, ()):
            raise failed(f"{_PREFIX}can't change value of fixed parameter '{name}'")
        if name not in known:
            raise failed(f"{_PREFIX}unexpected property '{name}'")


def _require_droppable(storage: Storage, name: str, changes: Mapping[str, object]) -> None:
    if name in options.FIXED.get(storage.type, ()):
        raise failed(f"{_PREFIX}unable to delete required option '{name}'")
    if name not in options.CHANGEABLE.get(storage.type, options.CHANGEABLE_EVERYWHERE):
        raise failed(f"{_PREFIX}no such option '{name}'")
    if name in changes:
        raise failed(f"{_PREFIX}cannot set and delete property '{name}' at the same time!")


def _content(storage: Storage, text: str) -> list[str]:
    can_hold = options.CONTENT.get(storage.type, options.DISKS_ONLY)
    found = [content for content in dict.fromkeys(split_list(text)) if content in can_hold]
    if "none" in found and len(found) > 1:
        raise failed(f"{_PREFIX}unable to combine 'none' with other content types")
    if not found and "none" not in can_hold:
        raise failed(f"{_PREFIX}storage does not support content type 'none'")
    return found


def _drop(storage: Storage, name: str) -> None:
    if name == "nodes":
        storage.nodes = None
    elif name == "disable":
        storage.disabled = False
    elif name == "content":
        # Without a list of its own a storage holds what its type holds by default.
        can_hold = options.CONTENT.get(storage.type, options.DISKS_ONLY)
        storage.content = sorted(options.DISKS_ONLY & can_hold) or sorted(can_hold)
    else:
        storage.options.pop(name, None)


def _definition(storage: Storage) -> dict[str, object]:
    view: dict[str, object] = {
        "storage": storage.name,
        "type": storage.type,
        "content": ",".join(storage.content),
        **storage.options,
    }
    if storage.disabled:
        view["disable"] = 1
    if storage.nodes is not None:
        view["nodes"] = ",".join(storage.nodes)
    return view
