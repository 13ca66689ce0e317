"""What befalls logins, servers, storages and the cluster as a whole."""

from __future__ import annotations

import fnmatch
import secrets
import uuid
from typing import TYPE_CHECKING

from provisioner.lab.faults.happening import happening

if TYPE_CHECKING:
    from provisioner.lab.core import Lab


# Who may


@happening
async def token_rotated(lab: Lab, token: str = "provisioner@pve!fleet") -> None:  # noqa: S107 - a name
    """A token gets a new secret."""
    found = lab.cluster.tokens[token]
    found.secret = str(uuid.uuid4())
    lab.cluster.tokens.save(token, found)


@happening
async def token_revoked(lab: Lab, token: str = "provisioner@pve!fleet") -> None:  # noqa: S107 - a name
    """A token is deleted."""
    lab.cluster.tokens.remove(token)


@happening
async def privilege_lost(lab: Lab, privilege: str) -> None:
    """A privilege disappears from every role that was made here."""
    for role in lab.cluster.roles.values():
        if privilege in role.privileges:
            role.privileges = [each for each in role.privileges if each != privilege]
            lab.cluster.roles.save(role.name, role)
    lab.access.changed()


# Servers and the cluster


@happening
async def node_offline(lab: Lab, node: str = "pve1") -> None:
    """A server stops answering the others; its VMs run on, unseen."""
    await _set_online(lab, node, online=False)


@happening
async def node_online(lab: Lab, node: str = "pve1") -> None:
    """A server is back."""
    await _set_online(lab, node, online=True)


@happening
async def node_rebooted(lab: Lab, node: str = "pve1") -> None:
    """A server restarts: its guests lose power, its tasks end without a word, stuck cards are fine again."""
    for guest in lab.cluster.guests.values():
        if guest.node == node and lab.is_running(guest):
            await lab.backend.kill(guest.vmid)
    lab.pci.stuck = {card for card in lab.pci.stuck if card[0] != node}
    # Last: the task on whose way this happens dies too.
    await lab.tasks.die(node)


@happening
async def workers_killed(lab: Lab, node: str = "pve1") -> None:
    """The workers of a server's tasks are killed, as by one that runs out of memory; its guests run on."""
    await lab.tasks.die(node)


@happening
async def quorum_lost(lab: Lab) -> None:
    """Most servers are out of sight; the cluster can be read and not changed."""
    lab.adversity.has_quorum = False


@happening
async def quorum_back(lab: Lab) -> None:
    """They are in sight again."""
    lab.adversity.has_quorum = True


@happening
async def clock_jumps(lab: Lab, seconds: float) -> None:
    """The server's clock is set forward, or back by a negative number."""
    lab.adversity.clock_offset_seconds += seconds


@happening
async def api_restarts(lab: Lab, seconds: float = 0.2) -> None:
    """The API's server restarts: connections are cut, new ones are refused for a while, tickets are worth nothing."""
    lab.forget_tickets(secrets.token_bytes(32))
    await lab.front.restart(seconds)


@happening
async def certificate_renewed(lab: Lab) -> None:
    """The server shows another certificate from the next connection on."""
    await lab.front.renew_certificate()


# Storages


@happening
async def storage_offline(lab: Lab, storage: str) -> None:
    """A storage does not answer."""
    lab.storages.away.add(storage)


@happening
async def storage_online(lab: Lab, storage: str) -> None:
    """It answers again."""
    lab.storages.away.discard(storage)


@happening
async def storage_full(lab: Lab, storage: str, free: int = 0) -> None:
    """A storage has no more than `free` bytes left."""
    found = lab.cluster.storage(storage)
    found.total_bytes = lab.storages.used_bytes(found) + free
    lab.cluster.storages.save(storage, found)


@happening
async def storage_emptied(lab: Lab, storage: str) -> None:
    """There is room again, without end."""
    found = lab.cluster.storage(storage)
    found.total_bytes = None
    lab.cluster.storages.save(storage, found)


@happening
async def volume_deleted(lab: Lab, volume: str) -> None:
    """Somebody deletes a file or disk, such as ``local:iso/seed.iso``, or all that match ``local:iso/*-seed.iso``."""
    there = [entry.volid for storage in lab.cluster.storages.values() for entry in lab.storages.content(storage)]
    for found in fnmatch.filter(dict.fromkeys(there), volume) or [volume]:
        lab.storages.free(found)


async def _set_online(lab: Lab, node: str, *, online: bool) -> None:
    found = lab.cluster.nodes[node]
    found.online = online
    lab.cluster.nodes.save(node, found)
