"""Converging a guest with a playbook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from provisioner.domain.fleet import NodeSpec


@dataclass(frozen=True, slots=True)
class PlaybookOutcome:
    """How many tasks ran, and the names of those that changed something."""

    tasks: int
    changed: tuple[str, ...]


class TaskPhase(Enum):
    """Where a task of a playbook is."""

    STARTED = "started"
    WAITING = "waiting"
    DONE = "done"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One thing that happened to a task; `changed` and `seconds` say something once it is done.

    `detail` says how far something long is that a task waits for.
    """

    name: str
    phase: TaskPhase
    changed: bool = False
    seconds: float = 0.0
    detail: str = ""


OnTaskEvent = Callable[[TaskEvent], None]


class Playbooks(Protocol):
    """Runs playbooks."""

    def recipe(self, playbook: str, variables: Mapping[str, object]) -> str:
        """Return a digest of what a playbook would do: it changes with the playbook and with its variables."""
        ...

    def size_question(self, playbook: str, variables: Mapping[str, object]) -> tuple[str, ...]:
        """Return the command that tells in a guest, as root, how many bytes of models a playbook has still to fetch.

        It prints the number, and fails where nobody can tell; empty for a playbook that fetches none.
        """
        ...

    def run(
        self,
        playbook: str,
        node: NodeSpec,
        host_key: str,
        variables: Mapping[str, object],
        on_task: Callable[[str], None],
    ) -> PlaybookOutcome:
        """Run one playbook on one node.

        Args:
            playbook: the name without folder or ending, such as ``deploy-llama-cpp``.
            node: where.
            host_key: the guest's public host key.
            variables: what the playbook's header lists.
            on_task: called with each task's name as it starts.

        Raises:
            PlaybookError: a task failed; names the task and carries the guest's words.
        """
        ...
