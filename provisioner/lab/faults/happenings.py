"""Things that befall a cluster while somebody works with it, each by a name that a fault plan may use.

Every one is a coroutine over the lab with named arguments; where things can be
mended there is an opposite. They change the lab's own state, so that whatever
comes afterwards is answered as the real thing would. What cannot happen, to a
VM that is not there or with a card that is taken, does not.
"""

from __future__ import annotations

import inspect
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from provisioner.lab.faults.adversity import HaResource
from provisioner.lab.model import Guest

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

HAPPENINGS: dict[str, Callable[..., Awaitable[None]]] = {}
_TYPES: Mapping[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "float": (int, float)}


def _happening(act: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    HAPPENINGS[act.__name__] = act
    return act


def arguments_of(name: str) -> dict[str, bool]:
    """Return the arguments of a happening, and whether each is needed."""
    parameters = list(inspect.signature(HAPPENINGS[name]).parameters.values())[1:]
    return {each.name: each.default is inspect.Parameter.empty for each in parameters}


def wrong_argument(name: str, given: Mapping[str, object]) -> str | None:
    """Return what is wrong with the first argument of a wrong type, if there is one."""
    parameters = inspect.signature(HAPPENINGS[name]).parameters
    for key, value in given.items():
        kind = str(parameters[key].annotation)
        if isinstance(value, bool) or not isinstance(value, _TYPES[kind]):
            return f"{key} is {'a number' if kind != 'str' else 'a text'}, not {value!r}"
    return None


# VMs


@_happening
async def vmid_taken(lab: Lab, vmid: int, name: str = "nextcloud", kind: str = "vm", node: str = "pve1") -> None:
    """Another writer makes a VM, a template (`kind` template) or a container (`kind` container) with this id."""
    if str(vmid) in lab.cluster.guests:
        return
    if kind == "container":
        lab.cluster.save_guest(Guest(vmid, node, "lxc", {"hostname": name}))
        return
    config = {"name": name, "memory": "512"}
    if kind == "template":
        config["template"] = "1"
    lab.cluster.save_guest(Guest(vmid, node, config=config))


@_happening
async def vm_deleted(lab: Lab, vmid: int) -> None:
    """Somebody deletes a VM with its disks."""
    await lab.backend.discard(vmid)
    for volume in list(lab.cluster.volumes.values()):
        if volume.vmid == vmid:
            lab.storages.free(volume.volid)
    lab.cluster.guests.remove(str(vmid))


@_happening
async def vm_stopped(lab: Lab, vmid: int) -> None:
    """A VM loses its power."""
    await lab.backend.kill(vmid)


@_happening
async def vm_started(lab: Lab, vmid: int) -> None:
    """Somebody starts a VM."""
    from provisioner.lab.vm.power import power_on

    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    if not lab.is_running(guest):
        await power_on(lab, guest)


@_happening
async def vm_paused(lab: Lab, vmid: int) -> None:
    """Somebody pauses a running VM."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.paused = True
    lab.cluster.save_guest(guest)


@_happening
async def vm_resumed(lab: Lab, vmid: int) -> None:
    """Somebody lets a paused VM go on."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.paused = False
    lab.cluster.save_guest(guest)


@_happening
async def vm_changed(lab: Lab, vmid: int, key: str, value: str) -> None:
    """Somebody writes an option of a VM, such as ``lock: backup``, ``tags: mine``, ``protection: 1``."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.config[key] = value
    lab.cluster.save_guest(guest)


@_happening
async def vm_option_removed(lab: Lab, vmid: int, key: str) -> None:
    """Somebody removes an option of a VM; a lock is taken off this way too."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.config.pop(key, None)
    lab.cluster.save_guest(guest)


@_happening
async def vm_moved(lab: Lab, vmid: int, node: str) -> None:
    """A VM migrates to another server."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.node = node
    lab.cluster.save_guest(guest)


@_happening
async def ha_managed(lab: Lab, vmid: int, state: str = "started", acts: int = 1) -> None:
    """A VM comes under high availability; with `acts` 0, or in state error, its manager does not act on requests."""
    lab.adversity.ha[vmid] = HaResource(state, bool(acts) and state != "error")


@_happening
async def ha_released(lab: Lab, vmid: int) -> None:
    """A VM is taken out of high availability."""
    lab.adversity.ha.pop(vmid, None)


# GPUs


@_happening
async def gpu_taken(lab: Lab, mapping: str = "rtx3090", by: int = 200, name: str = "windows") -> None:
    """Another VM, not ours, starts with a card."""
    if str(by) not in lab.cluster.guests:
        config = {"name": name, "memory": "1024", "machine": "q35", "hostpci0": f"mapping={mapping},pcie=1"}
        lab.cluster.save_guest(Guest(by, "pve1", config=config))
    await vm_started(lab, by)


@_happening
async def gpu_reserved(lab: Lab, address: str = "0000:01:00.0", by: int = 200, node: str = "pve1") -> None:
    """Another VM is about to start with a card."""
    lab.pci.reserved[node, address] = by


@_happening
async def gpu_unreserved(lab: Lab, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """It has thought better of it."""
    lab.pci.reserved.pop((node, address), None)


@_happening
async def gpu_stuck(lab: Lab, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """A card does not come back from its last VM: it cannot be reset, and no VM starts with it."""
    lab.pci.stuck.add((node, address))


@_happening
async def gpu_unstuck(lab: Lab, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """The server was power-cycled, and the card is fine again."""
    lab.pci.stuck.discard((node, address))


@_happening
async def iommu_group_moved(lab: Lab, group: int, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """A card shows up in another IOMMU group, as after a kernel or firmware update."""
    found = lab.cluster.nodes[node]
    for device in found.devices:
        if device["address"] == address:
            device["iommugroup"] = group
    lab.cluster.nodes.save(node, found)


@_happening
async def gpu_pulled(lab: Lab, bus: str = "0000:01:00", node: str = "pve1") -> None:
    """A card is taken out of its slot."""
    found = lab.cluster.nodes[node]
    found.devices = [device for device in found.devices if not str(device["address"]).startswith(bus)]
    lab.cluster.nodes.save(node, found)


@_happening
async def mapping_deleted(lab: Lab, mapping: str = "rtx3090") -> None:
    """Somebody deletes a PCI mapping."""
    lab.cluster.mappings.remove(mapping)


# Who may


@_happening
async def token_rotated(lab: Lab, token: str = "provisioner@pve!fleet") -> None:  # noqa: S107 - a name
    """A token gets a new secret."""
    found = lab.cluster.tokens[token]
    found.secret = str(uuid.uuid4())
    lab.cluster.tokens.save(token, found)


@_happening
async def token_revoked(lab: Lab, token: str = "provisioner@pve!fleet") -> None:  # noqa: S107 - a name
    """A token is deleted."""
    lab.cluster.tokens.remove(token)


@_happening
async def privilege_lost(lab: Lab, privilege: str) -> None:
    """A privilege disappears from every role that was made here."""
    for role in lab.cluster.roles.values():
        if privilege in role.privileges:
            role.privileges = [each for each in role.privileges if each != privilege]
            lab.cluster.roles.save(role.name, role)
    lab.access.changed()


# Servers and the cluster


@_happening
async def node_offline(lab: Lab, node: str = "pve1") -> None:
    """A server stops answering the others; its VMs run on, unseen."""
    await _set_online(lab, node, online=False)


@_happening
async def node_online(lab: Lab, node: str = "pve1") -> None:
    """A server is back."""
    await _set_online(lab, node, online=True)


@_happening
async def node_rebooted(lab: Lab, node: str = "pve1") -> None:
    """A server restarts: its guests lose power, its tasks end without a word, stuck cards are fine again."""
    for guest in lab.cluster.guests.values():
        if guest.node == node and lab.is_running(guest):
            await lab.backend.kill(guest.vmid)
    lab.pci.stuck = {card for card in lab.pci.stuck if card[0] != node}
    # Last: the task on whose way this happens dies too.
    await lab.tasks.die(node)


@_happening
async def workers_killed(lab: Lab, node: str = "pve1") -> None:
    """The workers of a server's tasks are killed, as by one that runs out of memory; its guests run on."""
    await lab.tasks.die(node)


@_happening
async def quorum_lost(lab: Lab) -> None:
    """Most servers are out of sight; the cluster can be read and not changed."""
    lab.adversity.has_quorum = False


@_happening
async def quorum_back(lab: Lab) -> None:
    """They are in sight again."""
    lab.adversity.has_quorum = True


@_happening
async def clock_jumps(lab: Lab, seconds: float) -> None:
    """The server's clock is set forward, or back by a negative number."""
    lab.adversity.clock_offset_seconds += seconds


@_happening
async def api_restarts(lab: Lab, seconds: float = 0.2) -> None:
    """The API's server restarts: connections are cut, new ones are refused for a while, tickets are worth nothing."""
    lab.forget_tickets(secrets.token_bytes(32))
    await lab.front.restart(seconds)


@_happening
async def certificate_renewed(lab: Lab) -> None:
    """The server shows another certificate from the next connection on."""
    await lab.front.renew_certificate()


# Storages


@_happening
async def storage_offline(lab: Lab, storage: str) -> None:
    """A storage does not answer."""
    lab.storages.away.add(storage)


@_happening
async def storage_online(lab: Lab, storage: str) -> None:
    """It answers again."""
    lab.storages.away.discard(storage)


@_happening
async def storage_full(lab: Lab, storage: str, free: int = 0) -> None:
    """A storage has no more than `free` bytes left."""
    found = lab.cluster.storage(storage)
    found.total_bytes = lab.storages.used_bytes(found) + free
    lab.cluster.storages.save(storage, found)


@_happening
async def storage_emptied(lab: Lab, storage: str) -> None:
    """There is room again, without end."""
    found = lab.cluster.storage(storage)
    found.total_bytes = None
    lab.cluster.storages.save(storage, found)


@_happening
async def volume_deleted(lab: Lab, volume: str) -> None:
    """Somebody deletes a file or disk, such as ``local:iso/seed.iso``."""
    lab.storages.free(volume)


async def _set_online(lab: Lab, node: str, *, online: bool) -> None:
    found = lab.cluster.nodes[node]
    found.online = online
    lab.cluster.nodes.save(node, found)
