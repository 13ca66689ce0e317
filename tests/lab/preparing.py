"""A lab where nobody has prepared anything yet, and what is compared before and after."""

from __future__ import annotations

import re
from typing import Any

from provisioner.adapters.proxmox.access import ProxmoxAccess, entered_with
from provisioner.adapters.proxmox.session import PasswordLogin
from provisioner.adapters.secrets import SecretText
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.access import AccessWanted
from provisioner.fleet import Fleet
from tests.lab.support import NODE, Site

USER, TOKEN = "provisioner@pve", "provisioner@pve!fleet"


def make_bare(site: Site) -> None:
    """Take away what the lab brings along: user, roles, rules, mappings, the content type, the saved secret."""
    call = site.lab.call
    call("DELETE", f"/access/users/{USER}")
    for role in call("GET", "/access/roles"):
        if not role["special"]:
            call("DELETE", f"/access/roles/{role['roleid']}")
    for mapping in call("GET", "/cluster/mapping/pci"):
        call("DELETE", f"/cluster/mapping/pci/{mapping['id']}")
    call("PUT", "/storage/local", content="iso,vztmpl,backup")
    secret_file(site).unlink()


def secret_file(site: Site) -> Any:
    """Where the fleet file says that the secret is."""
    return site.fleet_file.with_suffix(".secret")


def bare_fleet(site: Site) -> Fleet:
    """The fleet of a bare lab: one card."""
    make_bare(site)
    return site.fleet(lambda text: re.sub(r"\n      rtx3060:.*", "", text))


def wish(fleet: Fleet, **more: Any) -> AccessWanted:
    """What is wanted of the lab."""
    return AccessWanted(fleet.spec, next(iter(fleet.spec.clusters.values())), **more)


def door_of(site: Site, user: str = "root@pam", password: str | None = None) -> ProxmoxAccess:
    """Somebody's way in, by password."""
    secret = SecretText(password or site.lab.credentials[user])
    cluster = next(iter(site.fleet().spec.clusters.values()))
    return entered_with(cluster.address, PasswordLogin(user, secret), SystemClock())


def everything(site: Site) -> dict[str, Any]:
    """Users with tokens, roles, rules and mappings, in an order of our own."""

    def plain(path: str, **parameters: str) -> list[Any]:
        return sorted(site.lab.call("GET", path, **parameters), key=repr)

    return {
        "users": plain("/access/users", full="1"),
        "roles": plain("/access/roles"),
        "rules": plain("/access/acl"),
        "mappings": [{**mapping, "digest": ""} for mapping in plain("/cluster/mapping/pci")],
    }


def live(fleet: Fleet) -> None:
    """See to it that the token's rights are those of the whole life: from nothing to a node and back."""
    fleet.up(NODE)
    fleet.up(NODE)
    fleet.status()
    fleet.idle()
    fleet.sleep(NODE)
    fleet.wake(NODE)
    assert fleet.destroy(NODE) == ("vm 5001 and its disks",)
