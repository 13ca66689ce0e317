"""An Ansible stdout callback that prints one JSON object per line: what runs, what changed, what failed.

Loaded by ansible-playbook from this folder, in its own process; it must import nothing of ours.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: provisioner_events
type: stdout
short_description: JSON lines for the program that started the play
description: One object per event on standard output.
"""

# What ssh says at the end of every command on a terminal.
_FAREWELL = re.compile(r"(Shared connection|Connection) to \S+ closed\.")
_LONGEST_OUTPUT = 1500


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Prints events."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "provisioner_events"

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """A task starts."""
        self._print("task", task)

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task is done."""
        self._print("ok", result._task, changed=bool(result._result.get("changed")))

    def v2_runner_retry(self, result: Any) -> None:
        """A task that waits for something has looked in vain; it may have seen how far that is."""
        told = str(result._result.get("stdout") or "").strip().splitlines()
        if told:
            self._print("waiting", result._task, detail=told[-1])

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task did not apply."""
        self._print("skipped", result._task)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed."""
        if not ignore_errors:
            self._print("failed", result._task, reason=_reason(result))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """The guest went away."""
        self._print("unreachable", result._task, reason=_reason(result))

    @staticmethod
    def _print(event: str, task: Any, **more: object) -> None:
        print(json.dumps({"event": event, "task": task.get_name().strip(), **more}), flush=True)


def _reason(result: Any) -> str:
    """Return the module's own words; of a loop, those of the items that failed."""
    found = result._result
    failed = [item for item in found.get("results") or () if item.get("failed")]
    return "\n".join(dict.fromkeys(map(_words, failed))) or _words(found)


def _words(found: Any) -> str:
    """Return the words of one result. A task with no_log has none to give."""
    if found.get("censored"):
        return str(found["censored"])
    keys = ("msg", "module_stderr", "stderr", "module_stdout")
    parts = [str(found[key]).strip() for key in keys if found.get(key)]
    parts = [part for part in parts if not _FAREWELL.fullmatch(part)]
    if found.get("rc") and found.get("stdout"):
        # Of a script and of a raw command a terminal is the only output.
        parts.append(str(found["stdout"]).strip()[-_LONGEST_OUTPUT:])
    return "\n".join(dict.fromkeys(parts)) or "no reason given"
