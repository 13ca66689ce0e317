"""The way back: take away what we made, as far as nobody else uses it, and say what stays; pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from provisioner.domain.access import AccessSeen, AccessWanted, Rule, SecretState, UserSeen
from provisioner.domain.access_plan import AccessPlan, AccessStep, Obstacle, Secret
from provisioner.domain.fleet import HypervisorSpec
from provisioner.domain.names import MappingId
from provisioner.planning.access.identity import token_path
from provisioner.planning.access.roles import OUR_ROLES

_OVER_USERS = ("/access/groups", "User.Modify")


def withdraw_plan(seen: AccessSeen, wanted: AccessWanted) -> AccessPlan:
    """Return the steps that undo `access_plan`.

    Rules first, then who they are about, then the roles, which by then nobody
    of ours has. A storage's content types stay: nothing says who added them.
    One server that leaves takes along what is about it alone.
    """
    others = _staying(wanted)
    names = _mapping_names(wanted, [each for each in _servers(wanted) if each not in others])
    names -= _mapping_names(wanted, others)
    if others:
        places = {f"/nodes/{wanted.leaving}", *(f"/mapping/pci/{name}" for name in names)}
        found = [
            *_rules(rule for rule in _ours(seen, wanted) if rule.path in places),
            *_mappings(seen, names),
            *_shared(seen, wanted, others),
        ]
    else:
        found = [
            *_rules(_ours(seen, wanted)),
            *_token(seen, wanted),
            *_user(seen, wanted),
            *_roles(seen, wanted),
            *_mappings(seen, names),
        ]
    return AccessPlan(
        wanted=wanted,
        steps=tuple(each for each in found if isinstance(each, AccessStep)),
        obstacles=tuple(each for each in found if isinstance(each, Obstacle)),
        is_undo=True,
    )


def _servers(wanted: AccessWanted) -> list[HypervisorSpec]:
    return [each for each in wanted.fleet.hypervisors.values() if each.cluster == wanted.cluster.name]


def _staying(wanted: AccessWanted) -> list[HypervisorSpec]:
    """Return the servers that go on using the cluster's token; none when all of it is taken back."""
    if wanted.leaving is None:
        return []
    return [each for each in _servers(wanted) if each.name != wanted.leaving]


def _mapping_names(wanted: AccessWanted, servers: Iterable[HypervisorSpec]) -> set[MappingId]:
    return {gpu.mapping for server in servers for gpu in server.gpus.values()}


def _shared(seen: AccessSeen, wanted: AccessWanted, others: Iterable[HypervisorSpec]) -> Iterator[Obstacle]:
    if wanted.user in seen.users:
        names = ", ".join(each.name for each in others)
        yield Obstacle(
            f"user, token and roles stay: {names} of the same cluster needs them too",
            f"to take them too, take {names} out of the fleet file and run this again",
        )


def _ours(seen: AccessSeen, wanted: AccessWanted) -> list[Rule]:
    """Return the rules that give a role of ours to the fleet's user or token."""
    mine = (wanted.user, wanted.cluster.token_id)
    return [rule for rule in seen.rules if rule.role in OUR_ROLES and rule.holder in mine]


def _rules(rules: Iterable[Rule]) -> Iterator[AccessStep]:
    together: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        together.setdefault((rule.path, rule.role), []).append(rule)
    for (path, role), alike in together.items():
        holders = {f"{rule.kind.value}s": rule.holder for rule in alike}
        yield AccessStep(
            name=f"take back {role} on {path}",
            sentence=f"take the role {role} on {path} from {' and '.join(holders.values())}",
            method="PUT",
            path="/access/acl",
            parameters={"path": path, "roles": role, **holders, "delete": 1},
            needs=((path, "Permissions.Modify"),),
        )


