"""Puts everything right that any fault may have left behind, as an admin would: the server, never our own traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioner.lab.initial import PROVISIONER_TOKEN
from provisioner.lab.model import Role
from tests.lab.faults.bench import VMID, Yard
from tests.lab.faults.cases_api import api_back, write_secret
from tests.lab.faults.cases_gpu import group_back, mapping_back
from tests.lab.faults.cases_tasks import abort_all
from tests.lab.support import NODE


@dataclass
class Order:
    """How a yard was before anything went wrong."""

    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, yard: Yard) -> Order:
        """Remember what cannot be told afterwards."""
        return cls({role.name: tuple(role.privileges) for role in yard.lab.lab.cluster.roles.values()})

    def restore(self, yard: Yard) -> None:
        """Mend the server, the cluster and the VM; take away what is somebody else's on our VMID."""
        lab = yard.lab
        lab.faults.clear()
        api_back(yard)
        abort_all(yard)
        yard.rest()
        for name, arguments in (
            ("quorum_back", {}),
            ("node_online", {}),
            ("storage_online", {"storage": "local"}),
            ("storage_online", {"storage": "local-lvm"}),
            ("storage_emptied", {"storage": "local"}),
            ("storage_emptied", {"storage": "local-lvm"}),
            ("vm_deleted", {"vmid": 200}),
            ("gpu_unreserved", {}),
            ("gpu_unstuck", {}),
            ("ha_released", {"vmid": VMID}),
            ("vm_resumed", {"vmid": VMID}),
            ("vm_option_removed", {"vmid": VMID, "key": "protection"}),
        ):
            lab.befall(name, **arguments)
        group_back(yard)
        mapping_back(yard)
        for name, privileges in self.roles.items():
            lab.lab.cluster.roles.save(name, Role(name, list(privileges)))
        lab.lab.access.changed()
        if PROVISIONER_TOKEN in lab.credentials:
            write_secret(yard)
        self._mend_vm(yard)

    @staticmethod
    def _mend_vm(yard: Yard) -> None:
        guest = yard.ours()
        if guest is None:
            return
        if guest.config.get("lock") == "create" or guest.config.get("name") != NODE:
            # Half made by a worker that was killed, or another writer's: what our next step asks a person to do.
            yard.lab.befall("vm_deleted", vmid=VMID)
            return
        guest.config.pop("lock", None)
        guest.config["tags"] = "provisioner"
        yard.lab.lab.cluster.save_guest(guest)
        backend = yard.lab.lab.backend
        if backend.is_running(VMID) and backend._running[VMID].faults:  # type: ignore[attr-defined]
            yard.lab.befall("vm_stopped", vmid=VMID)
