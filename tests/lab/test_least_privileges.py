"""A token with exactly the rights that the README lists lives through a node's whole life."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provisioner.errors import ProvisionerError
from tests.lab.support import NODE, Site

README = Path(__file__).resolve().parents[2] / "README.md"
TOKEN = "provisioner@pve!fleet"


def listed_rights() -> dict[str, list[str]]:
    """Read path and privileges off the README's table."""
    rows = re.findall(r"^   \| `(/[^`]*)`[^|]*\| ([A-Z][^|]*) \|$", README.read_text(), re.MULTILINE)
    return {path: privileges.split() for path, privileges in rows}


def grant_only(site: Site, rights: dict[str, list[str]]) -> None:
    """Take every right from user and token, then give these to both."""
    for entry in site.lab.call("GET", "/access/acl"):
        kind = "users" if entry["type"] == "user" else "tokens"
        if str(entry["ugid"]).startswith("provisioner@pve"):
            site.lab.call(
                "PUT", "/access/acl", path=entry["path"], roles=entry["roleid"], delete="1", **{kind: entry["ugid"]}
            )
    for number, (path, privileges) in enumerate(rights.items()):
        site.lab.call("POST", "/access/roles", roleid=f"Only{number}", privs=",".join(privileges))
        site.lab.call("PUT", "/access/acl", path=path, roles=f"Only{number}", users="provisioner@pve", tokens=TOKEN)


def live(site: Site) -> None:
    fleet = site.fleet()
    # The rights are for one card; the lab's other one stays out of sight.
    checks = [check for check in fleet.hypervisor("pve1").doctor() if check.id != "mapping_rtx3060"]
    assert all(check.status.value == "ok" for check in checks)
    fleet.up(NODE)
    fleet.up(NODE)
    fleet.status()
    fleet.idle()
    fleet.sleep(NODE)
    fleet.wake(NODE)
    assert fleet.destroy(NODE) == ("vm 5001 and its disks",)


def as_agents_are(rights: dict[str, list[str]]) -> dict[str, list[str]]:
    """Add what only simulated guests need: we reach real ones by SSH, and those by their agent."""
    return {**rights, "/vms": [*rights["/vms"], "VM.GuestAgent.Unrestricted"]}


def test_the_listed_rights_are_enough(site: Site) -> None:
    rights = listed_rights()
    assert len(rights) == 6
    grant_only(site, as_agents_are(rights))
    live(site)


@pytest.mark.parametrize(
    ("path", "privilege"),
    [(path, privilege) for path, privileges in listed_rights().items() for privilege in privileges],
)
def test_each_listed_right_is_needed(site: Site, path: str, privilege: str) -> None:
    rights = listed_rights()
    rights[path] = [each for each in rights[path] if each != privilege]
    if not rights[path]:
        del rights[path]
    grant_only(site, as_agents_are(rights) if "/vms" in rights else rights)
    with pytest.raises((ProvisionerError, AssertionError)):
        live(site)
