"""What a node can be for: modes, the engines that serve them, and the files both are made of. Pure values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType

from provisioner.domain.names import EngineName, ModeName, NodeName, Vmid
from provisioner.domain.routing_policy import RoutingPolicy

ArgumentValue = bool | int | float | str | list[str | int | float] | dict[str, object]
"""What a mode may say of one flag: a list is several values, a table is one JSON document."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file pinned by checksum: an engine's archive or a model. `source` is http(s) or a local path."""

    name: str
    source: str
    sha256: str

    @property
    def stored_name(self) -> str:
        """What the file is called among a guest's models."""
        return f"{self.sha256[:12]}.gguf"

    @property
    def local_path(self) -> Path | None:
        """The file on this machine, or None when the guest fetches it itself."""
        return None if self.source.startswith(("http://", "https://")) else Path(self.source)


class Software(Enum):
    """What pins an engine's software, in the words of the fleet file."""

    ARCHIVES = "source and sha256"
    VERSION = "version"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine's software as the fleet pins it.

    `archives` are unpacked over each other. `requirements` is a file with the
    hashes of every package, for engines that are Python packages. `image` is a
    container image with its digest. `ray` is the version of Ray beside an
    engine that does not bring it.
    """

    name: EngineName
    version: str = ""
    archives: tuple[Artifact, ...] = ()
    requirements: Path | None = None
    image: str = ""
    ray: str = ""

    @property
    def cuda_build(self) -> int | None:
        """The CUDA version that its archives are built for, as their names tell: 13 for ``...-cuda-13.4-x64...``."""
        found = (re.search(r"cuda-?(\d+)", each.source.rpartition("/")[2]) for each in self.archives)
        return next((int(match[1]) for match in found if match), None)


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """What an engine can be told: the laws by which the fleet file is checked.

    `knows` are those of the optional keys of a mode that have an effect on it;
    a word without effect misleads. `serves_files` means that its models are
    files that the fleet pins, not names that it fetches by itself. `published`
    says where its makers list versions and checksums. `takes_key` means that it
    can ask its clients for an API key. `spans_nodes` means that several nodes can
    serve one model together; with `needs_equal_gpus` those must be alike. `lacks`
    says of a key that it does not know why, where that is not plain. Without
    `uses_gpus` it computes on the CPU whatever cards there are; with
    `needs_cuda` what we lay down of it has use for NVIDIA's alone.
    """

    software: Software
    serves_files: bool
    serves_many: bool
    knows: frozenset[str]
    port: int
    published: str
    takes_key: bool = False
    spans_nodes: bool = False
    needs_equal_gpus: bool = False
    lacks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    uses_gpus: bool = True
    needs_cuda: bool = False


class Pull(Enum):
    """When a model is fetched to a node."""

    UP = "up"
    DEMAND = "demand"


@dataclass(frozen=True, slots=True)
class ModeSpec:
    """A named purpose: engine, model, arguments.

    `model` is the one that proves that the mode answers; `more_models` are
    served beside it. `context` is in tokens, for each of the `parallel`
    requests. `gpu_layers` is a number, or ``all`` or ``auto``. `cpu_limit` is
    in cores. `nodes` serve it together, as one: the first is the head, which
    clients speak to; with none, each node that has the mode serves it alone.
    `with_ray` has them find each other through Ray.
    """

    name: ModeName
    engine: EngineName
    model: str
    context: int | None = None
    parallel: int | None = None
    threads: int | None = None
    more_models: tuple[str, ...] = ()
    tokenizer: str | None = None
    arguments: Mapping[str, ArgumentValue] = field(default_factory=lambda: MappingProxyType({}))
    gpu_layers: int | str | None = None
    pinned: tuple[str, ...] = ()
    memory_limit_bytes: int | None = None
    cpu_limit: float | None = None
    pull: Pull = Pull.UP
    priority: int | None = None
    """Instead of the node's, while it is in this mode."""
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    """How requests find it."""
    nodes: tuple[NodeName, ...] = ()
    with_ray: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """Those of its keys that say something to its engine, as the fleet file writes them."""
        given = {
            "tokenizer": self.tokenizer is not None,
            "context": self.context is not None,
            "parallel": self.parallel is not None,
            "threads": self.threads is not None,
            "gpu_layers": self.gpu_layers is not None,
            "pinned": bool(self.pinned),
            "pull": self.pull is not Pull.UP,
            "ray": self.with_ray,
        }
        return frozenset(key for key, is_given in given.items() if is_given)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model it serves; the first is the one that is asked for a proof."""
        return (self.model, *self.more_models)


@dataclass(frozen=True, slots=True)
class GpuRelease:
    """A purpose without an engine: the node is off, and another VM may run with its GPUs.

    `may_shut_down` is the permission to shut that VM down cleanly when the node
    wants its GPUs back; its power is never cut.
    """

    name: ModeName
    vmid: Vmid
    may_shut_down: bool = False
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class WebUiSpec:
    """Open WebUI beside a node's engines: its version, its port, and a file with the hashes of its packages."""

    version: str
    port: int = 3080
    requirements: Path | None = None
