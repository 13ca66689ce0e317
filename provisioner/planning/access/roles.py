"""Our roles, what is already in force, and the steps that make roles and give them to user and token; pure.

One small role per kind of path, so that nobody gets on a storage what is meant
for VMs. A rule is only made where its holder lacks something, and never where
it would take away what the holder has from further up: in Proxmox a rule on a
deeper path replaces those above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from provisioner.domain.access import AccessSeen, AccessWanted, HolderKind, RoleSeen, Rule
from provisioner.domain.access_plan import AccessStep, Obstacle
from provisioner.domain.fleet import ClusterSpec
from provisioner.planning.access.calls import CALLS, Place, needs_of
from provisioner.planning.access.rights import makes_native_drives, paths_of, propagates

SUPERUSER = "root@pam"

ROLES: Mapping[str, frozenset[Place]] = {
    "ProvisionerVMs": frozenset({Place.VMS}),
    "ProvisionerDisks": frozenset({Place.DISKS}),
    "ProvisionerImages": frozenset({Place.IMAGES, Place.SEEDS}),
    "ProvisionerNode": frozenset({Place.NODE}),
    "ProvisionerAudit": frozenset({Place.ROOT}),
    "ProvisionerBridge": frozenset({Place.BRIDGE}),
    "ProvisionerGpu": frozenset({Place.GPU}),
}
SEEDS_ROLE = "ProvisionerSeeds"
"""The optional one: delete ISOs."""

OUR_ROLES = (*ROLES, SEEDS_ROLE)

_FAMILIES = {
    "vms": ("VM.", "Permissions."),
    "storage": ("Datastore.", "Permissions."),
    "nodes": ("Sys.", "Permissions."),
    "sdn": ("SDN.", "Permissions."),
    "mapping": ("Mapping.", "Permissions."),
}
"""Which privileges are looked for below which path (pve-access-control, compute_api_permission): losing one that
nobody asks for there is no loss."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role that user and token should have on a path."""

    path: str
    role: str
    propagates: bool


def role_privileges(role: str, cluster: ClusterSpec, major: int, *, native: bool = False) -> frozenset[str]:
    """Return what one of our roles carries in a major version; `native` is of `makes_native_drives`."""
    optional = role == SEEDS_ROLE
    places = frozenset({Place.SEEDS}) if optional else ROLES[role]
    return frozenset(
        privilege
        for call in CALLS
        if (call.optional and not call.granted) is optional
        for place, privilege in needs_of(call, cluster, major, native=native)
        if place in places
    )


def _privileges(role: str, seen: AccessSeen, wanted: AccessWanted) -> frozenset[str]:
    native = makes_native_drives(wanted.fleet, wanted.cluster)
    return role_privileges(role, wanted.cluster, seen.major, native=native)


def grants(wanted: AccessWanted) -> tuple[Grant, ...]:
    """Return which role is wanted where, each once."""
    roles = [*ROLES.items(), *([(SEEDS_ROLE, frozenset({Place.SEEDS}))] if wanted.may_delete_seeds else [])]
    found = (
        Grant(path, role, propagates(place))
        for role, places in roles
        for place in Place
        if place in places
        for path, _ in paths_of(place, wanted.fleet, wanted.cluster)
    )
    return tuple(dict.fromkeys(found))


def role_and_rule_steps(
    seen: AccessSeen, wanted: AccessWanted
) -> tuple[tuple[AccessStep, ...], tuple[AccessStep, ...], tuple[Obstacle, ...]]:
    """Return steps for roles, steps for rules, and what is left alone."""
    rules: list[AccessStep] = []
    obstacles: list[Obstacle] = []
    used: set[str] = set()
    for grant in grants(wanted):
        privileges = _privileges(grant.role, seen, wanted)
        lacking = []
        for kind, holder in holders(seen, wanted):
            if _has_rule(seen, holder, grant):
                used.add(grant.role)
            elif privileges <= held_by(seen, kind, holder, grant.path, below=grant.propagates):
                continue
            elif displaced := _displaced(seen, kind, holder, grant, RoleSeen(privileges)):
                obstacles.append(_left_alone(kind, holder, grant, displaced))
            else:
                lacking.append((kind, holder))
        if lacking:
            used.add(grant.role)
            rules.append(_rule_step(grant, lacking))
    roles = [step for role in OUR_ROLES if role in used for step in _role_steps(seen, wanted, role)]
    return tuple(roles), tuple(rules), tuple(obstacles)


def holders(seen: AccessSeen, wanted: AccessWanted) -> Iterator[tuple[HolderKind, str]]:
    """Return who must hold the rights: the user, and the token if it is, or will be, a separate holder."""
    if wanted.user != SUPERUSER:
        yield HolderKind.USER, wanted.user
    user = seen.users.get(wanted.user)
    token = user.tokens.get(wanted.token) if user is not None else None
    if token is None or token.is_separated or token.is_ours:
        yield HolderKind.TOKEN, wanted.cluster.token_id


