"""What a cluster starts with: a small default one, or one described in a file."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from provisioner.lab.cluster import Cluster
from provisioner.lab.model import (
    AclEntry,
    Group,
    Guest,
    Node,
    Pool,
    Role,
    Storage,
    Token,
    User,
)
from provisioner.lab.model import (
    Mapping as PciMapping,
)

_NODE_KEYS = ("ip", "online", "bridges", "cidr", "gateway", "threads", "memory_bytes")

ROOT = "root@pam"
PROVISIONER = "provisioner@pve"
PROVISIONER_TOKEN = f"{PROVISIONER}!fleet"

_VM = (
    "VM.Allocate VM.Audit VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType"
    " VM.Config.Memory VM.Config.Network VM.Config.Options VM.PowerMgmt"
)
_AGENT = {8: "VM.Monitor", 9: "VM.GuestAgent.Audit VM.GuestAgent.Unrestricted"}


def least_privilege(major: int) -> dict[str, tuple[str, str, bool]]:
    """Return role to privileges, path and propagation: what a provisioner needs and nothing more."""
    return {
        "ProvisionerVM": (f"{_VM} {_AGENT[major]}", "/vms", True),
        "ProvisionerDisks": ("Datastore.AllocateSpace Datastore.Audit", "/storage/local-lvm", True),
        "ProvisionerImages": ("Datastore.Audit Datastore.AllocateTemplate", "/storage/local", True),
        "ProvisionerBridge": ("SDN.Use", "/sdn/zones/localnetwork/vmbr0", True),
        "ProvisionerGpu": ("Mapping.Use", "/mapping/pci/rtx3090", True),
        "ProvisionerNode": ("Sys.Audit Sys.AccessNetwork", "/nodes/pve1", True),
        "ProvisionerHost": ("Sys.Audit", "/", False),
    }


def load(cluster: Cluster, major: int, state: Mapping[str, Any] | None) -> None:
    """Fill an empty cluster."""
    if state is None:
        _default(cluster, major)
    else:
        _described(cluster, major, state)


def credentials(cluster: Cluster) -> dict[str, str]:
    """Return identity to password or token secret, for those that have one."""
    found = {user.name: user.password for user in cluster.users.values() if user.password}
    return {**found, **{token.name: token.secret for token in cluster.tokens.values()}}


def _default(cluster: Cluster, major: int) -> None:
    cluster.nodes.save(
        "pve1",
        Node(
            "pve1",
            # The guests' network; the server itself is reached at a loopback address.
            cidr="10.10.0.2/16",
            gateway="10.10.0.1",
            devices=[*_card(1, "2204", "1aef", "3095", 15), *_card(2, "2504", "228e", "2504", 16)],
        ),
    )
    files = ["iso", "vztmpl", "backup", "import", "snippets"]
    cluster.storages.save("local", Storage("local", "dir", files, {"path": "/var/lib/vz"}))
    pool: dict[str, object] = {"vgname": "pve", "thinpool": "data"}
    cluster.storages.save("local-lvm", Storage("local-lvm", "lvmthin", ["images", "rootdir"], pool))
    for name, bus, device, subsystem, group in (
        ("rtx3090", 1, "2204", "3095", 15),
        ("rtx3060", 2, "2504", "2504", 16),
    ):
        entry = f"id=10de:{device},iommugroup={group},node=pve1,path=0000:{bus:02x}:00,subsystem-id=10de:{subsystem}"
        cluster.mappings.save(name, PciMapping(name, [entry]))
    _add_user(cluster, ROOT)
    _add_user(cluster, PROVISIONER)
    _add_token(cluster, PROVISIONER_TOKEN, privsep=True)
    grants = []
    for role, (privileges, path, propagate) in least_privilege(major).items():
        cluster.roles.save(role, Role(role, privileges.split()))
        grants.append((role, path, propagate))
    grants.append(("ProvisionerGpu", "/mapping/pci/rtx3060", True))
    # Beyond the least: deleting the seed ISO of a destroyed node. Without it an ISO without a secret stays behind.
    cluster.roles.save("ProvisionerSeeds", Role("ProvisionerSeeds", ["Datastore.Allocate"]))
    grants.append(("ProvisionerSeeds", "/storage/local", True))
    for role, path, propagate in grants:
        for kind, who in (("user", PROVISIONER), ("token", PROVISIONER_TOKEN)):
            grant = AclEntry(path, kind, who, role, propagate)
            cluster.acl.save(grant.key, grant)


def _card(bus: int, gpu: str, audio: str, subsystem: str, group: int) -> Iterable[dict[str, object]]:
    names = {"2204": "GA102 [GeForce RTX 3090]", "2504": "GA106 [GeForce RTX 3060 Lite Hash Rate]"}
    for function, device, pci_class, name in (
        (0, gpu, "0x030000", names[gpu]),
        (1, audio, "0x040300", "High Definition Audio Controller"),
    ):
        yield {
            "address": f"0000:{bus:02x}:00.{function}",
            "vendor": "0x10de",
            "device": f"0x{device}",
            "subsystem_vendor": "0x10de",
            "subsystem_device": f"0x{subsystem}",
            "iommugroup": group,
            "class": pci_class,
            "vendor_name": "NVIDIA Corporation",
            "device_name": name,
        }


def _described(cluster: Cluster, major: int, state: Mapping[str, Any]) -> None:
    for name, node in state.get("nodes", {}).items():
        known = {key: node[key] for key in _NODE_KEYS if key in node}
        cluster.nodes.save(name, Node(name, **known, devices=state.get("pci", {}).get(name, [])))
    for name, storage in state.get("storage", {}).items():
        cluster.storages.save(name, _storage(name, dict(storage)))
    for name, mapping in state.get("mappings", {}).items():
        cluster.mappings.save(name, PciMapping(name, list(mapping["map"]), mapping.get("description")))
    for name, pool in state.get("pools", {}).items():
        cluster.pools.save(
            name, Pool(name, pool.get("comment"), list(pool.get("vms", [])), list(pool.get("storage", [])))
        )
    for key, guest in state.get("guests", {}).items():
        # The lab starts what was running once the backend is there; until then it only says that it was.
        run: dict[str, object] | None = {} if guest["status"] == "running" and guest["type"] == "qemu" else None
        cluster.guests.save(key, Guest(int(key), guest["node"], guest["type"], dict(guest["config"]), run=run))
    _identities(cluster, major, state)


def _identities(cluster: Cluster, major: int, state: Mapping[str, Any]) -> None:
    _add_user(cluster, ROOT)
    for name, comment in state.get("users", {}).items():
        _add_user(cluster, name, comment if isinstance(comment, str) else None)
    for name, members in state.get("groups", {}).items():
        cluster.groups.save(name, Group(name))
        for member in members:
            user = cluster.users[member]
            user.groups.append(name)
            cluster.users.save(member, user)
    for name, token in state.get("tokens", {}).items():
        _add_token(cluster, name, privsep=bool(token.get("privsep", 1)))
    by_version = state.get("roles", {})
    roles = next((found for version, found in by_version.items() if version.startswith(f"{major}.")), by_version)
    for name, privileges in roles.items():
        cluster.roles.save(name, Role(name, privileges.split(",")))
    for rule in state.get("acl", []):
        for who in rule["who"]:
            kind = "token" if "!" in who else "user" if "@" in who else "group"
            entry = AclEntry(rule["path"], kind, who.removeprefix("@"), rule["role"], bool(rule.get("propagate", True)))
            cluster.acl.save(entry.key, entry)


def _storage(name: str, fields: dict[str, Any]) -> Storage:
    nodes = fields.pop("nodes", None)
    return Storage(
        name,
        fields.pop("type"),
        list(fields.pop("content")),
        disabled=bool(fields.pop("disable", 0)),
        nodes=nodes.split(",") if isinstance(nodes, str) else nodes,
        total_bytes=fields.pop("total_bytes", None),
        options=fields,
    )


def _add_user(cluster: Cluster, name: str, comment: str | None = None) -> None:
    cluster.users.save(name, User(name, secrets.token_urlsafe(16), comment))


def _add_token(cluster: Cluster, name: str, *, privsep: bool) -> None:
    cluster.tokens.save(name, Token(name, str(uuid.uuid4()), privsep))
