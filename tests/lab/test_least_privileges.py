"""A token with exactly the rights of the table lives through a node's whole life; the README says the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from provisioner.domain.fleet import FleetSpec
from provisioner.errors import ProvisionerError
from provisioner.fleet import Fleet
from provisioner.planning.access import Right, Verb, needed_rights, rights_by_path
from provisioner.planning.access.calls import CALLS
from tests.fleets import fleet_from
from tests.lab.cloned import four, native
from tests.lab.preparing import live
from tests.lab.support import NODE, Site
from tests.lab.test_modes import gaming_vm, with_modes

README = Path(__file__).resolve().parents[2] / "README.md"
TOKEN = "provisioner@pve!fleet"
FREE = {
    "GET /version",
    "GET /access/permissions",
    "GET /nodes/{node}/tasks",
    "GET /nodes/{node}/tasks/{upid}/status",
    "GET /nodes/{node}/tasks/{upid}/log",
}
"""Requests that take no privilege."""


def listed_rights() -> dict[str, list[str]]:
    """Read path and privileges off the README's table."""
    rows = re.findall(r"^   \| `(/[^`]*)`[^|]*\| ([A-Z][^|]*) \|$", README.read_text(), re.MULTILINE)
    return {path: privileges.split() for path, privileges in rows}


def rights_of(spec: FleetSpec, *, wanted: Callable[[Right], bool]) -> dict[str, list[str]]:
    """Take rights from the table."""
    cluster = spec.clusters[next(iter(spec.clusters))]
    chosen = [right for right in needed_rights(spec, cluster, 9) if wanted(right)]
    return {path: list(privileges) for path, privileges in rights_by_path(chosen).items()}


def rights_of_the_documents() -> list[tuple[str, str]]:
    """Path and privilege for the fleet of the documents, whose names are those of the lab too."""
    with TemporaryDirectory() as folder:
        rights = rights_of(
            fleet_from(Path(folder)), wanted=lambda right: not right.optional and not right.is_for_doctor_only
        )
    return [(path, privilege) for path, privileges in rights.items() for privilege in privileges]


def one_card(site: Site) -> Fleet:
    """The fleet of the documents: one card; the lab's other one stays out of sight."""
    return site.fleet(lambda text: re.sub(r"\n      rtx3060:.*", "", text))


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


def test_the_readme_lists_the_rights_of_the_table(tmp_path: Path) -> None:
    spec = fleet_from(tmp_path)
    listed = {path: sorted(privileges) for path, privileges in listed_rights().items()}
    for_work = rights_of(spec, wanted=lambda right: right.granted and not right.is_for_doctor_only)
    with_doctor = rights_of(spec, wanted=lambda right: right.granted)
    # The README may leave out what only doctor asks for.
    assert listed in (for_work, with_doctor)


def test_the_rights_of_the_table_are_enough(site: Site) -> None:
    fleet = one_card(site)
    grant_only(site, rights_of(fleet.spec, wanted=lambda right: not right.optional and not right.is_for_doctor_only))
    live(fleet)


@pytest.mark.parametrize("drive", ["seed", "proxmox"])
def test_what_prepare_grants_is_enough_to_clone(site: Site, drive: str) -> None:
    fleet = four(site) if drive == "seed" else native(four(site), site)
    grant_only(site, rights_of(fleet.spec, wanted=lambda right: right.granted and not right.is_for_doctor_only))
    assert "clone" in fleet.up("node-1").changed
    assert fleet.up("node-1").changed == ()
    fleet.destroy("node-1")
    alone = site.fleet(lambda text: re.sub(r"  node-[234]:.*\n", "", text))
    assert [fate.removed for fate in alone.remove_unused_templates()] == [True]


@pytest.mark.parametrize(("path", "privilege"), rights_of_the_documents())
def test_each_right_is_needed(site: Site, path: str, privilege: str) -> None:
    fleet = one_card(site)
    rights = rights_of(fleet.spec, wanted=lambda right: not right.optional and not right.is_for_doctor_only)
    rights[path] = [each for each in rights[path] if each != privilege]
    grant_only(site, {path: privileges for path, privileges in rights.items() if privileges})
    with pytest.raises((ProvisionerError, AssertionError)):
        live(fleet)


def test_every_request_of_a_nodes_life_is_in_the_table(site: Site) -> None:
    one_card(site)
    fleet = site.fleet(lambda text: with_modes(text, "ml, r1, gaming", ", may_shut_down: true"))
    gaming_vm(site)

    def modes() -> None:
        for mode in ("r1", "gaming", "ml"):
            fleet.mode(NODE, mode)

    acts: dict[Verb, Callable[[], object]] = {
        Verb.DOCTOR: lambda: fleet.hypervisor("pve1").doctor(),
        Verb.UP: lambda: fleet.up(NODE),
        Verb.STATUS: lambda: fleet.status(),
        Verb.IDLE: lambda: fleet.idle(),
        Verb.MODE: modes,
        Verb.SLEEP: lambda: fleet.sleep(NODE),
        Verb.WAKE: lambda: fleet.wake(NODE),
        Verb.DESTROY: lambda: fleet.destroy(NODE),
    }
    assert set(acts) == set(Verb)
    for verb, act in acts.items():
        site.lab.forget_requests()
        act()
        sent = {template(request["method"], request["path"]) for request in site.lab.requests()}
        assert sent - FREE <= {call.request for call in CALLS if verb in call.verbs}, verb


def template(method: str, path: str) -> str:
    """Write a request as the API's schema does."""
    path = re.sub(r"/content/.+$", "/content/{volume}", path)
    path = re.sub(r"^(/nodes)/[^/]+", r"\1/{node}", path)
    path = re.sub(r"(/storage)/[^/]+", r"\1/{storage}", path)
    path = re.sub(r"(/qemu)/\d+", r"\1/{vmid}", path)
    path = re.sub(r"(/tasks)/[^/]+", r"\1/{upid}", path)
    return f"{method} {path}"