def held_by(seen: AccessSeen, kind: HolderKind, holder: str, path: str, *, below: bool = False) -> frozenset[str]:
    """Return the privileges that rules give somebody on a path; with `below`, those that are passed on from it.

    As in pve-access-control, ``roles``: the deepest rule counts, a rule of one's
    own outranks those of groups on the same path, NoAccess outranks all. Pools
    are left out: what they give besides is not counted.
    """
    roles: dict[str, bool] = {}
    steps = _steps(path)
    for step in steps:
        final = step == path
        own, of_groups = _roles_at(seen, kind, holder, step)
        own, of_groups = (
            {role: spreads for role, spreads in each.items() if final or spreads} for each in (own, of_groups)
        )
        roles = own or of_groups or roles
    if "NoAccess" in roles:
        return frozenset()
    return frozenset(
        privilege
        for role, spreads in roles.items()
        if spreads or not below
        for privilege in seen.roles.get(role, RoleSeen(frozenset())).privileges
    )


def _displaced(seen: AccessSeen, kind: HolderKind, holder: str, grant: Grant, role: RoleSeen) -> frozenset[str]:
    """Return the privileges that a new rule on a path would take from its holder, there or below."""
    after = replace(
        seen,
        roles={**seen.roles, grant.role: role},
        rules=(*seen.rules, Rule(grant.path, kind, holder, grant.role, grant.propagates)),
    )
    below = f"{grant.path.rstrip('/')}/anything"
    lost = frozenset().union(
        *(held_by(seen, kind, holder, path) - held_by(after, kind, holder, path) for path in (grant.path, below))
    )
    families = _FAMILIES.get(grant.path.split("/")[1])
    return lost if families is None else frozenset(name for name in lost if name.startswith(families))


def _roles_at(seen: AccessSeen, kind: HolderKind, holder: str, path: str) -> tuple[dict[str, bool], dict[str, bool]]:
    groups = seen.users[holder].groups if kind is HolderKind.USER and holder in seen.users else frozenset()
    here = [rule for rule in seen.rules if rule.path == path]
    own = {rule.role: rule.propagates for rule in here if rule.kind is kind and rule.holder == holder}
    of_groups = {rule.role: rule.propagates for rule in here if rule.kind is HolderKind.GROUP and rule.holder in groups}
    return own, of_groups


def _has_rule(seen: AccessSeen, holder: str, grant: Grant) -> bool:
    return any(
        (rule.path, rule.holder, rule.role) == (grant.path, holder, grant.role)
        and (rule.propagates or not grant.propagates)
        for rule in seen.rules
    )


def _rule_step(grant: Grant, lacking: list[tuple[HolderKind, str]]) -> AccessStep:
    who = " and ".join(f"{kind.value} {holder}" for kind, holder in lacking)
    reach = "" if grant.propagates else ", not below it"
    return AccessStep(
        name=f"grant {grant.role} on {grant.path}",
        sentence=f"give {who} the role {grant.role} on {grant.path}{reach}",
        method="PUT",
        path="/access/acl",
        parameters={
            "path": grant.path,
            "roles": grant.role,
            **{f"{kind.value}s": holder for kind, holder in lacking},
            "propagate": int(grant.propagates),
        },
        needs=((grant.path, "Permissions.Modify"),),
    )


def _left_alone(kind: HolderKind, holder: str, grant: Grant, displaced: frozenset[str]) -> Obstacle:
    some = ", ".join(sorted(displaced)[:3])
    return Obstacle(
        f"{kind.value} {holder} has other rights on {grant.path} ({some}{', ...' if len(displaced) > 3 else ''}), "
        f"which a rule of its own there would replace",
        "name a token of a user that is for this alone in the fleet file, or give it what it lacks by hand",
    )


def _role_steps(seen: AccessSeen, wanted: AccessWanted, role: str) -> Iterator[AccessStep]:
    privileges = _privileges(role, seen, wanted)
    text = ",".join(sorted(privileges))
    existing = seen.roles.get(role)
    needs = (("/access", "Sys.Modify"),)
    if existing is None:
        yield AccessStep(
            name=f"create role {role}",
            sentence=f"create the role {role}: {' '.join(sorted(privileges))}",
            method="POST",
            path="/access/roles",
            parameters={"roleid": role, "privs": text},
            needs=needs,
        )
    elif existing.privileges != privileges:
        others = sorted(
            {rule.holder for rule in seen.rules if rule.role == role} - {wanted.user, wanted.cluster.token_id}
        )
        drops, adds = existing.privileges - privileges, privileges - existing.privileges
        yield AccessStep(
            name=f"change role {role}",
            sentence=f"change the role {role} to what is needed"
            + (f"; also held by {', '.join(others)}" if others else ""),
            method="PUT",
            path=f"/access/roles/{role}",
            parameters={"privs": text},
            needs=needs,
            changes=f"{' '.join(sorted(existing.privileges)) or 'nothing'} -> {' '.join(sorted(privileges))}"
            + (f"; adds {' '.join(sorted(adds))}" if adds else "")
            + (f"; takes away {' '.join(sorted(drops))}" if drops else ""),
        )


def _steps(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    return ["/", *("/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1))]
