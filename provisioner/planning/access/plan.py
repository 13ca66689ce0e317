"""From the rights that are to the rights that are wanted: roles, user, token, rules, GPU mappings, storage; pure.

The order matters where one thing names another, and where a run may be killed:
whatever is left over is what the next plan holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from provisioner.domain.access import AccessSeen, AccessWanted
from provisioner.domain.access_plan import AccessPlan, AccessStep, Obstacle
from provisioner.planning.access.gpus import mapping_steps
from provisioner.planning.access.identity import identity_steps, makes_token
from provisioner.planning.access.roles import role_and_rule_steps

_FILE_STORAGES = frozenset({"dir", "nfs", "cifs", "cephfs", "btrfs"})
"""Types that can hold image files and ISOs (pve-storage, plugindata of each plugin)."""

_PURPOSES = {"import": "the images that disks are made from", "iso": "the seeds of new guests"}


def access_plan(seen: AccessSeen, wanted: AccessWanted) -> AccessPlan:
    """Return the steps, and what they leave alone; no steps means that everything is there."""
    identity, identity_obstacles = identity_steps(seen, wanted)
    if makes_token(identity):
        seen = _without_token_rules(seen, wanted)
    roles, rules, rule_obstacles = role_and_rule_steps(seen, wanted)
    mappings, mapping_obstacles = mapping_steps(seen, wanted)
    storages, storage_obstacles = _storage_steps(seen, wanted)
    return AccessPlan(
        wanted=wanted,
        steps=(*roles, *identity, *rules, *mappings, *storages),
        obstacles=(*identity_obstacles, *rule_obstacles, *mapping_obstacles, *storage_obstacles),
    )


def _without_token_rules(seen: AccessSeen, wanted: AccessWanted) -> AccessSeen:
    """A new token starts without rules: Proxmox forgets those of the one that it replaces."""
    return replace(seen, rules=tuple(rule for rule in seen.rules if rule.holder != wanted.cluster.token_id))


def _storage_steps(seen: AccessSeen, wanted: AccessWanted) -> tuple[tuple[AccessStep, ...], tuple[Obstacle, ...]]:
    found = list(_storages(seen, wanted))
    return (
        tuple(each for each in found if isinstance(each, AccessStep)),
        tuple(each for each in found if isinstance(each, Obstacle)),
    )


def _storages(seen: AccessSeen, wanted: AccessWanted) -> Iterator[AccessStep | Obstacle]:
    roles = wanted.cluster.storage
    needed: dict[str, list[str]] = {}
    for name, content in ((roles.images, "import"), (roles.iso, "iso")):
        needed.setdefault(name, []).append(content)
    disks = wanted.fleet.disk_storages(wanted.cluster.name)
    for name in dict.fromkeys((*disks, roles.images, roles.iso)):
        storage = seen.storages.get(name)
        if storage is None:
            there = ", ".join(sorted(seen.storages)) or "none"
            yield Obstacle(
                f'the cluster has no storage "{name}" (there is: {there})',
                f"name another under clusters.{wanted.cluster.name}.storage in the fleet file",
            )
            continue
        lacking = [content for content in needed.get(name, []) if content not in storage.content]
        if lacking and storage.type not in _FILE_STORAGES:
            yield Obstacle(
                f'storage "{name}" is of type {storage.type}, which cannot hold {" or ".join(lacking)}',
                f"name one of files (a directory, NFS) under clusters.{wanted.cluster.name}.storage",
            )
        elif lacking:
            # The list is replaced as a whole, so what it held is said again.
            content = ",".join((*storage.content, *lacking))
            yield AccessStep(
                name=f"let storage {name} hold {' and '.join(lacking)}",
                sentence=f"let the storage {name} hold {' and '.join(lacking)} too, "
                f"for {' and '.join(_PURPOSES[content] for content in lacking)}",
                method="PUT",
                path=f"/storage/{name}",
                parameters={"content": content},
                needs=(("/storage", "Datastore.Allocate"),),
                changes=f"content {','.join(storage.content) or 'nothing'} -> {content}",
            )
