"""Logging in, users, groups and tokens."""

from __future__ import annotations

import secrets
import uuid
from typing import TYPE_CHECKING

from provisioner.lab.access import normal_path
from provisioner.lab.model import Token, User
from provisioner.lab.refusals import Refusal, bad_parameters, failed
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema.formats import split_list

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_TOKENS = "/access/users/{userid}/token"
_TOKEN = _TOKENS + "/{tokenid}"
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


@serves("GET", "/access/domains")
async def realms(lab: Lab, call: Call) -> object:
    """List where users may come from, as the login page shows it to everybody."""
    return [
        {"realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication"},
        {"realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server"},
    ]


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


@serves("GET", "/access/groups")
async def list_groups(lab: Lab, call: Call) -> object:
    """List groups with their members."""
    return [
        {"groupid": group.name, "users": ",".join(u.name for u in lab.cluster.users.values() if group.name in u.groups)}
        for group in lab.cluster.groups.values()
        if lab.access.may(call.who, f"/access/groups/{group.name}", ("User.Modify", "Sys.Audit"), any_of=True)
    ]


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


def _forget(lab: Lab, name: str) -> None:
    for key, entry in lab.cluster.acl.items():
        if entry.who == name:
            lab.cluster.acl.remove(key)
