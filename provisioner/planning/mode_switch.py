"""What it takes to bring a node into another of its modes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import GpuRelease
from provisioner.domain.names import MappingId, ModeName
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import MappingSeen, Power, VmConfig, VmSeen
from provisioner.errors import InputError
from provisioner.planning.launches import Engines, unit_of


class SwitchKind(Enum):
    """How a node gets into a mode."""

    NOTE = "noted"
    """It is off: the next start brings the mode."""
    PROOF = "in place"
    """It is in that mode already."""
    MODELS = "models changed"
    """The same engine, started the same way, with other models in memory."""
    UNITS = "engine changed"
    RELEASE = "GPUs released"
    TAKE_BACK = "GPUs taken back"


@dataclass(frozen=True, slots=True)
class SwitchDecision:
    """What is to be done, and why no less does."""

    kind: SwitchKind
    reason: str


def require_mode(fleet: FleetSpec, node: NodeSpec, name: str) -> ModeName:
    """Return one of a node's modes. Raises InputError that lists them."""
    mode = ModeName(name)
    if mode in node.modes:
        return mode
    known = mode in fleet.modes or mode in fleet.releases
    found = f'mode "{name}" is not one of its modes' if known else f'there is no mode "{name}"'
    beside = f", or write {name} among the modes of {node.name}, and then: provisioner up {node.name}" if known else ""
    raise InputError(
        f"cannot switch the mode: {found}",
        subject=node.subject,
        next_step=f"use one of: {', '.join(node.modes)}{beside}",
    )


def switch_decision(
    fleet: FleetSpec, node: NodeSpec, engines: Engines, target: ModeName, power: Power, *, waits: bool
) -> SwitchDecision:
    """Say how a node gets into a mode.

    Args:
        fleet: what is wanted.
        node: the node, in the mode that is noted.
        engines: the descriptions of all engines.
        target: the mode it shall be in.
        power: whether its VM is on.
        waits: its guest does not know of the noted mode yet.
    """
    if target in fleet.releases:
        return SwitchDecision(SwitchKind.RELEASE, f'VM {fleet.releases[target].vmid} may run in mode "{target}"')
    released = fleet.release_of(node)
    if released is not None:
        return SwitchDecision(SwitchKind.TAKE_BACK, f"its GPUs are given to VM {released.vmid}")
    if power is not Power.RUNNING:
        return SwitchDecision(SwitchKind.NOTE, "the node is off: its next start brings the mode")
    if target == node.mode and not waits:
        return SwitchDecision(SwitchKind.PROOF, "it is in that mode already")
    old, new = (unit_of(fleet, node, engines, fleet.modes[name]) for name in (fleet.mode_of(node).name, target))
    if waits or old.name != new.name:
        return SwitchDecision(SwitchKind.UNITS, f"{old.service} stops and {new.service} starts")
    return SwitchDecision(SwitchKind.MODELS, f"{new.service} serves both modes: only its models change")


def may_hold_gpus(
    fleet: FleetSpec, node: NodeSpec, config: VmConfig, mappings: Mapping[MappingId, MappingSeen]
) -> bool:
    """Say whether a VM is made to hold one of a node's GPUs, through its mapping or by its address.

    Args:
        fleet: what is wanted.
        node: whose GPUs.
        config: the other VM's.
        mappings: those of the hypervisor that both are on.
    """
    wanted = {gpu.mapping for gpu in fleet.gpus_of(node)}
    addresses = {
        address
        for mapping in wanted
        if mapping in mappings
        for address in _addresses(mappings[mapping].entries, node.hypervisor)
    }
    return any(device.mapping in wanted or _slot(device.address) in addresses for device in config.devices)


def release_refusal(node: NodeSpec, release: GpuRelease, other: VmSeen | None) -> Refusal | None:
    """Return why a VM cannot be given a node's GPUs, by what it is; None if it can."""
    if other is None:
        return Refusal(f"there is no VM {release.vmid}", f'write the vmid that is meant under mode "{release.name}"')
    if other.is_container:
        return Refusal(f"{release.vmid} is a container", f'write the vmid of a VM under mode "{release.name}"')
    if other.hypervisor != node.hypervisor:
        return Refusal(
            f'VM {other.vmid} "{other.name}" is on {other.hypervisor}, and the GPUs are on {node.hypervisor}',
            f'move it to {node.hypervisor}, or write another vmid under mode "{release.name}"',
        )
    if other.lock is not None:
        return Refusal(
            f'VM {other.vmid} "{other.name}" is locked ({other.lock})',
            "wait for the backup, snapshot or migration that holds it",
        )
    return None


def take_back_refusal(node: NodeSpec, release: GpuRelease, other: VmSeen) -> Refusal | None:
    """Return why a VM that holds a node's GPUs is not to be shut down; None if it may be."""
    if release.may_shut_down or other.is_ours:
        return None
    return Refusal(
        f'VM {other.vmid} "{other.name}" runs with its GPUs, and it is not ours to shut down',
        f"shut it down in its own system, then run the same command again; or write may_shut_down: true under mode "
        f'"{release.name}": then it is shut down cleanly, and its power is never cut',
    )


def _addresses(entries: Iterable[str], hypervisor: str) -> Iterable[str]:
    for entry in entries:
        fields = dict(part.partition("=")[::2] for part in entry.split(","))
        if fields.get("node") == hypervisor:
            # A path may name several functions or cards.
            yield from (_slot(path) for path in fields.get("path", "").split(";"))


def _slot(address: str) -> str:
    """Return domain, bus and slot of an address; the function says nothing about whose card it is."""
    slot = address.partition(".")[0]
    return slot if slot.count(":") != 1 else f"0000:{slot}"