def _token(seen: AccessSeen, wanted: AccessWanted) -> Iterator[AccessStep | Obstacle]:
    user = seen.users.get(wanted.user)
    token = user.tokens.get(wanted.token) if user is not None else None
    name = wanted.cluster.token_id
    if token is None:
        return
    if not token.is_ours:
        yield Obstacle(f"the token {name} is not of our making", "delete it by hand if nobody needs it")
        return
    yield AccessStep(
        name=f"delete token {name}",
        sentence=f"delete the API token {name}",
        method="DELETE",
        path=token_path(wanted),
        needs=(_OVER_USERS,),
    )
    secret = seen.secret
    if secret.file is not None and secret.state in (SecretState.ACCEPTED, SecretState.EMPTY):
        yield AccessStep(
            name="delete the saved secret",
            sentence=f"delete {secret.file}, which held the token's secret",
            secret=Secret.FORGET,
            file=secret.file,
        )
    elif secret.state is not SecretState.ABSENT:
        yield Obstacle(f"the secret at {secret.place} is not known to be this token's", "delete it by hand")


def _user(seen: AccessSeen, wanted: AccessWanted) -> Iterator[AccessStep | Obstacle]:
    user = seen.users.get(wanted.user)
    if user is None:
        return
    reasons = list(_reasons_to_keep(seen, wanted, user))
    if reasons:
        yield Obstacle(f"the user {wanted.user} stays: {', '.join(reasons)}", "delete it by hand if nobody needs it")
        return
    realm = wanted.user.rpartition("@")[2]
    yield AccessStep(
        name=f"delete user {wanted.user}",
        sentence=f"delete the user {wanted.user}",
        method="DELETE",
        path=f"/access/users/{wanted.user}",
        needs=((f"/access/realm/{realm}", "Realm.AllocateUser"), _OVER_USERS),
    )


def _reasons_to_keep(seen: AccessSeen, wanted: AccessWanted, user: UserSeen) -> Iterator[str]:
    if not user.is_ours:
        yield "it is not of our making"
        return
    if others := [name for name, token in user.tokens.items() if name != wanted.token or not token.is_ours]:
        yield f"it has other tokens ({', '.join(others)})"
    if user.groups:
        yield f"it is a member of {', '.join(sorted(user.groups))}"
    if other := _others_text(rule for rule in seen.rules if rule.holder == wanted.user and rule.role not in OUR_ROLES):
        yield f"it has other rights ({other})"


def _roles(seen: AccessSeen, wanted: AccessWanted) -> Iterator[AccessStep | Obstacle]:
    ours = _ours(seen, wanted)
    for role in OUR_ROLES:
        existing = seen.roles.get(role)
        if existing is None or existing.is_builtin:
            continue
        if others := _others_text(rule for rule in seen.rules if rule.role == role and rule not in ours):
            yield Obstacle(f"the role {role} stays: others have it too ({others})", "delete it when nobody has it")
            continue
        yield AccessStep(
            name=f"delete role {role}",
            sentence=f"delete the role {role}",
            method="DELETE",
            path=f"/access/roles/{role}",
            needs=(("/access", "Sys.Modify"),),
        )


def _others_text(rules: Iterable[Rule]) -> str:
    return ", ".join(f"{rule.holder} on {rule.path}" for rule in rules)


def _mappings(seen: AccessSeen, names: Container[MappingId]) -> Iterator[AccessStep | Obstacle]:
    for name, mapping in sorted(seen.mappings.items()):
        if name not in names:
            continue
        if not mapping.is_ours:
            yield Obstacle(f"the PCI mapping {name} is not of our making", "delete it by hand if nobody needs it")
        elif mapping.used_by:
            vms = ", ".join(map(str, mapping.used_by))
            yield Obstacle(
                f"the PCI mapping {name} stays: VM {vms} uses it",
                "destroy that node first (provisioner destroy), or take the GPU from the VM; then run this again",
            )
        else:
            yield AccessStep(
                name=f"delete PCI mapping {name}",
                sentence=f"delete the PCI mapping {name}",
                method="DELETE",
                path=f"/cluster/mapping/pci/{name}",
                needs=(("/mapping/pci", "Mapping.Modify"),),
            )
