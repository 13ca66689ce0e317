"""What the API has for workflows: routes that avoid what failed, second looks, and the record of requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import Client, RunningService, running_service
from tests.lab.support import NODE, Site, site_for

MODEL, OTHER = "tiny.gguf", "llm-gpu-02"
TOKENS = {"flow": "[route, wake]", "page": "[read]", "more": "[route]"}
SECRETS = {f"T_{name}": f"{name}-0123456789abcdef" for name in TOKENS}


@pytest.fixture(scope="module")
def awake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab whose two nodes run."""
    folder = tmp_path_factory.mktemp("flows")
    with served_folder(folder) as images, RunningLab(folder / "lab") as lab:
        site = site_for(lab, folder, images, nodes=2)
        lines = ", ".join(f"{name}: {{secret: env:T_{name}, may: {may}}}" for name, may in TOKENS.items())
        site.fleet(lambda text: f"{text}service: {{tokens: {{{lines}}}, look_every: 1h}}\n").up_all()
        yield site


@pytest.fixture(scope="module")
def service(awake: Site) -> Iterator[RunningService]:
    with running_service(awake, environment=SECRETS) as running:
        yield running


def client(service: RunningService, name: str = "flow") -> Client:
    return Client(service.client.url, SECRETS[f"T_{name}"])


def test_a_route_says_when_it_was_asked_and_how_long_it_took(service: RunningService) -> None:
    answer = client(service).post("/api/route", {"model": MODEL})
    assert answer.status == 200
    assert answer.value["asked_at"] > 1_700_000_000
    assert 0 <= answer.value["waited_seconds"] < 5


def test_a_node_that_has_just_failed_a_request_comes_last(service: RunningService) -> None:
    first = client(service).post("/api/route", {"model": MODEL}).value["node"]
    second = client(service).post("/api/route", {"model": MODEL, "tried": [first, "nobody"]}).value["node"]
    assert {first, second} == {NODE, OTHER}
    # Where all have failed, the nearest is proven anew, and answers.
    both = client(service).post("/api/route", {"model": MODEL, "tried": [NODE, OTHER]})
    assert (both.status, both.value["node"] in (NODE, OTHER)) == (200, True)


def test_the_nodes_that_are_ready_are_listed_with_where_to_ask_them(service: RunningService) -> None:
    found = {each["node"]: each for each in client(service).get("/api/endpoints").value["endpoints"]}
    assert set(found) == {NODE, OTHER}
    assert requests.get(found[NODE]["health_url"], timeout=5).json() == {"status": "ok"}
    assert requests.get(f"{found[NODE]['url']}/models", timeout=5).status_code == 200


def test_a_request_that_went_to_a_node_directly_is_recorded_for_whom_it_concerns(service: RunningService) -> None:
    flow, more, page = (client(service, name) for name in ("flow", "more", "page"))
    routed = flow.post("/api/route", {"model": MODEL}).value
    told = {
        "model": MODEL,
        "node": routed["node"],
        "success": True,
        "asked_at": routed["asked_at"],
        "waited_seconds": routed["waited_seconds"],
        "tokens_in": 8,
        "tokens_out": 16,
    }
    assert flow.post("/api/requests", told).status == 200
    assert more.post("/api/requests", {"model": "other", "success": False}).status == 200
    mine = flow.get("/api/requests?after=0").value
    (record,) = mine["requests"]
    assert (record["node"], record["model"], record["success"]) == (routed["node"], MODEL, True)
    assert record["request_time_ms"] > 0
    assert record["tokens_per_second"] > 0
    assert record["timestamp"].endswith("Z")
    assert flow.get(f"/api/requests?after={mine['last']}").value == {"requests": [], "last": mine["last"]}
    seen = page.get("/api/requests").value["requests"]
    assert [(each["model"], each["success"]) for each in seen] == [(MODEL, True), ("other", False)]
    assert flow.get("/api/requests?after=x").status == 400
    assert flow.post("/api/requests", {"model": MODEL, "success": True, "asked_at": -1}).status == 422


def test_a_time_that_cannot_be_is_none(service: RunningService) -> None:
    flow = client(service, "more")
    answer = flow.post("/api/requests", {"model": MODEL, "success": True, "asked_at": 99_999_999_999.0})
    assert (answer.status, answer.value["request_time_ms"], answer.value["tokens_per_second"]) == (200, 0.0, None)


def test_without_orchestrators_there_is_nothing_to_tell(service: RunningService) -> None:
    assert client(service, "page").get("/api/orchestrators").value == {"orchestrators": []}


def test_a_node_that_is_found_silent_is_looked_at_at_once(service: RunningService, awake: Site) -> None:
    well = client(service).post(f"/api/nodes/{NODE}/doubt", {"why": "no answer to a probe"})
    assert (well.status, well.value["phase"], well.value["is_gone"]) == (200, "ready", False)
    # Off behind our back, and the service looks by itself once an hour.
    awake.lab.finish(awake.lab.call("POST", f"/nodes/pve1/qemu/{5002}/status/stop"))
    off = client(service).post(f"/api/nodes/{OTHER}/doubt")
    assert (off.status, off.value["phase"], off.value["is_gone"]) == (200, "asleep", False)
    assert [each["node"] for each in client(service).get("/api/endpoints").value["endpoints"]] == [NODE]
    assert client(service).post("/api/nodes/nobody/doubt").status == 404
