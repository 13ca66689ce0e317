"""Users, tokens, roles, access rules and pools."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Container
from typing import TYPE_CHECKING

from provisioner.lab.access import ROOT, normal_path
from provisioner.lab.model import AclEntry, Pool, Role, Token, User
from provisioner.lab.refusals import Refusal, bad_parameters, failed
from provisioner.lab.routes import views
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema.formats import split_list
from provisioner.lab.schema.privileges import names

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_TOKENS = "/access/users/{userid}/token"
_TOKEN = _TOKENS + "/{tokenid}"
_ACL_PATH = re.compile(
    r"/|/access(?:/groups(?:/[\w.-]+)?|/realm(?:/[\w.-]+)?)?|/nodes(?:/[\w.-]+)?|/pool(?:/[\w./-]+)?"
    r"|/sdn(?:/(?:zones|controllers|dns|ipams|fabrics)(?:/[\w./-]+)?)?|/storage(?:/[\w.-]+)?|/vms(?:/[1-9]\d{2,8})?"
    r"|/mapping(?:/(?:pci|usb|dir|notifications)(?:/[\w.-]+)?)?"
)
_USER_FIELDS = ("email", "firstname", "lastname", "keys")


@serves("POST", "/access/ticket")
async def login(lab: Lab, call: Call) -> object:
    """Give a ticket for a password, or for an older ticket."""
    name = call.text("username")
    if "@" not in name and "realm" in call.params:
        name = f"{name}@{call.text('realm')}"
    user = lab.cluster.users.get(name)
    password = call.text("password")
    renewed = password.startswith("PVE:") and lab.tickets.user_of(password) == name
    known = user is not None and bool(user.password) and secrets.compare_digest(str(user.password), password)
    if user is None or not user.enable or not (renewed or known):
        raise Refusal(401, "authentication failure")
    ticket = lab.tickets.make(name)
    return {
        "username": name,
        "ticket": ticket,
        "CSRFPreventionToken": lab.tickets.csrf(name),
        "cap": {},
    }


@serves("GET", "/access/permissions")
async def permissions(lab: Lab, call: Call) -> object:
    """Return effective rights by path, one's own or those of somebody else."""
    who = call.text("userid", call.who)
    own_token = who.partition("!")[0] == call.who
    if who != call.who and not own_token:
        lab.access.require(call.who, "/access", "Sys.Audit")
    if "path" in call.params:
        path = normal_path(call.text("path"))
        held = lab.access.privileges(who, path)
        return {path: {name: int(spread) for name, spread in held.items()}}
    return lab.access.everything(who)


@serves("GET", "/access/users")
async def list_users(lab: Lab, call: Call) -> object:
    """List users the caller may see; everybody sees themselves."""
    sees_all = lab.access.may(call.who, "/access/groups", ("User.Modify", "Sys.Audit"), any_of=True)
    own = call.who.partition("!")[0]
    found = []
    for user in lab.cluster.users.values():
        if not (sees_all or user.name == own):
            continue
        if "enabled" in call.params and call.on("enabled") != user.enable:
            continue
        view = {"userid": user.name, **_user_view(user), "realm-type": user.name.rpartition("@")[2]}
        if call.on("full"):
            view["tokens"] = [_token_view(token, named=True) for token in _tokens_of(lab, user.name)]
            view["groups"] = ",".join(user.groups)
        found.append(view)
    return found


@serves("POST", "/access/users")
async def create_user(lab: Lab, call: Call) -> object:
    """Add a user."""
    name = call.text("userid")
    if name in lab.cluster.users:
        raise failed(f"create user failed: user '{name}' already exists")
    user = User(name, call.text("password") or None)
    _fill_user(lab, user, call)
    lab.cluster.users.save(name, user)
    lab.access.changed()
    return None


@serves("GET", "/access/users/{userid}")
async def read_user(lab: Lab, call: Call) -> object:
    """Return one user."""
    user = _user(lab, call)
    tokens = {token.name.partition("!")[2]: _token_view(token) for token in _tokens_of(lab, user.name)}
    return {**_user_view(user), "groups": user.groups, "tokens": tokens}


@serves("PUT", "/access/users/{userid}")
async def update_user(lab: Lab, call: Call) -> object:
    """Change a user."""
    user = _user(lab, call)
    _fill_user(lab, user, call)
    lab.cluster.users.save(user.name, user)
    lab.access.changed()
    return None


