"""Making what a guest gets on its first boot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from provisioner.domain.fleet import FleetSpec, NodeSpec


@dataclass(frozen=True, slots=True)
class HostKeyPair:
    """A guest's SSH host key. The private half lives only until it is on the seed ISO."""

    public: str
    private: str = field(repr=False)


class Seeds(Protocol):
    """Renders cloud-init documents into seed ISOs."""

    def new_host_key(self) -> HostKeyPair:
        """Make an ed25519 key pair."""
        ...

    def authorized_keys(self) -> tuple[str, ...]:
        """Return the public keys that may log in to a guest, one line each."""
        ...

    def verify(self, node: NodeSpec) -> None:
        """Check what a node's seed will need from this machine. Raises InputError."""
        ...

    def seed(self, fleet: FleetSpec, node: NodeSpec, host_key: HostKeyPair) -> bytes:
        """Return the ISO for a first boot."""
        ...

    def sealed_seed(self, fleet: FleetSpec, node: NodeSpec, host_key_public: str) -> bytes:
        """Return the ISO of the same instance without the private host key."""
        ...
