"""PCI devices, mappings to them, and which running VM holds which.

Any number of VMs may name a device; only one that runs may hold it. Validity of
a mapping is looked at when a VM starts, never before.
"""

from __future__ import annotations

from collections.abc import Mapping as ReadMapping
from dataclasses import dataclass

from provisioner.lab.cluster import Cluster
from provisioner.lab.model import Mapping
from provisioner.lab.refusals import failed

Device = ReadMapping[str, object]


@dataclass(frozen=True, slots=True)
class Passthrough:
    """One ``hostpciN`` with the functions it was given."""

    key: str
    addresses: tuple[str, ...]


class PciDevices:
    """The devices of all nodes and who holds them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._held: dict[tuple[str, str], int] = {}
        self.reserved: dict[tuple[str, str], int] = {}
        """Devices that a VM about to start has asked for, by node and address."""
        self.stuck: set[tuple[str, str]] = set()
        """Devices that did not come back from their last VM."""
        for guest in cluster.guests.values():
            run = guest.run or {}
            addresses = run.get("pci")
            if isinstance(addresses, list):
                self._held.update({(guest.node, str(address)): guest.vmid for address in addresses})

    def holder(self, node: str, address: str) -> int | None:
        """Return the VM that holds a device."""
        return self._held.get((node, address))

    def release(self, vmid: int) -> None:
        """Free everything a VM held."""
        self._held = {device: holder for device, holder in self._held.items() if holder != vmid}

    def entry_problem(self, node: str, entry: ReadMapping[str, str], mapping: Mapping) -> str | None:
        """Return what is wrong with an entry of a mapping on a node, in Proxmox's words."""
        for index, path in enumerate(entry.get("path", "").split(";")):
            functions = self._functions(node, path)
            if not functions:
                return f"no PCI device found for '{path}'" if path else "no path"
            problem = self._mismatch(functions[0], entry, path, mapping, is_first=index == 0)
            if problem is not None:
                return problem
        return None

    def reserve(self, node: str, vmid: int, wanted: ReadMapping[str, ReadMapping[str, str]]) -> list[Passthrough]:
        """Give a starting VM its devices, all or none. Raises Refusal."""
        taken: list[Passthrough] = []
        mine: set[str] = set()
        for key, parts in wanted.items():
            choices = self._choices(node, parts)
            addresses = self._first_free(node, vmid, key, choices, mine)
            mine.update(addresses)
            taken.append(Passthrough(key, addresses))
        for passthrough in taken:
            for address in passthrough.addresses:
                self._held[node, address] = vmid
        return taken

    def _choices(self, node: str, parts: ReadMapping[str, str]) -> list[tuple[str, ...]]:
        if "mapping" not in parts:
            return [self._addresses(node, parts.get("host", ""))]
        name = parts["mapping"]
        mapping = self._cluster.mappings.get(name)
        if mapping is None:
            raise failed(f"PCI device mapping not found for '{name}'")
        entries = [entry for entry in map(entry_parts, mapping.map) if entry.get("node") == node]
        if not entries:
            raise failed(f"PCI device mapping not found for '{name}'")
        choices = []
        for entry in entries:
            problem = self.entry_problem(node, entry, mapping)
            if problem is not None:
                raise failed(f"PCI device mapping invalid (hardware probably changed): {problem}")
            choices.append(self._addresses(node, entry["path"]))
        return choices

    def _first_free(
        self, node: str, vmid: int, key: str, choices: list[tuple[str, ...]], mine: set[str]
    ) -> tuple[str, ...]:
        for addresses in choices:
            if not any(address in mine or self._owner(node, address, vmid) != vmid for address in addresses):
                return addresses
        if len(choices) > 1:
            raise failed(f"could not find a free device for '{key}'")
        for address in choices[0]:
            if address in mine:
                raise failed(f"device '{address}' assigned more than once")
            holder = self._held.get((node, address), vmid)
            if holder != vmid:
                raise failed(f"PCI device '{address}' already in use by VMID '{holder}'")
            holder = self.reserved.get((node, address), vmid)
            if holder != vmid:
                raise failed(f"PCI device '{address}' is currently reserved for use by VMID '{holder}'")
        raise failed(f"could not find a free device for '{key}'")

    def _owner(self, node: str, address: str, vmid: int) -> int:
        return self._held.get((node, address), self.reserved.get((node, address), vmid))

    def _addresses(self, node: str, paths: str) -> tuple[str, ...]:
        found: list[str] = []
        for path in paths.split(";"):
            functions = self._functions(node, path)
            if not functions:
                raise failed(f"no PCI device found for '{path}'")
            if any(device.get("iommugroup", -1) == -1 for device in functions):
                raise failed("cannot prepare PCI pass-through, IOMMU not present")
            found += [str(device["address"]) for device in functions]
        return tuple(found)

    def _functions(self, node: str, path: str) -> list[Device]:
        full = path if path.count(":") == 2 else f"0000:{path}"
        devices = self._cluster.nodes[node].devices if node in self._cluster.nodes else []
        if "." in full:
            return [device for device in devices if device["address"] == full]
        return [device for device in devices if str(device["address"]).startswith(f"{full}.")]

    def _mismatch(
        self, device: Device, entry: ReadMapping[str, str], path: str, mapping: Mapping, *, is_first: bool
    ) -> str | None:
        configured = {**entry, "mdev": str(int(bool(mapping.mdev)))}
        for name, actual in sorted({**device_facts(device), "mdev": str(int(bool(device.get("mdev"))))}.items()):
            if name == "iommugroup" and not is_first:
                continue
            said = configured.get(name)
            if said is None and actual is not None:
                return f"missing expected property '{name}' for device '{path}'"
            if said is not None and actual is None:
                return f"unexpected property '{name}' configured for device '{path}'"
            if said != actual:
                return f"'{name}' does not match for '{mapping.name}' ({actual} != {said})"
        return None


def device_facts(device: Device) -> dict[str, str | None]:
    """Return what a mapping entry must say about a device."""

    def bare(key: str) -> str:
        return str(device.get(key, "")).removeprefix("0x")

    group = device.get("iommugroup", -1)
    has_subsystem = bool(device.get("subsystem_vendor")) and bool(device.get("subsystem_device"))
    return {
        "id": f"{bare('vendor')}:{bare('device')}",
        "iommugroup": None if group == -1 else str(group),
        "subsystem-id": f"{bare('subsystem_vendor')}:{bare('subsystem_device')}" if has_subsystem else None,
    }


def entry_parts(text: str) -> dict[str, str]:
    """Take a ``map`` entry apart."""
    return {key: value for key, _, value in (part.partition("=") for part in text.split(",")) if key}


def mapping_view(mapping: Mapping) -> dict[str, object]:
    """Return a mapping as the API shows it."""
    view: dict[str, object] = {"id": mapping.name, "map": sorted(mapping.map), "type": "pci"}
    if mapping.description is not None:
        view["description"] = mapping.description
    if mapping.mdev is not None:
        view["mdev"] = int(mapping.mdev)
    if mapping.live_migration_capable is not None:
        view["live-migration-capable"] = int(mapping.live_migration_capable)
    return view
