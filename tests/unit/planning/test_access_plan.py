"""From the rights that are to the rights that are wanted, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.access import (
    MARK,
    AccessWanted,
    HolderKind,
    RoleSeen,
    Rule,
    SecretSeen,
    SecretState,
    TokenSeen,
    UserSeen,
)
from provisioner.domain.access_plan import AccessPlan, Secret
from provisioner.domain.names import HypervisorName, MappingId
from provisioner.planning.access import access_plan, withdraw_plan
from provisioner.planning.access.roles import OUR_ROLES, SEEDS_ROLE, held_by, role_privileges
from tests.fleets import FLEET, fleet_from
from tests.unit.planning.access_cluster import BARE, ENTRY, FILE, PVE1, TOKEN, USER, WORKS, after, mapping


@pytest.fixture
def wanted(tmp_path: Path) -> AccessWanted:
    fleet = fleet_from(tmp_path)
    return AccessWanted(fleet, next(iter(fleet.clusters.values())))


@pytest.mark.parametrize("major", [8, 9])
def test_a_bare_cluster_gets_everything_and_then_nothing(wanted: AccessWanted, major: int) -> None:
    bare = replace(BARE, major=major)
    plan = access_plan(bare, wanted)
    assert plan.obstacles == ()
    assert [step.name for step in plan.steps] == [
        "create role ProvisionerVMs",
        "create role ProvisionerDisks",
        "create role ProvisionerImages",
        "create role ProvisionerNode",
        "create role ProvisionerAudit",
        "create role ProvisionerBridge",
        "create role ProvisionerGpu",
        "create user provisioner@pve",
        "create token provisioner@pve!fleet",
        "grant ProvisionerVMs on /vms",
        "grant ProvisionerDisks on /storage/local-lvm",
        "grant ProvisionerImages on /storage/local",
        "grant ProvisionerNode on /nodes/pve1",
        "grant ProvisionerAudit on /",
        "grant ProvisionerBridge on /sdn/zones/localnetwork/vmbr0",
        "grant ProvisionerGpu on /mapping/pci/rtx3090",
        "create PCI mapping rtx3090",
        "let storage local hold import",
    ]
    assert all(step.needs for step in plan.steps)
    assert access_plan(after(bare, plan), wanted).is_empty


def test_each_role_is_for_one_kind_of_path(wanted: AccessWanted) -> None:
    privileges = {role: " ".join(sorted(role_privileges(role, wanted.cluster, 9))) for role in OUR_ROLES}
    assert privileges == {
        "ProvisionerVMs": "VM.Allocate VM.Audit VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Disk VM.Config.HWType"
        " VM.Config.Memory VM.Config.Network VM.Config.Options VM.PowerMgmt",
        "ProvisionerDisks": "Datastore.AllocateSpace Datastore.Audit",
        "ProvisionerImages": "Datastore.AllocateTemplate Datastore.Audit",
        "ProvisionerNode": "Sys.AccessNetwork Sys.Audit",
        "ProvisionerAudit": "Sys.Audit",
        "ProvisionerBridge": "SDN.Use",
        "ProvisionerGpu": "Mapping.Use",
        "ProvisionerSeeds": "Datastore.Allocate",
    }
    assert {role: role_privileges(role, wanted.cluster, 8) for role in OUR_ROLES} == {
        role: role_privileges(role, wanted.cluster, 9) for role in OUR_ROLES
    }


def test_the_look_at_hardware_is_not_passed_on(wanted: AccessWanted) -> None:
    (step,) = [step for step in access_plan(BARE, wanted).steps if step.parameters.get("path") == "/"]
    assert step.parameters == {
        "path": "/",
        "roles": "ProvisionerAudit",
        "users": USER,
        "tokens": TOKEN,
        "propagate": 0,
    }


def test_deleting_seeds_is_granted_only_when_asked_for(wanted: AccessWanted) -> None:
    asked = replace(wanted, may_delete_seeds=True)
    seen = after(BARE, access_plan(BARE, wanted))
    plan = access_plan(seen, asked)
    assert [step.name for step in plan.steps] == [f"create role {SEEDS_ROLE}", f"grant {SEEDS_ROLE} on /storage/local"]
    assert access_plan(after(seen, plan), asked).is_empty


def test_one_storage_for_everything_gets_both_roles(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("{disks: local-lvm, images: local,", "{disks: local, images: local,"))
    wanted = AccessWanted(fleet, next(iter(fleet.clusters.values())))
    seen = after(BARE, access_plan(BARE, wanted))
    assert held_by(seen, HolderKind.TOKEN, TOKEN, "/storage/local") == {
        "Datastore.AllocateSpace",
        "Datastore.AllocateTemplate",
        "Datastore.Audit",
    }
    assert access_plan(seen, wanted).is_empty


def test_steps_are_shown_as_commands_that_a_shell_takes(wanted: AccessWanted) -> None:
    commands = {step.name: step.command for step in access_plan(BARE, wanted).steps}
    assert commands["create token provisioner@pve!fleet"] == (
        "pvesh create /access/users/provisioner@pve/token/fleet --privsep 1 --expire 0 --comment 'made by provisioner'"
    )
    assert commands["create PCI mapping rtx3090"] == (
        f"pvesh create /cluster/mapping/pci --id rtx3090 --map {ENTRY} --description 'made by provisioner'"
    )
    assert commands["let storage local hold import"] == "pvesh set /storage/local --content iso,vztmpl,backup,import"


# Roles that are there already.


def test_a_role_that_drifted_is_shown_as_it_is_and_as_it_would_be(wanted: AccessWanted) -> None:
    seen = after(BARE, access_plan(BARE, wanted))
    drifted = RoleSeen(frozenset({"Sys.Audit", "Sys.PowerMgmt"}))
    stranger = Rule("/nodes", HolderKind.USER, "ann@pve", "ProvisionerNode")
    seen = replace(seen, roles={**seen.roles, "ProvisionerNode": drifted}, rules=(*seen.rules, stranger))
    (step,) = access_plan(seen, wanted).steps
    assert step.changes == (
        "Sys.Audit Sys.PowerMgmt -> Sys.AccessNetwork Sys.Audit; adds Sys.AccessNetwork; takes away Sys.PowerMgmt"
    )
    assert "also held by ann@pve" in step.sentence
    assert access_plan(after(seen, AccessPlan(wanted, (step,))), wanted).is_empty


# Users and tokens that are there already.

BY_HAND = UserSeen(comment="for the GPU nodes", tokens={"fleet": TokenSeen(True)})


def everywhere(role: str) -> tuple[Rule, ...]:
    return (Rule("/", HolderKind.USER, USER, role), Rule("/", HolderKind.TOKEN, TOKEN, role))


def every_privilege(wanted: AccessWanted) -> frozenset[str]:
    return frozenset().union(*(role_privileges(role, wanted.cluster, 9) for role in OUR_ROLES))


def test_rights_given_by_hand_are_left_as_they_are(wanted: AccessWanted) -> None:
    seen = after(BARE, access_plan(BARE, wanted))
    seen = replace(
        seen,
        roles={"Mine": RoleSeen(every_privilege(wanted))},
        users={USER: BY_HAND},
        rules=everywhere("Mine"),
        secret=WORKS,
    )
    assert access_plan(seen, wanted) == AccessPlan(wanted)


def test_what_a_token_made_by_hand_lacks_is_added_and_nothing_else(wanted: AccessWanted) -> None:
    seen = after(BARE, access_plan(BARE, wanted))
    rules = tuple(rule for rule in seen.rules if (rule.path, rule.kind) != ("/nodes/pve1", HolderKind.TOKEN))
    seen = replace(seen, users={USER: BY_HAND}, rules=rules)
    (step,) = access_plan(seen, wanted).steps
    assert step.parameters == {"path": "/nodes/pve1", "roles": "ProvisionerNode", "tokens": TOKEN, "propagate": 1}


def test_no_rule_is_made_that_would_take_rights_away(wanted: AccessWanted) -> None:
    seen = after(BARE, access_plan(BARE, wanted))
    mine = RoleSeen(every_privilege(wanted) - {"VM.Allocate"} | {"VM.Console"})
    seen = replace(seen, roles={"Mine": mine}, users={USER: BY_HAND}, rules=everywhere("Mine"), secret=WORKS)
    plan = access_plan(seen, wanted)
    assert plan.is_empty
    assert [obstacle.found for obstacle in plan.obstacles] == [
        f"{who} has other rights on /vms (VM.Console), which a rule of its own there would replace"
        for who in (f"user {USER}", f"token {TOKEN}")
    ]


def test_a_token_of_root_needs_rules_for_itself_only(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("provisioner@pve!fleet", "root@pam!fleet"))
    wanted = AccessWanted(fleet, next(iter(fleet.clusters.values())))
    plan = access_plan(BARE, wanted)
    assert "create user root@pam" not in [step.name for step in plan.steps]
    grants = [step.parameters for step in plan.steps if step.path == "/access/acl"]
    assert len(grants) == 7
    assert all("users" not in parameters and parameters["tokens"] == "root@pam!fleet" for parameters in grants)


@pytest.mark.parametrize(
    ("token", "secret", "steps", "obstacle"),
    [
        (None, SecretSeen(SecretState.ABSENT, "s", FILE), ["create"], None),
        (None, SecretSeen(SecretState.EMPTY, "s", FILE), ["create"], None),
        (None, SecretSeen(SecretState.SAVED, "s", FILE), [], "holds a secret already"),
        (None, SecretSeen(SecretState.NOWHERE, "env:X"), [], "where a new one cannot be kept"),
        (None, SecretSeen(SecretState.UNUSABLE, "s", FILE, "others may read it"), [], "others may read it"),
        (TokenSeen(True, MARK), WORKS, [], None),
        (TokenSeen(False, MARK), WORKS, ["separate"], None),
        # A run was killed between making the token and saving what it showed.
        (TokenSeen(True, MARK), SecretSeen(SecretState.EMPTY, "s", FILE), ["delete", "create"], None),
        (TokenSeen(True, MARK), SecretSeen(SecretState.ABSENT, "s", FILE), ["delete", "create"], None),
        (TokenSeen(True, MARK), SecretSeen(SecretState.REFUSED, "s", FILE), [], "does not accept"),
        (TokenSeen(True, MARK), SecretSeen(SecretState.NOWHERE, "env:X"), [], "where a new one cannot be kept"),
        (TokenSeen(True), WORKS, [], None),
        (TokenSeen(True), SecretSeen(SecretState.EMPTY, "s", FILE), [], "not of our making"),
        (TokenSeen(True), SecretSeen(SecretState.NOWHERE, "env:X"), [], "not of our making"),
        (TokenSeen(True), SecretSeen(SecretState.REFUSED, "s", FILE), [], "does not accept"),
    ],
)
def test_a_token_is_made_anew_only_when_it_is_ours_and_nobody_has_its_secret(
    wanted: AccessWanted, token: TokenSeen | None, secret: SecretSeen, steps: list[str], obstacle: str | None
) -> None:
    seen = after(BARE, access_plan(BARE, wanted))
    user = replace(seen.users[USER], tokens={} if token is None else {"fleet": token})
    plan = access_plan(replace(seen, users={**seen.users, USER: user}, secret=secret), wanted)
    assert [step.name.split()[0] for step in plan.steps if "token" in step.name] == steps
    assert len(plan.obstacles) == (obstacle is not None)
    assert all(str(obstacle) in each.found for each in plan.obstacles)
    if "create" in steps:
        # A new token starts without rules.
        assert sum(step.path == "/access/acl" for step in plan.steps) == 7
        assert after(seen, plan).secret is WORKS


def test_a_disabled_user_is_pointed_out(wanted: AccessWanted) -> None:
    seen = after(BARE, access_plan(BARE, wanted))
    user = replace(seen.users[USER], is_enabled=False)
    plan = access_plan(replace(seen, users={**seen.users, USER: user}), wanted)
    assert plan.is_empty
    assert "is disabled" in plan.obstacles[0].found


# Storage.


def test_a_storage_that_cannot_hold_images_is_pointed_out(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("images: local, iso: local", "images: local-lvm, iso: nas"))
    plan = access_plan(BARE, AccessWanted(fleet, next(iter(fleet.clusters.values()))))
    assert [obstacle.found for obstacle in plan.obstacles] == [
        'storage "local-lvm" is of type lvmthin, which cannot hold import',
        'the cluster has no storage "nas" (there is: local, local-lvm)',
    ]


# The way back.


def test_undo_takes_away_what_was_made(wanted: AccessWanted) -> None:
    made = after(BARE, access_plan(BARE, replace(wanted, may_delete_seeds=True)))
    plan = withdraw_plan(made, wanted)
    assert plan.obstacles == ()
    assert all(step.needs or step.secret is Secret.FORGET for step in plan.steps)
    undone = after(made, plan)
    assert undone == replace(BARE, storages=made.storages)
    assert withdraw_plan(undone, wanted).is_empty


def test_undo_on_a_bare_cluster_finds_nothing(wanted: AccessWanted) -> None:
    assert withdraw_plan(BARE, wanted) == AccessPlan(wanted, is_undo=True)


def test_undo_leaves_what_others_use(wanted: AccessWanted) -> None:
    made = after(BARE, access_plan(BARE, wanted))
    user = replace(
        made.users[USER], groups=frozenset({"ops"}), tokens={**made.users[USER].tokens, "other": TokenSeen(True, MARK)}
    )
    made = replace(
        made,
        users={USER: user},
        rules=(
            *made.rules,
            Rule("/nodes", HolderKind.GROUP, "ops", "ProvisionerNode"),
            Rule("/pool/x", HolderKind.USER, USER, "PVEAuditor"),
        ),
        mappings={MappingId("rtx3090"): mapping(ENTRY, used_by=(5001,)), MappingId("else"): mapping(ENTRY)},
    )
    plan = withdraw_plan(made, wanted)
    left = "\n".join(obstacle.found for obstacle in plan.obstacles)
    assert (
        "it has other tokens (other), it is a member of ops, it has other rights (provisioner@pve on /pool/x)" in left
    )
    assert "the role ProvisionerNode stays: others have it too (ops on /nodes)" in left
    assert "the PCI mapping rtx3090 stays: VM 5001 uses it" in left
    deleted = [step.name for step in plan.steps if step.name.startswith("delete")]
    assert "delete user provisioner@pve" not in deleted
    assert "delete role ProvisionerNode" not in deleted
    assert "delete role ProvisionerVMs" in deleted
    assert not any("PCI" in name for name in deleted)


def test_undo_for_one_server_leaves_the_others_their_rights(tmp_path: Path) -> None:
    second = "  pve2:\n    cluster: homelab\n    gpus:\n      a40: {mapping: a40}\n      rtx: {mapping: rtx3090}\n"
    fleet = fleet_from(tmp_path, FLEET.replace("defaults:\n", f"{second}defaults:\n", 1))
    wanted = AccessWanted(fleet, next(iter(fleet.clusters.values())))
    made = after(BARE, access_plan(BARE, wanted))
    made = replace(made, mappings={**made.mappings, MappingId("a40"): mapping(ENTRY)})
    one = withdraw_plan(made, replace(wanted, leaving=PVE1))
    # pve2 shares the pool rtx3090.
    assert [step.name for step in one.steps] == ["take back ProvisionerNode on /nodes/pve1"]
    assert "pve2 of the same cluster needs them too" in one.obstacles[0].found
    other = withdraw_plan(made, replace(wanted, leaving=HypervisorName("pve2")))
    assert [step.name for step in other.steps] == [
        "take back ProvisionerNode on /nodes/pve2",
        "take back ProvisionerGpu on /mapping/pci/a40",
        "delete PCI mapping a40",
    ]
    assert "delete token provisioner@pve!fleet" in [step.name for step in withdraw_plan(made, wanted).steps]


def test_undo_leaves_what_others_made(wanted: AccessWanted) -> None:
    theirs = replace(
        BARE,
        users={USER: BY_HAND},
        mappings={MappingId("rtx3090"): mapping(ENTRY, ours=False)},
        secret=WORKS,
    )
    plan = withdraw_plan(theirs, wanted)
    assert plan.is_empty
    assert len(plan.obstacles) == 3


def test_undo_keeps_a_secret_that_is_not_the_tokens(wanted: AccessWanted) -> None:
    made = replace(after(BARE, access_plan(BARE, wanted)), secret=SecretSeen(SecretState.REFUSED, f"file:{FILE}", FILE))
    plan = withdraw_plan(made, wanted)
    assert not any(step.secret for step in plan.steps)
    assert "is not known to be this token's" in plan.obstacles[0].found


def test_a_right_of_another_kind_is_added_below_what_was_given_from_further_up(wanted: AccessWanted) -> None:
    seen = after(BARE, access_plan(BARE, wanted))
    mine = RoleSeen(every_privilege(wanted) - {"Mapping.Use"})
    seen = replace(seen, roles={"Mine": mine}, users={USER: BY_HAND}, rules=everywhere("Mine"), secret=WORKS)
    plan = access_plan(seen, wanted)
    assert [step.name for step in plan.steps] == [
        "create role ProvisionerGpu",
        "grant ProvisionerGpu on /mapping/pci/rtx3090",
    ]
    assert access_plan(after(seen, plan), wanted) == AccessPlan(wanted)
