"""From a cluster that knows nothing of us to a token with just the rights that it needs, and back again."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.proxmox.access import ProxmoxAccess
from provisioner.adapters.proxmox.session import PasswordLogin
from provisioner.adapters.secrets import SecretText
from provisioner.domain.access import MARK
from provisioner.errors import (
    HypervisorError,
    InputError,
    LoginRefusedError,
    PermissionMissingError,
    RefusedError,
)
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.planning.access.roles import role_privileges
from provisioner.services.events import Phase
from provisioner.services.granting import GrantEvent, Granting
from tests.lab.preparing import TOKEN, USER, bare_fleet, door_of, everything, live, secret_file, wish
from tests.lab.support import NODE, Site, site_for


@pytest.fixture(params=["8.4", "9.1"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A lab of either version."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", pve=request.param) as lab:
        yield site_for(lab, tmp_path, images)


def test_a_bare_cluster_becomes_one_that_nodes_live_on_and_goes_back(either: Site) -> None:
    fleet = bare_fleet(either)
    bare = everything(either)
    granting = Granting(door_of(either))
    plan = granting.preview(wish(fleet))
    assert everything(either) == bare  # a look changes nothing
    assert plan.obstacles == ()
    events: list[GrantEvent] = []
    report = granting.apply(plan, events.append)
    assert report.missing == ()
    assert report.done == tuple(step.name for step in plan.steps)
    assert [event.phase for event in events] == [Phase.STARTED, Phase.DONE] * len(plan.steps)
    assert granting.preview(wish(fleet)).is_empty
    file = secret_file(either)
    assert report.secret_file == file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() == either.lab.token()
    checks = fleet.hypervisor("pve1").doctor()
    assert {check.status.value for check in checks if check.id.startswith(("storage", "mapping"))} == {"ok"}
    live(fleet)
    undo = granting.preview_undo(wish(fleet))
    assert undo.obstacles == ()
    granting.apply(undo)
    assert everything(either) == bare
    assert not file.exists()
    assert granting.preview_undo(wish(fleet)).is_empty


def test_the_token_gets_what_it_needs_and_nothing_else(either: Site) -> None:
    fleet = bare_fleet(either)
    granting = Granting(door_of(either))
    granting.apply(granting.preview(wish(fleet)))
    held = either.lab.call("GET", "/access/permissions", who=TOKEN)
    agent = {"VM.Monitor"} if either.lab.lab.major == 8 else {"VM.GuestAgent.Unrestricted"}  # simulated guests only
    assert {path: set(privileges) for path, privileges in held.items()} == {
        "/": {"Sys.Audit"},
        "/nodes/pve1": {"Sys.AccessNetwork", "Sys.Audit"},
        "/vms": agent | role_privileges("ProvisionerVMs", wish(fleet).cluster, 8) - {"VM.Monitor"},
        "/storage/local-lvm": {"Datastore.AllocateSpace", "Datastore.Audit"},
        "/storage/local": {"Datastore.AllocateTemplate", "Datastore.Audit"},
        "/sdn/zones/localnetwork/vmbr0": {"SDN.Use"},
        "/mapping/pci/rtx3090": {"Mapping.Use"},
    }
    assert held["/"]["Sys.Audit"] == 0
    assert either.lab.call("GET", "/access/permissions", userid=USER) == held


def test_with_the_right_to_delete_seeds_nothing_stays_behind(site: Site) -> None:
    fleet = bare_fleet(site)
    granting = Granting(door_of(site))
    granting.apply(granting.preview(wish(fleet, may_delete_seeds=True)))
    fleet.up(NODE)
    assert len(fleet.destroy(NODE)) == 2


# Runs that end early.


class Killed(BaseException):
    """The process is gone."""


class DyingDoor:
    """A door that lets so many requests of a kind through and then kills the run, before or after the last one."""

    def __init__(self, site: Site, *, at: tuple[str, str], after: bool) -> None:
        self.inner = door_of(site)
        send = self.inner._caller.call

        def call(method: str, path: str, /, **parameters: Any) -> Any:
            fatal = method == at[0] and path.startswith(at[1])
            if fatal and not after:
                raise Killed
            answer = send(method, path, **parameters)
            if fatal:
                raise Killed
            return answer

        self.inner._caller.call = call  # type: ignore[method-assign]


CHANGES = [
    ("POST", "access/roles"),
    ("POST", "access/users"),
    ("POST", f"access/users/{USER}/token"),
    ("PUT", "access/acl"),
    ("POST", "cluster/mapping/pci"),
    ("PUT", "storage/local"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", CHANGES, ids=[path for _, path in CHANGES])
def test_a_run_killed_anywhere_is_continued_by_the_next(site: Site, at: tuple[str, str], after: bool) -> None:
    fleet = bare_fleet(site)
    bare = everything(site)
    dying = Granting(DyingDoor(site, at=at, after=after).inner)
    plan = dying.preview(wish(fleet))
    with pytest.raises(Killed):
        dying.apply(plan)
    granting = Granting(door_of(site))
    rest = granting.preview(wish(fleet))
    assert rest.blocking == ()
    report = granting.apply(rest)
    assert report.missing == ()
    assert granting.preview(wish(fleet)).is_empty
    assert secret_file(site).read_text().strip() == site.lab.token()
    granting.apply(granting.preview_undo(wish(fleet)))
    assert everything(site) == bare


def test_a_token_whose_secret_was_never_saved_is_made_anew_and_said_so(site: Site) -> None:
    fleet = bare_fleet(site)
    dying = Granting(DyingDoor(site, at=("POST", f"access/users/{USER}/token"), after=True).inner)
    with pytest.raises(Killed):
        dying.apply(dying.preview(wish(fleet)))
    assert secret_file(site).read_text() == ""
    lost = site.lab.token()
    plan = Granting(door_of(site)).preview(wish(fleet))
    (step,) = [step for step in plan.steps if step.method == "DELETE"]
    assert "its secret was never saved" in step.sentence
    assert "with another secret" in step.changes
    Granting(door_of(site)).apply(plan)
    assert site.lab.token() != lost


# Who may not.


def test_a_wrong_password_is_refused(site: Site) -> None:
    fleet = bare_fleet(site)
    bare = everything(site)
    with pytest.raises(LoginRefusedError) as refusal:
        Granting(door_of(site, password="wrong")).preview(wish(fleet))
    assert "does not accept user root@pam" in refusal.value.summary
    assert everything(site) == bare


def user_with(site: Site, *roles: str) -> ProxmoxAccess:
    site.lab.call("POST", "/access/users", userid="ann@pve", password="a long password")
    for role in roles:
        site.lab.call("PUT", "/access/acl", path="/", roles=role, users="ann@pve")
    return door_of(site, "ann@pve", "a long password")


def test_somebody_who_may_not_look_is_told_what_is_missing(site: Site) -> None:
    fleet = bare_fleet(site)
    with pytest.raises(PermissionMissingError) as refusal:
        Granting(user_with(site)).preview(wish(fleet))
    assert refusal.value.summary.startswith("cannot see what is there: 403, this login lacks")
    assert "User.Modify or Sys.Audit on /access/groups" in refusal.value.summary
    assert "user ann@pve on cluster lab" in refusal.value.subject


def test_somebody_who_may_look_but_not_change_is_told_before_anything_is_done(site: Site) -> None:
    fleet = bare_fleet(site)
    granting = Granting(user_with(site, "PVEAuditor"))
    bare = everything(site)
    plan = granting.preview(wish(fleet))
    assert not plan.is_empty
    with pytest.raises(PermissionMissingError) as refusal:
        granting.apply(plan)
    for lacking in (
        "Sys.Modify on /access",
        "Realm.AllocateUser on /access/realm/pve",
        "User.Modify on /access/groups",
        "Permissions.Modify on /vms",
        "Mapping.Modify on /mapping/pci",
        "Datastore.Allocate on /storage",
    ):
        assert lacking in refusal.value.summary
    assert everything(site) == bare
    assert not secret_file(site).exists()


def test_an_administrator_other_than_root_will_do(site: Site) -> None:
    fleet = bare_fleet(site)
    granting = Granting(user_with(site, "Administrator"))
    assert granting.apply(granting.preview(wish(fleet))).missing == ()
    live(fleet)


def test_proxmox_own_refusal_of_a_step_is_passed_on(site: Site) -> None:
    fleet = bare_fleet(site)
    door = user_with(site, "Administrator")
    door.own_permissions = lambda: {"/": dict.fromkeys(every_privilege(site), 1)}  # type: ignore[method-assign]
    granting = Granting(door)
    plan = granting.preview(wish(fleet))
    site.lab.call("PUT", "/access/acl", path="/access", roles="PVEAuditor", users="ann@pve")
    with pytest.raises(PermissionMissingError) as refusal:
        granting.apply(plan)
    assert "Permission check failed (/access, Sys.Modify)" in refusal.value.summary
    assert "log in as root@pam" in refusal.value.next_step


def every_privilege(site: Site) -> list[str]:
    return list(site.lab.call("GET", "/access/permissions", path="/")["/"])


# What is there already.


def test_a_role_that_drifted_is_put_right(site: Site) -> None:
    fleet = bare_fleet(site)
    granting = Granting(door_of(site))
    granting.apply(granting.preview(wish(fleet)))
    site.lab.call("PUT", "/access/roles/ProvisionerNode", privs="Sys.Audit,Sys.PowerMgmt")
    plan = granting.preview(wish(fleet))
    (step,) = plan.steps
    assert step.changes.startswith("Sys.Audit Sys.PowerMgmt -> Sys.AccessNetwork Sys.Audit")
    granting.apply(plan)
    live(fleet)


def test_rights_that_were_given_by_hand_are_left_as_they_are(site: Site) -> None:
    fleet = site.fleet()
    before = everything(site)
    granting = Granting(door_of(site))
    plan = granting.preview(wish(fleet))
    assert plan.is_empty, str(plan)
    assert plan.obstacles == ()
    undo = granting.preview_undo(wish(fleet))
    left = [obstacle.found for obstacle in undo.obstacles]
    assert f"the token {TOKEN} is not of our making" in left
    assert f"the user {USER} stays: it is not of our making" in left
    assert not any(step.method == "DELETE" and "/users/" in step.path for step in undo.steps)
    assert everything(site) == before


def test_a_plan_is_not_carried_out_on_a_cluster_that_has_changed(site: Site) -> None:
    fleet = bare_fleet(site)
    granting = Granting(door_of(site))
    plan = granting.preview(wish(fleet))
    site.lab.call("POST", "/access/roles", roleid="ProvisionerVMs", privs="VM.Audit")
    changed = everything(site)
    with pytest.raises(RefusedError, match="the cluster has changed since it was made"):
        granting.apply(plan)
    assert everything(site) == changed


def test_undo_leaves_a_mapping_that_a_vm_uses(site: Site) -> None:
    fleet = bare_fleet(site)
    granting = Granting(door_of(site))
    granting.apply(granting.preview(wish(fleet)))
    fleet.up(NODE)
    plan = granting.preview_undo(wish(fleet))
    assert [obstacle.found for obstacle in plan.obstacles] == ["the PCI mapping rtx3090 stays: VM 5001 uses it"]


# The secret.


def test_a_secret_that_is_there_is_never_written_over(site: Site) -> None:
    fleet = bare_fleet(site)
    secret_file(site).touch(0o600)
    secret_file(site).write_text("somebody-elses\n")
    granting = Granting(door_of(site))
    plan = granting.preview(wish(fleet))
    with pytest.raises(RefusedError, match="holds a secret already"):
        granting.apply(plan)
    assert secret_file(site).read_text() == "somebody-elses\n"
    assert site.lab.call("GET", "/access/users", full="1")[0]["userid"] == "root@pam"


def test_without_a_place_for_the_secret_no_token_is_made(site: Site) -> None:
    fleet = bare_fleet(site)
    (site.folder / "fleet.secret").mkdir()
    granting = Granting(door_of(site))
    plan = granting.preview(wish(fleet))
    with pytest.raises(RefusedError):
        granting.apply(plan)
    assert TOKEN not in site.lab.credentials


def test_a_folder_that_may_not_be_written_is_found_out_before_there_is_a_token(site: Site) -> None:
    fleet = bare_fleet(site)
    # A file where the folder should be stops root too.
    (site.folder / "taken").write_text("")
    fleet = site.fleet(lambda text: text.replace("fleet.secret", "taken/fleet.secret"))
    granting = Granting(door_of(site))
    plan = granting.preview(wish(fleet))
    with pytest.raises(InputError, match="cannot keep the token's secret"):
        granting.apply(plan)
    assert TOKEN not in site.lab.credentials


def test_a_secret_from_the_environment_needs_a_file_for_a_new_one(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_fleet(site)
    fleet = site.fleet(lambda text: text.replace(f"file:{secret_file(site)}", "env:LAB_SECRET"))
    monkeypatch.delenv("LAB_SECRET", raising=False)
    granting = Granting(door_of(site))
    (obstacle,) = granting.preview(wish(fleet)).blocking
    assert "--secret-file PATH" in obstacle.next_step
    file = tmp_path / "new" / "secret"
    granting.apply(granting.preview(wish(fleet, secret_file=file)))
    monkeypatch.setenv("LAB_SECRET", file.read_text().strip())
    assert granting.preview(wish(fleet)).is_empty
    live(site.fleet())


def test_two_places_for_one_secret_are_refused(site: Site, tmp_path: Path) -> None:
    fleet = bare_fleet(site)
    with pytest.raises(InputError, match="cannot tell where the token's secret goes"):
        Granting(door_of(site)).preview(wish(fleet, secret_file=tmp_path / "other"))


def test_a_secret_that_no_longer_works_is_pointed_out(site: Site) -> None:
    fleet = bare_fleet(site)
    granting = Granting(door_of(site))
    granting.apply(granting.preview(wish(fleet)))
    site.lab.call("DELETE", f"/access/users/{USER}/token/fleet")
    site.lab.call("POST", f"/access/users/{USER}/token/fleet", comment=MARK)
    plan = granting.preview(wish(fleet))
    assert "Proxmox does not accept the secret" in plan.obstacles[0].found
    secret_file(site).unlink()
    granting.apply(granting.preview(wish(fleet)))
    live(fleet)


def test_the_secret_is_in_no_plan_event_report_or_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    fleet = bare_fleet(site)
    granting = Granting(door_of(site))
    plan = granting.preview(wish(fleet))
    events: list[GrantEvent] = []
    report = granting.apply(plan, events.append)
    secret, password = site.lab.token(), site.lab.credentials["root@pam"]
    for text in (repr(plan), str(plan), repr(events), repr(report), repr(report.as_dict()), caplog.text):
        assert secret not in text
        assert password not in text


def test_a_server_that_is_off_leaves_its_cards_for_later(site: Site) -> None:
    fleet = bare_fleet(site)
    door = door_of(site)
    call = door._caller.call
    rows = [{"node": "pve1", "status": "offline"}]
    door._caller.call = lambda method, path, /, **rest: (  # type: ignore[method-assign]
        rows if path == "nodes" else call(method, path, **rest)
    )
    plan = Granting(door).preview(wish(fleet))
    assert "server pve1 does not answer" in plan.obstacles[0].found
    assert not any("PCI" in step.name for step in plan.steps)


def test_no_answer_leaves_a_cluster_as_it_is(site: Site) -> None:
    fleet = bare_fleet(site)
    door = door_of(site)
    site.lab.close()
    with pytest.raises(HypervisorError, match="cannot reach Proxmox"):
        Granting(door).preview(wish(fleet))


def test_the_library_does_it_in_four_lines(site: Site) -> None:
    server = bare_fleet(site).hypervisor("pve1")
    door = server.enter(PasswordLogin("root@pam", SecretText(site.lab.credentials["root@pam"])))
    plan = server.access_plan(door)
    assert server.grant(plan, door).missing == ()
    assert server.access_plan(door).is_empty
    assert not server.access_plan(door, undo=True).is_empty