@serves("DELETE", "/access/users/{userid}")
async def delete_user(lab: Lab, call: Call) -> object:
    """Remove a user with all tokens and rules."""
    user = _user(lab, call)
    for token in _tokens_of(lab, user.name):
        _forget(lab, token.name)
        lab.cluster.tokens.remove(token.name)
    _forget(lab, user.name)
    lab.cluster.users.remove(user.name)
    lab.access.changed()
    return None


@serves("GET", _TOKENS)
async def list_tokens(lab: Lab, call: Call) -> object:
    """List the tokens of a user."""
    return [_token_view(token, named=True) for token in _tokens_of(lab, _user(lab, call).name)]


@serves("GET", _TOKEN)
async def read_token(lab: Lab, call: Call) -> object:
    """Return one token, without its secret."""
    return _token_view(_token(lab, call))


@serves("POST", _TOKEN)
async def create_token(lab: Lab, call: Call) -> object:
    """Make a token; its secret is shown this once."""
    user = _user(lab, call)
    name = f"{user.name}!{call.text('tokenid')}"
    if name in lab.cluster.tokens:
        raise bad_parameters({"tokenid": "Token already exists."})
    token = Token(name, str(uuid.uuid4()))
    _fill_token(token, call)
    lab.cluster.tokens.save(name, token)
    lab.access.changed()
    info = {"privsep": str(int(token.privsep)), **({"comment": token.comment} if token.comment else {})}
    return {"full-tokenid": name, "value": token.secret, "info": info}


@serves("PUT", _TOKEN)
async def update_token(lab: Lab, call: Call) -> object:
    """Change a token."""
    token = _token(lab, call)
    _fill_token(token, call)
    for key in split_list(call.text("delete")):
        if key == "comment":
            token.comment = None
        elif key == "expire":
            token.expire = 0
    lab.cluster.tokens.save(token.name, token)
    lab.access.changed()
    return _token_view(token)


@serves("DELETE", _TOKEN)
async def delete_token(lab: Lab, call: Call) -> object:
    """Remove a token and its rules."""
    token = _token(lab, call)
    _forget(lab, token.name)
    lab.cluster.tokens.remove(token.name)
    lab.access.changed()
    return None


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


@serves("GET", "/access/groups")
async def list_groups(lab: Lab, call: Call) -> object:
    """List groups with their members."""
    return [
        {"groupid": group.name, "users": ",".join(u.name for u in lab.cluster.users.values() if group.name in u.groups)}
        for group in lab.cluster.groups.values()
        if lab.access.may(call.who, f"/access/groups/{group.name}", ("User.Modify", "Sys.Audit"), any_of=True)
    ]


@serves("GET", "/pools")
async def list_pools(lab: Lab, call: Call) -> object:
    """List pools the caller may see, or one with its members."""
    if "poolid" in call.params:
        lab.access.require(call.who, f"/pool/{call.text('poolid')}", "Pool.Audit")
        return [{"poolid": call.text("poolid"), **_pool_view(lab, _pool(lab, call), call)}]
    return [
        {"poolid": pool.name, **({"comment": pool.comment} if pool.comment else {})}
        for pool in lab.cluster.pools.values()
        if lab.access.may(call.who, f"/pool/{pool.name}", ("Pool.Audit",))
    ]


@serves("POST", "/pools")
async def create_pool(lab: Lab, call: Call) -> object:
    """Add a pool."""
    name = call.text("poolid")
    if name in lab.cluster.pools:
        raise failed(f"create pool failed: pool '{name}' already exists")
    lab.cluster.pools.save(name, Pool(name, call.text("comment") or None))
    lab.access.changed()
    return None


@serves("PUT", "/pools/{poolid}")
@serves("PUT", "/pools")
async def update_pool(lab: Lab, call: Call) -> object:
    """Add members to a pool, or take them out."""
    pool = _pool(lab, call)
    if "comment" in call.params:
        pool.comment = call.text("comment")
    removing = call.on("delete")
    for text in split_list(call.text("vms")):
        vmid = int(text)
        lab.access.require(call.who, f"/vms/{vmid}", "VM.Allocate")
        other = lab.cluster.pool_of(vmid)
        if removing:
            if vmid not in pool.vms:
                raise failed(f"update pool failed: VM {vmid} is not a pool member")
            pool.vms.remove(vmid)
            continue
        if other == pool.name:
            raise failed(f"update pool failed: VM {vmid} is already a pool member")
        if other is not None:
            if not call.on("allow-move"):
                raise failed(f"update pool failed: VM {vmid} belongs to pool '{other}' and 'allow-move' is not set")
            lab.cluster.pools[other].vms.remove(vmid)
            lab.cluster.pools.save(other, lab.cluster.pools[other])
        pool.vms.append(vmid)
    for name in split_list(call.text("storage")):
        lab.access.require(call.who, f"/storage/{name}", "Datastore.Allocate")
        if removing:
            pool.storage.remove(name)
        elif name not in pool.storage:
            pool.storage.append(name)
    lab.cluster.pools.save(pool.name, pool)
    lab.access.changed()
    return None


