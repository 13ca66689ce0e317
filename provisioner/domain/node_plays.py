"""What is played on a node, and what an export of that is made of. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.domain.fleet import NodeSpec
from provisioner.errors import ProvisionerError


@dataclass(frozen=True, slots=True)
class NodePlays:
    """A node whose guest is known, and its playbooks with their variables, in order; secrets are references still."""

    node: NodeSpec
    host_key: str
    plays: tuple[tuple[str, Mapping[str, object]], ...]


@dataclass(frozen=True, slots=True)
class AnsibleExport:
    """An inventory that was written, the command lines that use it by node, and why nodes are not in it."""

    inventory: Path
    commands: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, ProvisionerError]
