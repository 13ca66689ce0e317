"""Access paths: tickets, users, tokens, roles, access rules, pools."""

from __future__ import annotations

from provisioner.lab.schema import permissions as may
from provisioner.lab.schema.language import flag, one_of, required, text, whole
from provisioner.lab.schema.permissions import ALL, WORLD, MayAllocateUser, MayModifyAcl, Oneself, OverUser, Row

_USERID = required(text("userid", format="pve-userid", max_length=64))
_TOKENID = required(text("tokenid", pattern=r"(?:[A-Za-z][A-Za-z0-9\.\-_]+)"))
_ROLEID = required(text("roleid", format="pve-roleid"))
_POOLID = text("poolid", format="pve-poolid")
_POOL = required(_POOLID)
_PRIVS = text("privs", format="pve-priv-list")
_COMMENT = text("comment")
_OWN_TOKENS = may.one_of(Oneself(), OverUser(("User.Modify",)))
_TOKEN_PATH = "/access/users/{userid}/token/{tokenid}"  # noqa: S105 - a path
_TOKEN_OPTIONS = (_COMMENT, whole("expire", 0, default="same as user"), flag("privsep", 1))
_PERSON = (
    text("comment", max_length=2048),
    text("email", format="email-opt", max_length=254),
    flag("enable", 1),
    whole("expire", 0),
    text("firstname", max_length=1024),
    text("groups", format="pve-groupid-list"),
    text("keys", pattern="[0-9a-zA-Z!=]{0,4096}"),
    text("lastname", max_length=1024),
)
_MAY_ALLOCATE_POOL = may.has("/pool/{poolid}", "Pool.Allocate")
_MAY_CHANGE_ROLES = may.has("/access", "Sys.Modify")
_POOL_CHANGES = (
    _POOL,
    flag("allow-move", 0),
    _COMMENT,
    flag("delete", 0),
    text("storage", format="pve-storage-id-list"),
    text("vms", format="pve-vmid-list"),
)
_POOL_TYPES = "qemu lxc storage"
_ANY_USER = r"(?:^(?:[^\s:/]+)\@(?:[A-Za-z][A-Za-z0-9\.\-_]+)(?:!(?:[A-Za-z][A-Za-z0-9\.\-_]+))?$)"

ACCESS: tuple[Row, ...] = (
    (
        "POST",
        "/access/ticket",
        (
            flag("new-format", 1),
            text("otp"),
            required(text("password")),
            text("path", max_length=64, requires="privs"),
            text("privs", format="pve-priv-list", max_length=64, requires="path"),
            text("realm", format="pve-realm", max_length=32),
            text("tfa-challenge"),
            required(text("username", max_length=64)),
        ),
        WORLD,
    ),
    ("GET", "/access/domains", (), WORLD),
    ("GET", "/access/permissions", (text("path"), text("userid", pattern=_ANY_USER)), ALL),
    ("GET", "/access/users", (flag("enabled"), flag("full", 0)), ALL),
    (
        "POST",
        "/access/users",
        (_USERID, *_PERSON, text("password", min_length=8, max_length=64)),
        may.all_of(MayAllocateUser(), OverUser(("User.Modify",), creating=True)),
    ),
    ("GET", "/access/users/{userid}", (_USERID,), OverUser(("User.Modify", "Sys.Audit"))),
    (
        "PUT",
        "/access/users/{userid}",
        (_USERID, *_PERSON, flag("append", requires="groups")),
        OverUser(("User.Modify",)),
    ),
    (
        "DELETE",
        "/access/users/{userid}",
        (_USERID,),
        may.all_of(MayAllocateUser(), OverUser(("User.Modify",))),
    ),
    ("GET", "/access/users/{userid}/token", (_USERID,), _OWN_TOKENS),
    ("GET", _TOKEN_PATH, (_USERID, _TOKENID), _OWN_TOKENS),
    ("POST", _TOKEN_PATH, (_USERID, _TOKENID, *_TOKEN_OPTIONS), _OWN_TOKENS),
    (
        "PUT",
        _TOKEN_PATH,
        (_USERID, _TOKENID, *_TOKEN_OPTIONS, text("delete", format="pve-configid-list", only=9)),
        _OWN_TOKENS,
    ),
    ("DELETE", _TOKEN_PATH, (_USERID, _TOKENID), _OWN_TOKENS),
    ("GET", "/access/roles", (), ALL),
    ("POST", "/access/roles", (_ROLEID, _PRIVS), _MAY_CHANGE_ROLES),
    ("GET", "/access/roles/{roleid}", (_ROLEID,), ALL),
    ("PUT", "/access/roles/{roleid}", (_ROLEID, _PRIVS, flag("append", requires="privs")), _MAY_CHANGE_ROLES),
    ("DELETE", "/access/roles/{roleid}", (_ROLEID,), _MAY_CHANGE_ROLES),
    ("GET", "/access/acl", (), ALL),
    (
        "PUT",
        "/access/acl",
        (
            flag("delete"),
            text("groups", format="pve-groupid-list"),
            required(text("path")),
            flag("propagate", 1),
            required(text("roles", format="pve-roleid-list")),
            text("tokens", format="pve-tokenid-list"),
            text("users", format="pve-userid-list"),
        ),
        MayModifyAcl("{path}"),
    ),
    ("GET", "/access/groups", (), ALL),
    ("GET", "/pools", (_POOLID, one_of("type", _POOL_TYPES, requires="poolid")), ALL),
    ("POST", "/pools", (_POOL, _COMMENT), _MAY_ALLOCATE_POOL),
    ("PUT", "/pools", _POOL_CHANGES, _MAY_ALLOCATE_POOL),
    ("DELETE", "/pools", (_POOL,), _MAY_ALLOCATE_POOL),
    ("GET", "/pools/{poolid}", (_POOL, one_of("type", _POOL_TYPES)), may.has("/pool/{poolid}", "Pool.Audit")),
    ("PUT", "/pools/{poolid}", _POOL_CHANGES, _MAY_ALLOCATE_POOL),
    ("DELETE", "/pools/{poolid}", (_POOL,), _MAY_ALLOCATE_POOL),
)
