"""Steps from the rights that are to the rights that are wanted. Printing a plan moves nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from provisioner.domain.access import AccessWanted
from provisioner.domain.names import ClusterName

Parameter = str | int | tuple[str, ...]
"""A parameter's value; several values are sent as several parameters of one name."""


class Secret(Enum):
    """What a step does to the file with the token's secret."""

    KEEP = "keep"
    FORGET = "forget"


_PVESH = {"GET": "get", "POST": "create", "PUT": "set", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class AccessStep:
    """One thing to do.

    Attributes:
        name: short, for progress and programs, such as ``create role ProvisionerVMs``.
        sentence: what it does and why, for people.
        method, path, parameters: the API call; `method` is empty for an act on this machine alone.
        needs: path and privilege that whoever does it must have, all of them.
        changes: what exists and would become different: as it is and as it would be. Empty for something new.
        secret, file: what happens to the file with the token's secret.
    """

    name: str
    sentence: str
    method: str = ""
    path: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    needs: tuple[tuple[str, str], ...] = ()
    changes: str = ""
    secret: Secret | None = None
    file: Path | None = None

    @property
    def command(self) -> str:
        """The same as a shell command, to be read, or run as root on a server of the cluster."""
        if not self.method:
            return shlex.join(["rm", str(self.file)])
        return pvesh_command(self.method, self.path, self.parameters)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        parameters = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self.parameters.items()
        }
        return {
            "name": self.name,
            "sentence": self.sentence,
            "request": {"method": self.method, "path": self.path, "parameters": parameters} if self.method else None,
            "command": self.command,
            "changes": self.changes,
            "file": str(self.file) if self.file else None,
        }


def pvesh_command(method: str, path: str, parameters: Mapping[str, Parameter]) -> str:
    """Return an API call as a command line of Proxmox's own ``pvesh``, quoted for a shell."""
    words = ["pvesh", _PVESH[method], path]
    for name, value in parameters.items():
        for each in value if isinstance(value, tuple) else (value,):
            words += [f"--{name}", str(each)]
    return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that the plan cannot or will not do; when `is_blocking`, the plan is not carried out at all."""

    found: str
    next_step: str
    is_blocking: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {"found": self.found, "next_step": self.next_step, "is_blocking": self.is_blocking}


@dataclass(frozen=True, slots=True)
class AccessPlan:
    """Steps from the rights that are to the rights that are wanted, or with `is_undo` back again."""

    wanted: AccessWanted
    steps: tuple[AccessStep, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    is_undo: bool = False

    @property
    def cluster(self) -> ClusterName:
        """Whose rights."""
        return self.wanted.cluster.name

    @property
    def is_empty(self) -> bool:
        """There is nothing to do."""
        return not self.steps

    @property
    def blocking(self) -> tuple[Obstacle, ...]:
        """What must be mended before anything is done."""
        return tuple(obstacle for obstacle in self.obstacles if obstacle.is_blocking)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "cluster": self.cluster,
            "undo": self.is_undo,
            "steps": [step.as_dict() for step in self.steps],
            "obstacles": [obstacle.as_dict() for obstacle in self.obstacles],
        }

    def __str__(self) -> str:
        lines = []
        for number, step in enumerate(self.steps, 1):
            lines.append(f"{number}. {step.sentence}")
            lines += [f"   changes: {step.changes}"] if step.changes else []
            lines.append(f"   $ {step.command}")
        for obstacle in self.obstacles:
            mark = "must be mended first" if obstacle.is_blocking else "left alone"
            lines += [f"- {mark}: {obstacle.found}", f"  next: {obstacle.next_step}"]
        return "\n".join(lines) or f"cluster {self.cluster}: nothing to do"
