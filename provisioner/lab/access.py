"""Who may do what: identities, roles, access rules with inheritance, pools.

An API token with privilege separation has what both it and its user have. The
superuser is the literal ``root@pam``; no token is ever that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from provisioner.lab.cluster import Cluster
from provisioner.lab.model import AclEntry
from provisioner.lab.refusals import Refusal, denied, denied_privilege
from provisioner.lab.schema import permissions as rules
from provisioner.lab.schema.privileges import builtin_roles

ROOT = "root@pam"
_ALWAYS_LISTED = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")
Privileges = Mapping[str, bool]
"""Privilege to whether it also holds below the path."""


class Access:
    """Answers questions about rights; forgets what it computed whenever `changed` is called."""

    def __init__(self, cluster: Cluster, major: int) -> None:
        self._cluster = cluster
        self._builtin = builtin_roles(major)
        self._cache: dict[tuple[str, str], Privileges] = {}
        self._entries: dict[str, list[AclEntry]] | None = None

    def changed(self) -> None:
        """Forget computed rights: users, roles, rules or pools are not what they were."""
        self._cache.clear()
        self._entries = None

    def role_privileges(self, role: str) -> frozenset[str] | None:
        """Return what a role carries, or None for an unknown one."""
        own = self._cluster.roles.get(role)
        return frozenset(own.privileges) if own is not None else self._builtin.get(role)

    def role_names(self) -> tuple[str, ...]:
        """Return every role."""
        return tuple(sorted({*self._builtin, *self._cluster.roles}))

    def is_builtin(self, role: str) -> bool:
        """Say whether a role came with the system."""
        return role in self._builtin

    def privileges(self, who: str, path: str) -> Privileges:
        """Return the effective privileges of a user or token on a path."""
        path = normal_path(path)
        key = (who, path)
        if key not in self._cache:
            self._cache[key] = self._compute(who, path)
        return self._cache[key]

    def may(self, who: str, path: str, privileges: Sequence[str], *, any_of: bool = False) -> bool:
        """Say whether somebody has all (or one) of the privileges on a path."""
        held = self.privileges(who, path)
        return any(name in held for name in privileges) if any_of else all(name in held for name in privileges)

    def require(self, who: str, path: str, *privileges: str, any_of: bool = False) -> None:
        """Raise the 403 that names the first missing privilege, or all of them with `any_of`."""
        held = self.privileges(who, path)
        if any_of:
            if not any(name in held for name in privileges):
                raise denied_privilege(normal_path(path), privileges)
            return
        for name in privileges:
            if name not in held:
                raise denied_privilege(normal_path(path), (name,))

    def require_vm(self, who: str, vmid: int, pool: str | None, *privileges: str, any_of: bool = False) -> None:
        """Like `require` for a VM that may be on its way into a pool."""
        if pool and self.may(who, f"/pool/{pool}", privileges, any_of=any_of):
            return
        self.require(who, f"/vms/{vmid}", *privileges, any_of=any_of)

    def check(self, rule: rules.Rule, who: str | None, params: Mapping[str, object]) -> None:
        """Hold a call against the rule of its endpoint. Raises Refusal."""
        if isinstance(rule, rules.Everyone) and not rule.logged_in:
            return
        if who is None:
            raise denied("user != null")
        if who == ROOT:
            return
        if isinstance(rule, rules.RootOnly):
            raise denied(f"user != {ROOT}")
        self._check(rule, who, params)

    def everything(self, who: str) -> dict[str, dict[str, int]]:
        """Return ``{path: {privilege: propagate}}`` for the listed paths where somebody has a say."""
        known = set(_ALWAYS_LISTED)
        known |= {step for entry in self._cluster.acl.values() for step in _steps(entry.path)}
        for pool in self._cluster.pools.values():
            known |= {f"/vms/{vmid}" for vmid in pool.vms} | {f"/storage/{name}" for name in pool.storage}
        found = {}
        for path in sorted(known):
            held = self.privileges(who, path)
            if held:
                found[path] = {name: int(propagate) for name, propagate in sorted(held.items())}
        return found

    def _check(self, rule: rules.Rule, who: str, params: Mapping[str, object]) -> None:
        match rule:
            case rules.Everyone() | rules.RootOnly():
                return
            case rules.Has():
                if rule.needs_param and rule.needs_param not in params:
                    raise denied()
                path = _filled(rule.path, params)
                self.require(who, path, *rule.privileges, any_of=rule.any_of)
            case rules.AllOf():
                for inner in rule.rules:
                    self._check(inner, who, params)
            case rules.OneOf():
                if not any(self._holds(inner, who, params) for inner in rule.rules):
                    raise denied()
            case rules.Oneself():
                if who != params.get("userid"):
                    raise denied()
            case rules.MayAllocateUser():
                realm = str(params.get("userid", "")).rpartition("@")[2]
                self.require(who, f"/access/realm/{realm}", "Realm.AllocateUser")
            case rules.OverUser():
                self._check_over_user(rule, who, str(params.get("userid", "")))
            case rules.MayModifyAcl():
                self._check_acl_change(who, normal_path(_filled(rule.path, params)))

    def _holds(self, rule: rules.Rule, who: str, params: Mapping[str, object]) -> bool:
        try:
            self._check(rule, who, params)
        except Refusal:
            return False
        return True

    def _check_over_user(self, rule: rules.OverUser, who: str, userid: str) -> None:
        if self.may(who, "/access/groups", rule.privileges, any_of=True):
            return
        user = self._cluster.users.get(userid)
        groups = user.groups if user is not None and not rule.creating else []
        if not any(self.may(who, f"/access/groups/{name}", rule.privileges, any_of=True) for name in groups):
            raise denied_privilege("/access/groups", rule.privileges)

    def _check_acl_change(self, who: str, path: str) -> None:
        needed = ["Permissions.Modify"]
        for prefix, privilege in (
            ("/storage/", "Datastore.Allocate"),
            ("/vms/", "VM.Allocate"),
            ("/pool/", "Pool.Allocate"),
        ):
            if path.startswith(prefix):
                needed.append(privilege)
        self.require(who, path, *needed, any_of=True)

    def _compute(self, who: str, path: str) -> Privileges:
        if who == ROOT:
            return dict.fromkeys(sorted(self._builtin["Administrator"]), True)
        user, mark, _ = who.partition("!")
        token = self._cluster.tokens.get(who) if mark else None
        if mark:
            if token is None:
                return {}
            of_user = self.privileges(user, path)
            if not token.privsep:
                return of_user
        held = self._own_privileges(who, path)
        if mark and user != ROOT:
            return {name: held[name] and of_user[name] for name in held if name in of_user}
        return held

    def _own_privileges(self, who: str, path: str) -> dict[str, bool]:
        roles = self._roles(who, path)
        if "NoAccess" not in roles:
            for pool in self._pools_of(path):
                for role, propagate in self._roles(who, f"/pool/{pool}").items():
                    if role != "NoAccess":
                        roles.setdefault(role, propagate)
        held: dict[str, bool] = {}
        for role, propagate in roles.items():
            for name in self.role_privileges(role) or ():
                held[name] = held.get(name, False) or propagate
        return held

    def _roles(self, who: str, path: str) -> dict[str, bool]:
        user = self._cluster.users.get(who)
        groups = frozenset(user.groups) if user is not None else frozenset()
        roles: dict[str, bool] = {}
        steps = _steps(path)
        for step in steps:
            final = step == steps[-1]
            entries = self._at(step)
            own = {
                e.role: e.propagate for e in entries if e.who == who and e.kind != "group" and (final or e.propagate)
            }
            of_groups = {
                e.role: e.propagate for e in entries if e.kind == "group" and e.who in groups and (final or e.propagate)
            }
            # What stands deeper replaces what was inherited; a user's own rule outranks a group's.
            roles = own or of_groups or roles
        return {"NoAccess": roles["NoAccess"]} if "NoAccess" in roles else roles

    def _at(self, path: str) -> Sequence[AclEntry]:
        if self._entries is None:
            self._entries = {}
            for entry in self._cluster.acl.values():
                self._entries.setdefault(entry.path, []).append(entry)
        return self._entries.get(path, ())

    def _pools_of(self, path: str) -> list[str]:
        if found := re.fullmatch(r"/vms/(\d+)", path):
            vmid = int(found[1])
            return [pool.name for pool in self._cluster.pools.values() if vmid in pool.vms]
        if found := re.fullmatch(r"/storage/([^/]+)", path):
            return [pool.name for pool in self._cluster.pools.values() if found[1] in pool.storage]
        return []


def normal_path(path: str) -> str:
    """Return a path with single slashes and none at the end."""
    return "/" + "/".join(part for part in path.split("/") if part)


def _steps(path: str) -> list[str]:
    steps = ["/"]
    for part in path.split("/"):
        if part:
            steps.append(f"{steps[-1].rstrip('/')}/{part}")
    return steps


def _filled(template: str, params: Mapping[str, object]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: str(params.get(name[1], "")), template)
