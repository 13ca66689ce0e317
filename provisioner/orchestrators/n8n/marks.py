"""Our mark in a workflow: whose it is, and what it was when we wrote it.

n8n keeps no field for this, so it stands in the note that each workflow begins with, where people read it too. With it
three things can be told apart without remembering anything here: as it should be; as we wrote it, and that is out of
date; changed by somebody.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

NOTE = "n8n-nodes-base.stickyNote"
_MARK = re.compile(r"\n*provisioner-mark: ([a-z-]+) ([0-9a-f]{64})\s*$")
# Those that our templates set; n8n adds others of its own.
_SETTINGS = (
    "executionOrder",
    "executionTimeout",
    "saveDataSuccessExecution",
    "saveDataErrorExecution",
    "saveManualExecutions",
    "timezone",
    "callerPolicy",
)


def digest(workflow: Mapping[str, Any]) -> str:
    """Return what a workflow does as one word: all of it but its name, its mark, and where its nodes are drawn."""
    nodes = []
    for node in workflow.get("nodes") or ():
        kept = {key: value for key, value in node.items() if key != "position"}
        if node.get("type") == NOTE:
            content = _MARK.sub("", str(node.get("parameters", {}).get("content", "")))
            kept["parameters"] = {**node.get("parameters", {}), "content": content.rstrip()}
        nodes.append(kept)
    settings = workflow.get("settings") or {}
    what = {
        "nodes": sorted(nodes, key=lambda node: str(node.get("id"))),
        "connections": workflow.get("connections") or {},
        "settings": {key: settings[key] for key in _SETTINGS if key in settings},
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def mark_of(workflow: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return which of our workflows one is, and what it was when we wrote it; None where no mark is in it."""
    for node in workflow.get("nodes") or ():
        if node.get("type") == NOTE:
            found = _MARK.search(str(node.get("parameters", {}).get("content", "")))
            if found is not None:
                return found[1], found[2]
    return None


def with_mark(workflow: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a workflow with our mark in its first note."""
    note = next(node for node in workflow["nodes"] if node["type"] == NOTE)
    note["parameters"]["content"] = note["parameters"]["content"].rstrip()
    note["parameters"]["content"] += f"\n\nprovisioner-mark: {key} {digest(workflow)}"
    return workflow
