"""What n8n is told, on an n8n in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from provisioner.domain.orchestrator import OrchestratorName
from provisioner.errors import InputError, OrchestratorError
from provisioner.orchestrators.base import Deed, ItemState
from provisioner.orchestrators.n8n.rendering import KEYS
from provisioner.services.registering import Registering, RegistrationReport
from tests.fakes.n8n import KEY, URL, FakeN8n
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

N8N = OrchestratorName("n8n")
TOKEN = "token-of-n8n-0123456789"
WORDS = f"""\
service: {{tokens: {{n8n: {{secret: env:N8N_TOKEN, may: [route, wake]}}}}}}
orchestrators: {{n8n: {{url: {URL}, api_key: env:N8N_API_KEY, webhook_key: env:N8N_WEBHOOK_KEY}}}}
"""
NAMES = ["LLM load balancer", "Health check and failover", "Idle shutdown", "Request metrics"]


@dataclass
class Site:
    """A fleet, an n8n, and what tells it."""

    fleet: FleetSpec
    world: FakeWorld
    n8n: FakeN8n
    nodes: tuple[NodeName, ...]

    @property
    def registering(self) -> Registering:
        return Registering(self.fleet, self.world)

    def register(self, *, force: bool = False) -> RegistrationReport:
        (report,) = self.registering.register(self.nodes, force=force)
        return report

    def states(self, report: RegistrationReport) -> dict[str, tuple[ItemState, Deed]]:
        return {item.name: (item.state, item.deed) for item in report.items}


@pytest.fixture
def site(tmp_path: Path, world: FakeWorld) -> Site:
    fleet = fleet_from(tmp_path, FLEET + WORDS)
    n8n = FakeN8n(world.clock)
    world.web = n8n  # type: ignore[assignment]
    world.secrets = {"env:N8N_TOKEN": TOKEN, "env:N8N_API_KEY": KEY, "env:N8N_WEBHOOK_KEY": "webhook-0123456789"}
    return Site(fleet, world, n8n, tuple(fleet.nodes))


def test_it_gets_credentials_and_active_workflows_with_our_tag(site: Site) -> None:
    report = site.register()
    assert report.is_complete
    assert report.changed
    assert [each["name"] for each in site.n8n.workflows.values()] == NAMES
    assert all(each["active"] for each in site.n8n.workflows.values())
    assert all([tag["name"] for tag in each["tags"]] == ["provisioner"] for each in site.n8n.workflows.values())
    assert [each["data"] for each in site.n8n.credentials.values()] == [
        {"name": "Authorization", "value": f"Bearer {TOKEN}"},
        {"name": "Authorization", "value": "Bearer webhook-0123456789"},
        {"apiKey": TOKEN, "url": "http://127.0.0.1:8700/v1"},
    ]
    assert site.states(report)["POST /webhook/llm/chat"][0] is ItemState.SAME


def test_no_secret_is_in_a_workflow(site: Site) -> None:
    site.register()
    text = json.dumps(site.n8n.workflows)
    assert not [secret for secret in site.world.secrets.values() if secret in text]


def test_the_second_time_nothing_changes(site: Site) -> None:
    site.register()
    before = json.dumps(site.n8n.workflows)
    report = site.register()
    assert report.is_complete
    assert not report.changed
    assert json.dumps(site.n8n.workflows) == before
    assert len(site.n8n.credentials) == 3


def test_looking_writes_nothing_and_shows_what_is_missing(site: Site) -> None:
    (report,) = site.registering.verify(site.nodes)
    assert site.n8n.writes == 0
    assert [item.name for item in report.items if item.state is ItemState.MISSING][-4:] == NAMES


def test_a_node_that_is_gone_is_no_longer_spoken_of(site: Site) -> None:
    site.register()
    site.nodes = site.nodes[:1]
    report = site.register()
    assert site.states(report)["LLM load balancer"] == (ItemState.SAME, Deed.UPDATED)
    assert "llm-gpu-02" not in json.dumps(site.n8n.workflows)
    assert len(site.n8n.workflows) == 4


def test_without_any_node_everything_of_ours_is_removed(site: Site) -> None:
    site.n8n.workflows["mine"] = {"id": "mine", "name": "Mine", "nodes": [], "tags": [], "active": True}
    site.register()
    site.nodes = ()
    assert site.register().is_complete
    assert list(site.n8n.workflows) == ["mine"]
    assert (site.n8n.credentials, site.n8n.tags) == ({}, {})
    assert site.world.registrations.of(N8N).nodes == ()


def edit(site: Site, name: str = "Idle shutdown") -> None:
    schedule = next(node for node in site.n8n.named(name)["nodes"] if "interval" in str(node["parameters"]))
    schedule["parameters"]["rule"]["interval"][0]["minutesInterval"] = 42


def test_what_somebody_edited_is_shown_and_kept_until_it_is_forced(site: Site) -> None:
    site.register()
    edit(site)
    kept = site.register()
    assert kept.is_complete
    assert site.states(kept)["Idle shutdown"] == (ItemState.EDITED, Deed.LEFT)
    assert "42" in json.dumps(site.n8n.named("Idle shutdown"))
    assert "changed by hand" in site.world.registrations.of(N8N).remark
    forced = site.register(force=True)
    assert site.states(forced)["Idle shutdown"] == (ItemState.SAME, Deed.OVERWRITTEN)
    assert '"minutesInterval": 42' not in json.dumps(site.n8n.named("Idle shutdown"))
    assert not site.register().changed


def hook_of(site: Site) -> dict[str, Any]:
    nodes = site.n8n.named("LLM load balancer")["nodes"]
    return next(node for node in nodes if node["name"] == "Webhook")["parameters"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("is_active", [True, False])
def test_an_edited_load_balancer_that_answers_elsewhere_or_not_at_all_is_shown_and_kept(
    site: Site, is_active: bool
) -> None:
    site.register()
    hook_of(site)["path"] = "my/own"
    site.n8n.named("LLM load balancer")["active"] = is_active
    kept = site.register()
    assert kept.is_complete
    assert site.states(kept)["LLM load balancer"] == (ItemState.EDITED, Deed.LEFT)
    assert "changed by hand" in site.world.registrations.of(N8N).remark
    forced = site.register(force=True)
    assert (forced.is_complete, hook_of(site)["path"]) == (True, "llm/chat")


def test_where_a_node_is_drawn_is_nobodys_edit(site: Site) -> None:
    site.register()
    site.n8n.named("Idle shutdown")["nodes"][1]["position"] = [900, 900]
    assert site.states(site.register())["Idle shutdown"] == (ItemState.SAME, Deed.NOTHING)


def test_an_edited_workflow_without_our_tag_is_kept_too(site: Site) -> None:
    site.register()
    edit(site)
    site.n8n.named("Idle shutdown")["tags"] = []
    assert site.states(site.register())["Idle shutdown"] == (ItemState.EDITED, Deed.LEFT)


def test_one_that_was_renamed_is_known_again_and_keeps_its_name(site: Site) -> None:
    site.register()
    site.n8n.named("Idle shutdown")["name"] = "Good night"
    report = site.register()
    assert report.is_complete
    assert len(site.n8n.workflows) == 4
    assert 'it is called "Good night" there' in str(report.items)
    site.nodes = site.nodes[:1]
    site.register()
    assert site.n8n.named("Good night")
    site.register(force=True)
    assert site.n8n.named("Idle shutdown")


def test_one_that_was_deleted_comes_back(site: Site) -> None:
    site.register()
    del site.n8n.workflows[site.n8n.named("Request metrics")["id"]]
    assert site.states(site.register())["Request metrics"] == (ItemState.SAME, Deed.CREATED)


def test_one_that_was_switched_off_stays_off_until_it_is_forced(site: Site) -> None:
    site.register()
    site.n8n.named("Idle shutdown")["active"] = False
    report = site.register()
    assert report.is_complete
    assert site.states(report)["Idle shutdown"] == (ItemState.INACTIVE, Deed.LEFT)
    assert not site.n8n.named("Idle shutdown")["active"]
    site.register(force=True)
    assert site.n8n.named("Idle shutdown")["active"]


def test_of_two_that_pass_for_ours_neither_is_touched(site: Site) -> None:
    site.register()
    copy = json.loads(json.dumps(site.n8n.named("Idle shutdown"))) | {"id": "copy"}
    site.n8n.workflows["copy"] = copy
    before = json.dumps(site.n8n.workflows)
    report = site.register(force=True)
    assert not report.is_complete
    assert "there are 2" in site.world.registrations.of(N8N).reason
    assert json.dumps(site.n8n.workflows) == before


def test_somebody_elses_workflow_of_the_same_name_is_left_alone(site: Site) -> None:
    site.n8n.workflows["theirs"] = theirs = {
        "id": "theirs",
        "name": "Idle shutdown",
        "nodes": [],
        "connections": {},
        "settings": {},
        "tags": [],
        "active": True,
    }
    before = json.dumps(theirs)
    assert site.register().is_complete
    assert json.dumps(site.n8n.workflows["theirs"]) == before
    assert len(site.n8n.workflows) == 5


def test_a_webhook_that_is_taken_is_told_and_the_rest_goes_on(site: Site) -> None:
    hook = {"type": "n8n-nodes-base.webhook", "parameters": {"httpMethod": "POST", "path": "llm/chat"}}
    site.n8n.workflows["theirs"] = {"id": "theirs", "name": "Mine", "nodes": [hook], "tags": [], "active": True}
    report = site.register()
    assert not report.is_complete
    assert "conflict" in site.world.registrations.of(N8N).reason
    assert site.n8n.named("Request metrics")["active"]
    site.n8n.workflows.pop("theirs")
    assert site.register().is_complete
    assert len(site.n8n.workflows) == 4


def test_long_lists_are_read_to_their_end(site: Site) -> None:
    site.n8n.page = 1
    site.register()
    assert not site.register().changed
    assert len(site.n8n.workflows) == 4


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (lambda site: setattr(site.n8n, "is_down", True), "cannot reach n8n: connection refused"),
        (lambda site: site.world.secrets.update({"env:N8N_API_KEY": "revoked"}), "does not accept the API key"),
        (lambda site: site.n8n.missing_scopes.add("credentials"), "lacks the scope"),
        (lambda site: setattr(site.n8n, "refused_setting", "callerPolicy"), "it refuses what we send"),
        (lambda site: site.world.secrets.pop("env:N8N_API_KEY"), ""),
    ],
)
def test_what_goes_wrong_is_told_with_what_to_do_and_remembered(site: Site, breaks: object, words: str) -> None:
    breaks(site)  # type: ignore[operator]
    if not words:
        with pytest.raises(KeyError):
            site.register()
        return
    report = site.register()
    assert report.error is not None
    assert words in report.error.summary
    assert report.error.next_step
    known = site.world.registrations.of(N8N)
    assert (known.failing_since, known.tries, known.nodes) == (site.world.clock.now(), 1, ())
    assert words in known.reason
    assert not [secret for secret in site.world.secrets.values() if secret in str(report.error)]


def test_since_when_it_fails_is_that_of_the_first_try_and_ends_with_success(site: Site) -> None:
    site.n8n.is_down = True
    began = site.world.clock.now()
    for _ in range(3):
        site.register()
        site.world.clock.advance(60)
    known = site.world.registrations.of(N8N)
    assert (known.failing_since, known.tries) == (began, 3)
    site.n8n.is_down = False
    site.register()
    known = site.world.registrations.of(N8N)
    assert (known.failing_since, known.tries, known.nodes) == (None, 0, tuple(site.fleet.nodes))


def test_a_service_that_it_cannot_reach_is_refused_before_anything_is_sent(tmp_path: Path, site: Site) -> None:
    site.fleet = fleet_from(tmp_path, FLEET + WORDS.replace("127.0.0.1:5678", "10.10.40.12:5678"))
    report = site.register()
    assert isinstance(report.error, InputError)
    assert "cannot reach http://127.0.0.1:8700" in report.error.summary
    assert site.n8n.calls == []


def test_a_webhook_for_everybody_is_refused(tmp_path: Path, site: Site) -> None:
    words = f"orchestrators: {{n8n: {{url: {URL}, api_key: env:N8N_API_KEY}}}}\n"
    site.fleet = fleet_from(tmp_path, FLEET + words)
    report = site.register()
    assert isinstance(report.error, InputError)
    assert "anybody could use the webhook" in report.error.summary


def test_engines_with_a_key_are_asked_through_the_gateway(tmp_path: Path, site: Site) -> None:
    keyed = FLEET.replace("modes: [small], gateway", "modes: [small], api_key: env:LLM_KEY, gateway")
    site.fleet = fleet_from(tmp_path, keyed + WORDS)
    site.register()
    call = next(node for node in site.n8n.named("LLM load balancer")["nodes"] if node["name"] == "Call node")
    assert call["parameters"]["url"] == "http://127.0.0.1:8700/v1/chat/completions"
    assert call["credentials"]["httpHeaderAuth"]["name"] == "provisioner: control service"


def test_what_the_gateway_writes_down_is_not_told_a_second_time(tmp_path: Path, site: Site) -> None:
    keyed = FLEET.replace("modes: [small], gateway", "modes: [small], api_key: env:LLM_KEY, gateway")
    site.fleet = fleet_from(tmp_path, keyed + WORDS)
    site.register()
    workflow = site.n8n.named("LLM load balancer")
    tellers = {node["name"] for node in workflow["nodes"] if "/api/requests" in str(node["parameters"].get("url"))}
    assert tellers == {"Record failure"}
    (to,) = workflow["connections"]["Respond trouble"]["main"][0]
    assert to["node"] == "Nobody asked?"


@pytest.mark.parametrize("is_keyed", [False, True])
def test_connections_lead_from_node_to_node(tmp_path: Path, site: Site, is_keyed: bool) -> None:
    if is_keyed:
        keyed = FLEET.replace("modes: [small], gateway", "modes: [small], api_key: env:LLM_KEY, gateway")
        site.fleet = fleet_from(tmp_path, keyed + WORDS)
    site.register()
    for workflow in site.n8n.workflows.values():
        names = [node["name"] for node in workflow["nodes"]]
        ends = [end["node"] for each in workflow["connections"].values() for port in each["main"] for end in port]
        assert len(names) == len(set(names))
        assert {*workflow["connections"], *ends} == set(names) - {"About this workflow"}


def test_by_hand_the_same_workflows_are_had_without_a_secret(site: Site) -> None:
    files = site.registering.n8n_workflows()
    assert list(files) == [f"{key}.json" for key in KEYS]
    assert [json.loads(text)["name"] for text in files.values()] == NAMES
    assert not [secret for secret in site.world.secrets.values() if secret in "".join(files.values())]


def test_the_node_spec_is_announced_with_its_address(site: Site, node: NodeSpec) -> None:
    site.register()
    note = site.n8n.named("LLM load balancer")["nodes"][0]["parameters"]["content"]
    assert f"**{node.name}** {node.address.ip}" in note


def test_only_orchestrator_errors_come_of_its_refusals(site: Site) -> None:
    site.n8n.missing_scopes.add("tags")
    report = site.register()
    assert isinstance(report.error, OrchestratorError)
