"""The cluster as a whole: every table, and the little that spans several."""

from __future__ import annotations

from provisioner.lab.model import (
    AclEntry,
    Group,
    Guest,
    Mapping,
    Node,
    Pool,
    Role,
    Storage,
    TaskRecord,
    Token,
    User,
    Volume,
)
from provisioner.lab.refusals import Refusal, failed
from provisioner.lab.store import Store, Table


class Cluster:
    """All tables of one lab."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.nodes = Table(store, "node", Node)
        self.storages = Table(store, "storage", Storage)
        self.volumes = Table(store, "volume", Volume)
        self.guests = Table(store, "guest", Guest)
        self.mappings = Table(store, "mapping", Mapping)
        self.pools = Table(store, "pool", Pool)
        self.users = Table(store, "user", User)
        self.tokens = Table(store, "token", Token)
        self.groups = Table(store, "group", Group)
        self.roles = Table(store, "role", Role)
        self.acl = Table(store, "acl", AclEntry)
        self.tasks = Table(store, "task", TaskRecord)

    @property
    def is_new(self) -> bool:
        """Say whether nothing was ever loaded."""
        return len(self.nodes) == 0

    def node(self, name: str) -> Node:
        """Return a node that answers. Raises Refusal the way the proxy in front of the nodes does."""
        found = self.nodes.get(name)
        if found is None:
            raise failed(
                f"hostname lookup '{name}' failed - failed to get address info for: {name}: Name or service not known"
            )
        if not found.online:
            raise Refusal(595, "No route to host")
        return found

    def vm(self, node: str, vmid: int) -> Guest:
        """Return a VM of a node. Raises Refusal with the text for a missing configuration."""
        found = self.guests.get(str(vmid))
        if found is None or found.node != node or found.kind != "qemu":
            raise failed(f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
        return found

    def existing_vm(self, node: str, vmid: int) -> Guest:
        """Return a VM for calls that look for the running machine first, and say so in other words."""
        found = self.guests.get(str(vmid))
        if found is None or found.node != node or found.kind != "qemu":
            raise failed(f"unable to find configuration file for VM {vmid} on node '{node}'")
        return found

    def storage(self, name: str) -> Storage:
        """Return a storage. Raises Refusal."""
        found = self.storages.get(name)
        if found is None:
            raise failed(f"storage '{name}' does not exist")
        return found

    def pool_of(self, vmid: int) -> str | None:
        """Return the pool a guest is in."""
        return next((pool.name for pool in self.pools.values() if vmid in pool.vms), None)

    def save_guest(self, guest: Guest) -> None:
        """Keep a changed guest."""
        self.guests.save(str(guest.vmid), guest)
