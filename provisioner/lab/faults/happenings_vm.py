"""What befalls VMs and GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.lab.faults.adversity import HaResource
from provisioner.lab.faults.happening import happening
from provisioner.lab.model import Guest

if TYPE_CHECKING:
    from provisioner.lab.core import Lab


@happening
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


@happening
async def vm_deleted(lab: Lab, vmid: int) -> None:
    """Somebody deletes a VM with its disks."""
    await lab.backend.discard(vmid)
    for volume in list(lab.cluster.volumes.values()):
        if volume.vmid == vmid:
            lab.storages.free(volume.volid)
    lab.cluster.guests.remove(str(vmid))


@happening
async def vm_stopped(lab: Lab, vmid: int) -> None:
    """A VM loses its power."""
    await lab.backend.kill(vmid)


@happening
async def vm_started(lab: Lab, vmid: int) -> None:
    """Somebody starts a VM."""
    from provisioner.lab.vm.power import power_on

    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    if not lab.is_running(guest):
        await power_on(lab, guest)


@happening
async def vm_paused(lab: Lab, vmid: int) -> None:
    """Somebody pauses a running VM."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.paused = True
    lab.cluster.save_guest(guest)


@happening
async def vm_resumed(lab: Lab, vmid: int) -> None:
    """Somebody lets a paused VM go on."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.paused = False
    lab.cluster.save_guest(guest)


@happening
async def vm_changed(lab: Lab, vmid: int, key: str, value: str) -> None:
    """Somebody writes an option of a VM, such as ``lock: backup``, ``tags: mine``, ``protection: 1``."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.config[key] = value
    lab.cluster.save_guest(guest)


@happening
async def vm_option_removed(lab: Lab, vmid: int, key: str) -> None:
    """Somebody removes an option of a VM; a lock is taken off this way too."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.config.pop(key, None)
    lab.cluster.save_guest(guest)


@happening
async def vm_moved(lab: Lab, vmid: int, node: str) -> None:
    """A VM migrates to another server."""
    guest = lab.cluster.guests.get(str(vmid))
    if guest is None:
        return
    guest.node = node
    lab.cluster.save_guest(guest)


@happening
async def ha_managed(lab: Lab, vmid: int, state: str = "started", acts: int = 1) -> None:
    """A VM comes under high availability; with `acts` 0, or in state error, its manager does not act on requests."""
    lab.adversity.ha[vmid] = HaResource(state, bool(acts) and state != "error")


@happening
async def ha_released(lab: Lab, vmid: int) -> None:
    """A VM is taken out of high availability."""
    lab.adversity.ha.pop(vmid, None)


@happening
async def gpu_taken(lab: Lab, mapping: str = "rtx3090", by: int = 200, name: str = "windows") -> None:
    """Another VM, not ours, starts with a card."""
    if str(by) not in lab.cluster.guests:
        config = {"name": name, "memory": "1024", "machine": "q35", "hostpci0": f"mapping={mapping},pcie=1"}
        lab.cluster.save_guest(Guest(by, "pve1", config=config))
    await vm_started(lab, by)


@happening
async def gpu_reserved(lab: Lab, address: str = "0000:01:00.0", by: int = 200, node: str = "pve1") -> None:
    """Another VM is about to start with a card."""
    lab.pci.reserved[node, address] = by


@happening
async def gpu_unreserved(lab: Lab, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """It has thought better of it."""
    lab.pci.reserved.pop((node, address), None)


@happening
async def gpu_stuck(lab: Lab, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """A card does not come back from its last VM: it cannot be reset, and no VM starts with it."""
    lab.pci.stuck.add((node, address))


@happening
async def gpu_unstuck(lab: Lab, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """The server was power-cycled, and the card is fine again."""
    lab.pci.stuck.discard((node, address))


@happening
async def iommu_group_moved(lab: Lab, group: int, address: str = "0000:01:00.0", node: str = "pve1") -> None:
    """A card shows up in another IOMMU group, as after a kernel or firmware update."""
    found = lab.cluster.nodes[node]
    for device in found.devices:
        if device["address"] == address:
            device["iommugroup"] = group
    lab.cluster.nodes.save(node, found)


@happening
async def gpu_pulled(lab: Lab, bus: str = "0000:01:00", node: str = "pve1") -> None:
    """A card is taken out of its slot."""
    found = lab.cluster.nodes[node]
    found.devices = [device for device in found.devices if not str(device["address"]).startswith(bus)]
    lab.cluster.nodes.save(node, found)


@happening
async def mapping_deleted(lab: Lab, mapping: str = "rtx3090") -> None:
    """Somebody deletes a PCI mapping."""
    lab.cluster.mappings.remove(mapping)
