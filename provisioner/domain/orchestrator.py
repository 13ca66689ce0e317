"""Who else is to know of the fleet: the fleet file's `orchestrators:`, and what became of telling them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from provisioner.domain.fleet import SecretReference

OrchestratorName = NewType("OrchestratorName", str)


@dataclass(frozen=True, slots=True)
class OrchestratorTraits:
    """Which keys of the fleet file an orchestrator needs, and which more it takes."""

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OrchestratorSpec:
    """One orchestrator as wanted. `token` names a token of our service that is handed to it."""

    name: OrchestratorName
    url: str = ""
    api_key: SecretReference | None = None
    token: str = ""
    webhook_key: SecretReference | None = None
    file: Path | None = None
    """Which it reads."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What an orchestrator was last told, and since when that is not what it should know.

    `nodes` are those that it knew when it was last asked; `at` is when that was, UNIX seconds, 0.0 for never.
    `failing_since` and `reason` are of tries that failed, None and empty where the last one did not; `tries` counts
    those, and before `next_try_at` the service does not try again.
    """

    orchestrator: OrchestratorName
    nodes: tuple[str, ...] = ()
    at: float = 0.0
    remark: str = ""
    """What a person should know of it though it works, such as a workflow that was edited by hand."""
    failing_since: float | None = None
    reason: str = ""
    tries: int = 0
    next_try_at: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "orchestrator": self.orchestrator,
            "nodes": list(self.nodes),
            "at": self.at,
            "remark": self.remark,
            "failing_since": self.failing_since,
            "reason": self.reason,
            "tries": self.tries,
            "next_try_at": self.next_try_at,
        }
