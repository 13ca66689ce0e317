"""A cluster's own description of itself, in our words: the one login that no fleet file stands behind.

Requests: four for the cluster, four for each server that answers, one for each
guest on such a server; Proxmox has no list that shows guests' configurations.
What one may not see is noted and left out; only a login that is refused, or a
server that goes away, ends the look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, NetmaskValueError
from typing import Any

from proxmoxer.core import ResourceException

from provisioner.adapters.proxmox.property_strings import parts_of
from provisioner.adapters.proxmox.session import ProxmoxSession
from provisioner.domain.discovery import (
    Discovery,
    GuestFound,
    GuestType,
    HypervisorFound,
    Interface,
    MappingEntry,
    MappingFound,
    PassedThrough,
    PciDevice,
    StorageFound,
    Unseen,
)
from provisioner.domain.host import PciAddress
from provisioner.errors import (
    HypervisorError,
    LoginRefusedError,
    PermissionMissingError,
    UnreachableError,
    VmMissingError,
)

_PRIVILEGE = re.compile(r"Permission check failed \(([^,)]+), ([^)]+)\)")
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
_PATH = re.compile(r"(?:(?P<domain>[0-9a-f]{4,}):)?(?P<slot>[0-9a-f]{2}:[0-9a-f]{2})(?P<function>\.[0-9a-f])?")
_BRIDGES = frozenset({"bridge", "OVSBridge"})
_GUEST_KINDS = {"qemu": GuestType.VM, "lxc": GuestType.CONTAINER}

Row = Mapping[str, Any]


def discover(session: ProxmoxSession, api_url: str) -> Discovery:
    """Look at everything. See `ClusterDoor.discover`."""
    try:
        return _Look(session, api_url).all()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Shapes that no Proxmox VE we know of answers with.
        raise HypervisorError(
            f"cannot understand what Proxmox answered ({type(error).__name__}: {error})",
            subject=api_url,
            next_step="check that this is Proxmox VE 8 or 9; --debug shows where it happened",
        ) from error


class _Look:
    """One look at a cluster, with what it could not see."""

    def __init__(self, session: ProxmoxSession, api_url: str) -> None:
        self._session = session
        self._api_url = api_url
        self._unseen: list[Unseen] = []

    def all(self) -> Discovery:
        """Ask for the cluster, then for each of its servers, then for each guest."""
        calls = self._session.calls
        version = self._session.call("GET", "version")
        permissions = self._session.call("GET", "access/permissions") or {}
        resources: list[Row] = self._session.call("GET", "cluster/resources")
        members: list[Row] = []
        with self._noting("the servers' addresses and the cluster's name"):
            members = self._session.call("GET", "cluster/status")
        hypervisors = tuple(
            self._hypervisor(row, members) for row in sorted(_of(resources, "node"), key=lambda row: str(row["node"]))
        )
        answering = {each.name for each in hypervisors if each.is_online}
        return Discovery(
            api_url=self._api_url,
            version=str(version.get("version", "")),
            cluster_name=next((str(row["name"]) for row in _of(members, "cluster")), None),
            hypervisors=hypervisors,
            storages=tuple(_storage(row) for row in _of(resources, "storage")),
            mappings=self._mappings([each.name for each in hypervisors if each.is_online]),
            guests=tuple(
                self._guest(row, kind, is_asked=str(row["node"]) in answering)
                for name, kind in _GUEST_KINDS.items()
                for row in _of(resources, name)
            ),
            permissions=permissions,
            unseen=tuple(self._unseen),
            calls=self._session.calls - calls,
        )

    def _hypervisor(self, row: Row, members: list[Row]) -> HypervisorFound:
        name = str(row["node"])
        own = next((each for each in _of(members, "node") if each.get("name") == name), {})
        found = HypervisorFound(
            name=name,
            is_online=row.get("status") == "online",
            address=_ip(own.get("ip")),
            threads=_whole(row.get("maxcpu")),
            memory_bytes=_whole(row.get("maxmem")),
        )
        if not found.is_online:
            self._unseen.append(Unseen(f"GPUs and network of {name}", "the server is offline", "start it"))
            return found
        devices: tuple[PciDevice, ...] | None = None
        interfaces: tuple[Interface, ...] | None = None
        nameservers: tuple[IPv4Address, ...] = ()
        with self._noting(f"GPUs of {name}"):
            # With bridges: who shares a group with a card can only be told with them in the list.
            rows = self._session.call("GET", f"nodes/{name}/hardware/pci", pci_class_blacklist="")
            devices = tuple(each for each in map(_device, rows) if each is not None)
        with self._noting(f"network of {name}"):
            interfaces = tuple(map(_interface, self._session.call("GET", f"nodes/{name}/network")))
        with self._noting(f"name servers of {name}"):
            resolver = self._session.call("GET", f"nodes/{name}/dns")
            nameservers = tuple(each for key in ("dns1", "dns2", "dns3") if (each := _ip(resolver.get(key))))
        return HypervisorFound(
            name=found.name,
            is_online=True,
            address=found.address,
            threads=found.threads,
            memory_bytes=found.memory_bytes,
            devices=devices,
            interfaces=interfaces,
            nameservers=nameservers,
        )

    def _mappings(self, hypervisors: list[str]) -> tuple[MappingFound, ...]:
        entries: dict[str, Row] = {}
        problems: dict[str, dict[str, tuple[str, ...]]] = {}
        for hypervisor in hypervisors:
            with self._noting("PCI mappings"):
                for row in self._session.call("GET", "cluster/mapping/pci", check_node=hypervisor):
                    name = str(row["id"])
                    entries[name] = row
                    # A warning says that the mapping has no entry for this server: no fault of the others'.
                    faults = [c for c in row.get("checks") or () if c.get("severity") == "error"]
                    if faults:
                        found = tuple(str(check.get("message", "")).strip() for check in faults)
                        problems.setdefault(name, {})[hypervisor] = found
        return tuple(
            MappingFound(
                name, tuple(map(_entry, row.get("map") or ())), problems.get(name, {}), bool(_whole(row.get("mdev")))
            )
            for name, row in sorted(entries.items())
        )

    def _guest(self, row: Row, kind: GuestType, *, is_asked: bool) -> GuestFound:
        vmid, hypervisor = int(row["vmid"]), str(row["node"])
        config: Row = {}
        if is_asked:
            path = f"nodes/{hypervisor}/{row['type']}/{vmid}/config"
            with self._noting(f"configuration of {kind.value} {vmid}"):
                try:
                    config = self._session.call("GET", path)
                except VmMissingError:
                    config = {}  # deleted or moved since it was listed
        return GuestFound(
            vmid=vmid,
            name=str(row.get("name") or ""),
            hypervisor=hypervisor,
            type=kind,
            is_template=bool(_whole(row.get("template"))),
            tags=frozenset(re.split(r"[;, ]", str(row.get("tags") or ""))) - {""},
            devices=tuple(_passed_through(str(text)) for text in _numbered(config, "hostpci")),
            addresses=tuple(
                address
                for prefix in ("ipconfig", "net")
                for text in _numbered(config, prefix)
                if (address := _address(parts_of(text, "").get("ip")))
            ),
        )

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note what a refusal hides, or a server that does not answer for itself, and go on."""
        try:
            yield
        except LoginRefusedError:
            raise
        except PermissionMissingError as error:
            found = _PRIVILEGE.search(error.summary)
            why = f"this login lacks {found[2].replace('|', ' or ')} on {found[1]}" if found else error.summary
            self._note(Unseen(what, why, "grant it to the user and its token, then run provisioner init again"))
        except HypervisorError as error:
            # A server of the cluster may be silent while the one we talk to is not, which then says so for it.
            if isinstance(error, UnreachableError) and not isinstance(error.__cause__, ResourceException):
                raise
            self._note(Unseen(what, error.summary, error.next_step))

    def _note(self, unseen: Unseen) -> None:
        if unseen not in self._unseen:
            self._unseen.append(unseen)


