"""A cluster's rights as plain values, and what becomes of them when the steps of a plan are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from provisioner.domain.access import (
    MARK,
    AccessSeen,
    HolderKind,
    MapEntry,
    MappableDevice,
    PciMapping,
    RoleSeen,
    Rule,
    SecretSeen,
    SecretState,
    StorageDefinition,
    TokenSeen,
    UserSeen,
)
from provisioner.domain.access_plan import AccessPlan, AccessStep, Secret
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid

PVE1 = HypervisorName("pve1")
USER, TOKEN = "provisioner@pve", "provisioner@pve!fleet"
RTX3090 = MappableDevice("0000:01:00.0", "0300", "10de", "2204", "10de:3095", 15, "GA102 [GeForce RTX 3090]")
SOUND = MappableDevice("0000:01:00.1", "0403", "10de", "1aef", "10de:3095", 15, "High Definition Audio Controller")
BMC = MappableDevice("0000:02:00.0", "0300", "1a03", "2000", "1a03:2000", 20, "ASPEED Graphics Family")
RTX3060 = MappableDevice("0000:0a:00.0", "0300", "10de", "2504", "10de:2504", 16, "GA106 [GeForce RTX 3060]")
ENTRY = "node=pve1,path=0000:01:00,id=10de:2204,iommugroup=15,subsystem-id=10de:3095"
FILE = Path("/srv/secret")
NO_FILE = SecretSeen(SecretState.ABSENT, f"file:{FILE}", FILE)
WORKS = SecretSeen(SecretState.ACCEPTED, f"file:{FILE}", FILE)

BARE = AccessSeen(
    major=9,
    roles={"Administrator": RoleSeen(frozenset({"VM.Audit", "Sys.Modify"}), is_builtin=True)},
    users={"root@pam": UserSeen()},
    rules=(),
    mappings={},
    devices={PVE1: (RTX3090, SOUND, BMC)},
    storages={
        StorageName("local"): StorageDefinition("dir", ("iso", "vztmpl", "backup")),
        StorageName("local-lvm"): StorageDefinition("lvmthin", ("rootdir", "images")),
    },
    secret=NO_FILE,
)


def entry(text: str) -> MapEntry:
    return MapEntry(dict(part.split("=", 1) for part in text.split(",")))


def mapping(
    *entries: str, ours: bool = True, problems: tuple[str, ...] = (), used_by: tuple[int, ...] = ()
) -> PciMapping:
    return PciMapping(
        tuple(map(entry, entries)), MARK if ours else "", {PVE1: problems}, tuple(Vmid(vmid) for vmid in used_by)
    )


def after(seen: AccessSeen, plan: AccessPlan) -> AccessSeen:
    """The cluster once the steps have been taken, as Proxmox would have it."""
    for step in plan.steps:
        seen = taken(seen, step)
    return seen


def taken(seen: AccessSeen, step: AccessStep) -> AccessSeen:
    parameters = dict(step.parameters)
    head, _, name = step.path.rpartition("/")
    roles, users, mappings = dict(seen.roles), dict(seen.users), dict(seen.mappings)
    storages, rules, secret = dict(seen.storages), list(seen.rules), seen.secret
    match step.method, head:
        case "POST", "/access":
            if "roleid" in parameters:
                roles[str(parameters["roleid"])] = RoleSeen(frozenset(str(parameters["privs"]).split(",")))
            else:
                users[str(parameters["userid"])] = UserSeen(str(parameters["comment"]))
        case "PUT", "/access/roles":
            roles[name] = RoleSeen(frozenset(str(parameters["privs"]).split(",")))
        case "DELETE", "/access/roles":
            del roles[name]
        case "DELETE", "/access/users":
            del users[name]
        case _, "/access/users/provisioner@pve/token":
            tokens = dict(users[USER].tokens)
            if step.method == "DELETE":
                del tokens[name]
                rules = [rule for rule in rules if rule.holder != TOKEN]
            else:
                old = tokens.get(name, TokenSeen(True))
                comment = str(parameters.get("comment", old.comment))
                tokens[name] = TokenSeen(bool(parameters["privsep"]), comment)
            users[USER] = replace(users[USER], tokens=tokens)
        case "PUT", "/access":
            for kind in HolderKind:
                holder = parameters.get(f"{kind.value}s")
                if holder is None:
                    continue
                rule = Rule(str(parameters["path"]), kind, str(holder), str(parameters["roles"]))
                rules = [each for each in rules if replace(each, propagates=True) != rule]
                if "delete" not in parameters:
                    rules.append(replace(rule, propagates=bool(parameters["propagate"])))
        case _, "/cluster/mapping" | "/cluster/mapping/pci":
            mapping_id = MappingId(str(parameters.get("id", name)))
            if step.method == "DELETE":
                del mappings[mapping_id]
            else:
                texts = parameters["map"]
                assert isinstance(texts, tuple)
                mappings[mapping_id] = mapping(*texts)
        case "PUT", "/storage":
            content = tuple(str(parameters["content"]).split(","))
            storages[StorageName(name)] = replace(storages[StorageName(name)], content=content)
        case "", _:
            pass
        case other:
            raise AssertionError(other)
    if step.secret is Secret.KEEP:
        secret = WORKS
    elif step.secret is Secret.FORGET:
        secret = NO_FILE
    return replace(
        seen, roles=roles, users=users, rules=tuple(rules), mappings=mappings, storages=storages, secret=secret
    )
