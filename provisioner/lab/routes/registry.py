"""How handlers are found: by method and path template, filled in by decorators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.lab.schema.validate import Value

if TYPE_CHECKING:
    from provisioner.lab.core import Lab


@dataclass(frozen=True, slots=True)
class Call:
    """One request that passed authentication, the rule of its endpoint, and the schema."""

    who: str
    params: Mapping[str, Value]
    upload: Path | None = None

    def text(self, name: str, default: str = "") -> str:
        """Return a parameter as text."""
        return str(self.params.get(name, default))

    def number(self, name: str, default: int = 0) -> int:
        """Return a parameter as a whole number."""
        return int(str(self.params.get(name, default)))

    def on(self, name: str, default: bool = False) -> bool:
        """Return a parameter as a truth value."""
        return bool(self.params.get(name, default))

    @property
    def node(self) -> str:
        """Return the node the call is for."""
        return self.text("node")

    @property
    def vmid(self) -> int:
        """Return the VM the call is for."""
        return self.number("vmid")


Handler = Callable[["Lab", Call], Awaitable[object]]

HANDLERS: dict[tuple[str, str], Handler] = {}


def serves(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register a handler for a method of a path template."""

    def register(handler: Handler) -> Handler:
        HANDLERS[method, path] = handler
        return handler

    return register