def _of(rows: list[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.get("type") == kind]


def _storage(row: Row) -> StorageFound:
    total, used = _whole(row.get("maxdisk")), _whole(row.get("disk"))
    return StorageFound(
        name=str(row["storage"]),
        hypervisor=str(row["node"]),
        kind=str(row.get("plugintype") or "unknown"),
        content=frozenset(str(row.get("content") or "").split(",")) - {""},
        is_available=row.get("status") == "available",
        free_bytes=max(0, total - (used or 0)) if total else None,
    )


def _device(row: Row) -> PciDevice | None:
    address = str(row.get("id", "")).lower()
    if _ADDRESS.fullmatch(address) is None:
        return None
    group = _whole(row.get("iommugroup"))
    names = (str(row.get(key) or "").strip() for key in ("vendor_name", "device_name"))
    return PciDevice(
        address=PciAddress(address),
        class_code=_hex(row.get("class"))[:4],
        vendor_id=_hex(row.get("vendor")),
        device_id=_hex(row.get("device")),
        name=" ".join(name for name in names if name),
        # -1 is how Proxmox says that there is none.
        iommu_group=group if group is not None and group >= 0 else None,
    )


def _interface(row: Row) -> Interface:
    return Interface(
        name=str(row.get("iface", "")),
        is_bridge=row.get("type") in _BRIDGES,
        is_active=bool(_whole(row.get("active"))),
        address=_address(row.get("cidr")),
        gateway=_ip(row.get("gateway")),
    )


def _entry(text: object) -> MappingEntry:
    parts = parts_of(text, "")
    return MappingEntry(parts.get("node", ""), tuple(map(_path, parts.get("path", "").split(";"))))


def _passed_through(text: str) -> PassedThrough:
    parts = parts_of(text, "host")
    if mapping := parts.get("mapping"):
        return PassedThrough(mapping=mapping)
    return PassedThrough(paths=tuple(_path(each) for each in parts.get("host", "").split(";") if each))


def _path(text: str) -> str:
    """Return an address with its domain, in small letters; what is none comes back as it is, and matches no card."""
    match = _PATH.fullmatch(text.lower())
    return f"{match['domain'] or '0000'}:{match['slot']}{match['function'] or ''}" if match else text


def _numbered(config: Row, prefix: str) -> Iterator[object]:
    return (value for key, value in sorted(config.items()) if re.fullmatch(rf"{prefix}\d+", key))


def _read(kind: Callable[[str], Any], value: object) -> Any:
    try:
        return kind(str(value)) if value else None
    except (AddressValueError, NetmaskValueError, ValueError):
        return None  # dhcp, manual, an IPv6 address


def _ip(value: object) -> IPv4Address | None:
    found: IPv4Address | None = _read(IPv4Address, value)
    return found


def _address(value: object) -> IPv4Interface | None:
    found: IPv4Interface | None = _read(IPv4Interface, value)
    return found


def _whole(value: object) -> int | None:
    """Return a whole number however it was written; numbers come as text at times."""
    try:
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return None


def _hex(value: object) -> str:
    return str(value or "").lower().removeprefix("0x")