@serves("DELETE", "/pools/{poolid}")
@serves("DELETE", "/pools")
async def delete_pool(lab: Lab, call: Call) -> object:
    """Remove an empty pool."""
    pool = _pool(lab, call)
    for member in [
        *(f"VM {vmid}" for vmid in sorted(pool.vms)),
        *(f"storage '{name}'" for name in sorted(pool.storage)),
    ]:
        raise failed(f"delete pool failed: pool '{pool.name}' is not empty (contains {member})")
    lab.cluster.pools.remove(pool.name)
    lab.access.changed()
    return None


@serves("GET", "/pools/{poolid}")
async def read_pool(lab: Lab, call: Call) -> object:
    """Return a pool with its members."""
    return _pool_view(lab, _pool(lab, call), call)


def _pool(lab: Lab, call: Call) -> Pool:
    pool = lab.cluster.pools.get(call.text("poolid"))
    if pool is None:
        raise failed(f"pool '{call.text('poolid')}' does not exist")
    return pool


def _pool_view(lab: Lab, pool: Pool, call: Call) -> dict[str, object]:
    wanted = call.params.get("type")
    members = [
        views.guest_resource(lab, lab.cluster.guests[str(vmid)], pool.name)
        for vmid in pool.vms
        if str(vmid) in lab.cluster.guests and wanted in (None, lab.cluster.guests[str(vmid)].kind)
    ]
    if wanted in (None, "storage"):
        node = next(iter(lab.cluster.nodes))
        members += [views.storage_resource(lab, lab.cluster.storages[name], node) for name in pool.storage]
    view: dict[str, object] = {"members": members}
    return {**view, "comment": pool.comment} if pool.comment else view


def _user(lab: Lab, call: Call) -> User:
    user = lab.cluster.users.get(call.text("userid"))
    if user is None:
        raise failed(f"no such user ('{call.text('userid')}')")
    return user


def _token(lab: Lab, call: Call) -> Token:
    token = lab.cluster.tokens.get(f"{_user(lab, call).name}!{call.text('tokenid')}")
    if token is None:
        raise failed(f"no such token '{call.text('tokenid')}' for user '{call.text('userid')}'")
    return token


def _tokens_of(lab: Lab, user: str) -> list[Token]:
    return [token for token in lab.cluster.tokens.values() if token.name.startswith(f"{user}!")]


def _token_view(token: Token, *, named: bool = False) -> dict[str, object]:
    view: dict[str, object] = {"privsep": int(token.privsep), "expire": token.expire}
    if token.comment:
        view["comment"] = token.comment
    return {"tokenid": token.name.partition("!")[2], **view} if named else view


def _user_view(user: User) -> dict[str, object]:
    view: dict[str, object] = {"enable": int(user.enable), "expire": user.expire, **user.details}
    return {**view, "comment": user.comment} if user.comment else view


def _fill_user(lab: Lab, user: User, call: Call) -> None:
    if "comment" in call.params:
        user.comment = call.text("comment")
    if "enable" in call.params:
        user.enable = call.on("enable")
    if "expire" in call.params:
        user.expire = call.number("expire")
    for key in _USER_FIELDS:
        if key in call.params:
            user.details[key] = call.text(key)
    if "groups" in call.params:
        groups = split_list(call.text("groups"))
        for group in groups:
            if group not in lab.cluster.groups:
                raise failed(f"no such group '{group}'")
        user.groups = sorted({*(user.groups if call.on("append") else []), *groups})


def _fill_token(token: Token, call: Call) -> None:
    if "privsep" in call.params:
        token.privsep = call.on("privsep")
    if "expire" in call.params:
        token.expire = call.number("expire")
    if "comment" in call.params:
        token.comment = call.text("comment")


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


def _forget(lab: Lab, name: str) -> None:
    for key, entry in lab.cluster.acl.items():
        if entry.who == name:
            lab.cluster.acl.remove(key)
