"""Proxmox's answers about users, roles, rules, mappings and storages, in our words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provisioner.adapters.proxmox.property_strings import parts_of
from provisioner.domain.access import (
    HolderKind,
    MapEntry,
    MappableDevice,
    PciMapping,
    RoleSeen,
    Rule,
    StorageDefinition,
    TokenSeen,
    UserSeen,
)
from provisioner.domain.names import MappingId

Row = Mapping[str, Any]


def roles(rows: Iterable[Row]) -> dict[str, RoleSeen]:
    """Read ``GET /access/roles``."""
    return {
        str(row["roleid"]): RoleSeen(frozenset(_listed(row.get("privs"))), is_builtin=_is_on(row.get("special")))
        for row in rows
    }


def users(rows: Iterable[Row], *, now: float) -> dict[str, UserSeen]:
    """Read ``GET /access/users?full=1``. What has expired counts as disabled."""
    return {
        str(row["userid"]): UserSeen(
            comment=str(row.get("comment") or ""),
            is_enabled=_is_on(row.get("enable", 1)) and not 0 < int(row.get("expire") or 0) <= now,
            groups=frozenset(_listed(row.get("groups"))),
            tokens={str(token["tokenid"]): _token(token) for token in row.get("tokens") or ()},
        )
        for row in rows
    }


def rules(rows: Iterable[Row]) -> tuple[Rule, ...]:
    """Read ``GET /access/acl``, in an order of its own: Proxmox's changes from call to call."""
    found = (
        Rule(
            path=str(row["path"]),
            kind=HolderKind(str(row["type"])),
            holder=str(row["ugid"]),
            role=str(row["roleid"]),
            propagates=_is_on(row.get("propagate", 1)),
        )
        for row in rows
    )
    return tuple(sorted(found, key=lambda rule: (rule.path, rule.role, rule.kind.value, rule.holder)))


def mapping(row: Row) -> PciMapping:
    """Read one mapping of ``GET /cluster/mapping/pci``."""
    return PciMapping(
        entries=tuple(
            MapEntry({key: value for key, value in parts_of(text, "").items() if key}) for text in row.get("map") or ()
        ),
        description=str(row.get("description") or ""),
    )


def mapping_errors(row: Row) -> tuple[str, ...]:
    """Read what Proxmox finds wrong with a mapping's entries; that there is no entry is no error."""
    return tuple(str(check["message"]).strip() for check in row.get("checks") or () if check.get("severity") == "error")


def device(row: Row) -> MappableDevice:
    """Read one device of ``GET /nodes/{node}/hardware/pci``."""
    subsystem = (_bare(row.get("subsystem_vendor")), _bare(row.get("subsystem_device")))
    return MappableDevice(
        address=str(row["id"]),
        class_code=_bare(row.get("class"))[:4],
        vendor=_bare(row.get("vendor")),
        device=_bare(row.get("device")),
        subsystem=":".join(subsystem) if all(subsystem) else None,
        iommu_group=int(row.get("iommugroup", -1)),
        name=str(row.get("device_name") or ""),
        has_mediated_types=_is_on(row.get("mdev")),
    )


def mappings_of_vm(config: Row) -> Iterator[MappingId]:
    """Yield the mappings that a VM's configuration names."""
    for key, value in config.items():
        if key.startswith("hostpci") and (name := parts_of(value, "host").get("mapping")):
            yield MappingId(name)


def storage(row: Row) -> StorageDefinition:
    """Read one storage of ``GET /storage``. Proxmox gives its content in any order."""
    return StorageDefinition(str(row.get("type", "")), tuple(sorted(_listed(row.get("content")))))


def _token(row: Row) -> TokenSeen:
    return TokenSeen(is_separated=_is_on(row.get("privsep", 1)), comment=str(row.get("comment") or ""))


def _listed(value: object) -> list[str]:
    return [part for part in str(value or "").split(",") if part]


def _is_on(value: object) -> bool:
    return str(value or 0) not in ("0", "False")


def _bare(value: object) -> str:
    return str(value or "").removeprefix("0x")
