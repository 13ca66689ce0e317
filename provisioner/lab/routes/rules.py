"""Roles, and the rules that give them to somebody on a path."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

from provisioner.lab.access import ROOT, normal_path
from provisioner.lab.model import AclEntry, Role
from provisioner.lab.refusals import bad_parameters, failed
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema.formats import split_list
from provisioner.lab.schema.privileges import names

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_ACL_PATH = re.compile(
    r"/|/access(?:/groups(?:/[\w.-]+)?|/realm(?:/[\w.-]+)?)?|/nodes(?:/[\w.-]+)?|/pool(?:/[\w./-]+)?"
    r"|/sdn(?:/(?:zones|controllers|dns|ipams|fabrics)(?:/[\w./-]+)?)?|/storage(?:/[\w.-]+)?|/vms(?:/[1-9]\d{2,8})?"
    r"|/mapping(?:/(?:pci|usb|dir|notifications)(?:/[\w.-]+)?)?"
)


@serves("GET", "/access/roles")
async def list_roles(lab: Lab, call: Call) -> object:
    """List roles with their privileges."""
    return [
        {
            "roleid": role,
            "privs": ",".join(sorted(lab.access.role_privileges(role) or ())),
            "special": int(lab.access.is_builtin(role)),
        }
        for role in lab.access.role_names()
    ]


@serves("POST", "/access/roles")
async def create_role(lab: Lab, call: Call) -> object:
    """Add a role."""
    name = call.text("roleid")
    if lab.access.role_privileges(name) is not None:
        raise failed(f"create role failed: role '{name}' already exists")
    lab.cluster.roles.save(name, Role(name, sorted(set(split_list(call.text("privs"))))))
    lab.access.changed()
    return None


@serves("GET", "/access/roles/{roleid}")
async def read_role(lab: Lab, call: Call) -> object:
    """Return the privileges of one role."""
    held = lab.access.role_privileges(call.text("roleid"))
    if held is None:
        raise failed(f"role '{call.text('roleid')}' does not exist")
    return {name: int(name in held) for name in sorted(names(lab.major)) if name in held}


@serves("PUT", "/access/roles/{roleid}")
async def update_role(lab: Lab, call: Call) -> object:
    """Replace or extend what a role carries."""
    role = _own_role(lab, call.text("roleid"), "update role failed")
    kept = role.privileges if call.on("append") else []
    role.privileges = sorted({*kept, *split_list(call.text("privs"))})
    lab.cluster.roles.save(role.name, role)
    lab.access.changed()
    return None


@serves("DELETE", "/access/roles/{roleid}")
async def delete_role(lab: Lab, call: Call) -> object:
    """Remove a role and the rules that give it."""
    role = _own_role(lab, call.text("roleid"), "delete role failed")
    for key, entry in lab.cluster.acl.items():
        if entry.role == role.name:
            lab.cluster.acl.remove(key)
    lab.cluster.roles.remove(role.name)
    lab.access.changed()
    return None


@serves("GET", "/access/acl")
async def list_acl(lab: Lab, call: Call) -> object:
    """List access rules the caller may see."""
    sees_all = lab.access.may(call.who, "/access", ("Sys.Audit", "Permissions.Modify"), any_of=True)
    return [
        {"path": e.path, "type": e.kind, "ugid": e.who, "roleid": e.role, "propagate": int(e.propagate)}
        for e in lab.cluster.acl.values()
        if sees_all or lab.access.may(call.who, e.path, ("Permissions.Modify",))
    ]


@serves("PUT", "/access/acl")
async def update_acl(lab: Lab, call: Call) -> object:
    """Give or take roles on a path."""
    path = normal_path(call.text("path"))
    holders = {kind: split_list(call.text(f"{kind}s")) for kind in ("user", "group", "token")}
    if not any(holders.values()):
        needed = "either 'users', 'groups' or 'tokens' is required."
        raise bad_parameters(dict.fromkeys(("users", "groups", "tokens"), needed))
    if not call.on("delete") and _ACL_PATH.fullmatch(path) is None:
        raise bad_parameters({"path": f"invalid ACL path '{call.text('path')}'"})
    changes = []
    tables: dict[str, Container[str]] = {
        "user": lab.cluster.users,
        "group": lab.cluster.groups,
        "token": lab.cluster.tokens,
    }
    for role in split_list(call.text("roles")):
        if lab.access.role_privileges(role) is None:
            raise failed(f"ACL update failed: role '{role}' does not exist")
        _require_grant(lab, call.who, path, role)
        for kind, names_ in holders.items():
            for name in names_:
                if name not in tables[kind]:
                    raise failed(f"ACL update failed: {kind} '{name}' does not exist")
                changes.append(AclEntry(path, kind, name, role, call.on("propagate", default=True)))
    for entry in changes:
        if call.on("delete"):
            lab.cluster.acl.remove(entry.key)
        else:
            lab.cluster.acl.save(entry.key, entry)
    lab.access.changed()
    return None


def _own_role(lab: Lab, name: str, prefix: str) -> Role:
    if lab.access.is_builtin(name):
        raise failed(f"{prefix}: auto-generated role '{name}' cannot be modified")
    role = lab.cluster.roles.get(name)
    if role is None:
        raise failed(f"{prefix}: role '{name}' does not exist")
    return role


def _require_grant(lab: Lab, who: str, path: str, role: str) -> None:
    """Without the right to change rules, one may only pass on what one has."""
    if who == ROOT or lab.access.may(who, path, ("Permissions.Modify",)):
        return
    held = lab.access.privileges(who, path)
    if role == "NoAccess" or any(not held.get(name) for name in lab.access.role_privileges(role) or ()):
        # The real thing wraps a refusal about a parameter into the text of another one.
        raise failed("ACL update failed: 400 Parameter verification failed.")
