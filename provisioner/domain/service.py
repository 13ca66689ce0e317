"""How the control service is wanted: the fleet file's `service:`, checked and with defaults applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.domain.callers import Scope

if TYPE_CHECKING:
    from provisioner.domain.fleet import SecretReference


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen; port 0 takes a free one."""

    ip: IPv4Address | IPv6Address
    port: int

    @property
    def is_private_to_us(self) -> bool:
        """Only this machine reaches it."""
        return self.ip.is_loopback

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def read_listen_address(text: str) -> ListenAddress:
    """Read ``127.0.0.1:8700`` or ``[::1]:8700``. Raises ValueError that says what is allowed."""
    host, colon, port = text.rpartition(":")
    try:
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError
        return ListenAddress(ip_address(host.removeprefix("[").removesuffix("]")), int(port))
    except ValueError:
        raise ValueError("an address and a port, such as 127.0.0.1:8700 or [::1]:8700") from None


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """A token of the API: where its secret is, and what it may do."""

    name: str
    secret: SecretReference
    may: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate of our own with its private key, in PEM form."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class RecordSpec:
    """Where the record of each request goes, by InfluxDB's line protocol: a `database`, or a `bucket`."""

    url: str
    database: str = ""
    user: str = ""
    organization: str = ""
    bucket: str = ""
    secret: SecretReference | None = None
    """The user's password, or the token for the bucket."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """The control service as wanted. Times are in seconds."""

    listen: ListenAddress = field(default_factory=lambda: read_listen_address("127.0.0.1:8700"))
    tokens: Mapping[str, TokenSpec] = field(default_factory=dict)
    tls: CertificateFiles | None = None
    url: str = ""
    """How others reach it, where that is not where it listens."""
    look_every_seconds: float = 5.0
    idle_every_seconds: float = 60.0
    figures_every_seconds: float = 15.0
    drain_seconds: float = 30.0
    keep_events_seconds: float = 30 * 86400.0
    record: RecordSpec | None = None

    @property
    def address_for_others(self) -> str:
        """Its base URL for programs elsewhere; empty where the fleet file does not say it."""
        if self.url:
            return self.url
        # Who listens everywhere, or on a port that is chosen later, has no address that can be written down.
        if self.listen.ip.is_unspecified or not self.listen.port:
            return ""
        return f"{'https' if self.tls else 'http'}://{self.listen}"
