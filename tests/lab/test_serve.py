"""The control service as a process: its API over real HTTP, on the embedded Proxmox with simulated guests."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.web.private_socket import PrivateService
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import Client, RunningService, running_service
from tests.lab.support import NODE, Site, site_for

MODEL = "tiny.gguf"


@pytest.fixture(scope="module")
def asleep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab in which one of two nodes exists, and sleeps."""
    folder = tmp_path_factory.mktemp("serve")
    with served_folder(folder) as images, RunningLab(folder / "lab", boot_seconds=0.1, engine_seconds=0.1) as lab:
        site = site_for(lab, folder, images, nodes=2)
        fleet = site.fleet()
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        yield site


@pytest.fixture(scope="module")
def service(asleep: Site) -> Iterator[RunningService]:
    with running_service(asleep) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Client:
    return service.client


def starts(site: Site) -> int:
    return sum(each["path"].endswith("/status/start") for each in site.lab.requests())


def test_a_route_wakes_a_node_and_names_the_endpoint_that_answers(client: Client, asleep: Site) -> None:
    asleep.lab.forget_requests()
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post("/api/route", {"model": MODEL}))) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.status for each in answers] == [200] * 8
    assert {(each.value["node"], each.value["model"], each.value["fallback"]) for each in answers} == {
        (NODE, MODEL, False)
    }
    assert starts(asleep) == 1
    seen = client.get(f"/api/nodes/{NODE}").value
    assert (seen["phase"], seen["url"]) == ("ready", answers[0].value["url"])


def test_all_nodes_are_shown_with_what_is_wanted_and_seen(client: Client) -> None:
    nodes = {each["node"]: each for each in client.get("/api/nodes").value["nodes"]}
    assert list(nodes) == [NODE, "llm-gpu-02"]
    absent = nodes["llm-gpu-02"]
    assert (absent["phase"], absent["reason"]) == ("absent", "no VM yet: provisioner up llm-gpu-02")
    assert absent["models"] == [MODEL]


def test_a_held_node_is_not_put_to_sleep_until_it_is_released(client: Client) -> None:
    client.post(f"/api/nodes/{NODE}/wake")
    held = client.post(f"/api/nodes/{NODE}/hold", {"duration": "2h", "why": "a game of chess"})
    assert (held.status, held.value["by"]) == (200, "local")
    assert client.get(f"/api/nodes/{NODE}").value["holds"][0]["why"] == "a game of chess"
    refused = client.post(f"/api/nodes/{NODE}/sleep")
    assert (refused.status, refused.headers["content-type"]) == (409, "application/problem+json")
    assert "held by local" in refused.value["detail"]
    assert "next_step" in refused.value
    assert client.post(f"/api/nodes/{NODE}/release").value == {"node": NODE, "others": []}
    slept = client.post(f"/api/nodes/{NODE}/sleep")
    assert (slept.status, slept.value["was_running"]) == (200, True)
    assert client.get(f"/api/nodes/{NODE}").value["phase"] == "asleep"


def test_who_does_not_wait_is_told_where_to_look(client: Client) -> None:
    client.post(f"/api/nodes/{NODE}/sleep")
    begun = client.post(f"/api/nodes/{NODE}/wake", {"wait": False})
    assert (begun.status, begun.headers["location"]) == (202, f"/api/nodes/{NODE}")
    events = client.events(f"?after={begun.value['events_after']}&node={NODE}")
    phases: list[str] = []
    for event in events:
        if event["kind"] == "state":
            phases.append(event["phase"])
        if event["kind"] == "wake" and event["phase"] == "done":
            break
    assert event["facts"]["started"] is True
    assert phases[-1] == "ready"
    order = ["queued", "starting", "booting", "loading", "ready"]
    # On a busy machine the engine may have loaded before anybody looked.
    assert phases in (order, [each for each in order if each != "loading"])


def test_an_idle_pass_says_for_every_node_why(client: Client) -> None:
    decisions = client.post("/api/idle", {"dry_run": True}).value["decisions"]
    assert [each["node"] for each in decisions] == [NODE, "llm-gpu-02"]
    assert all(each["verdict"] and each["reason"] for each in decisions)


def test_events_are_replayed_after_the_last_one_that_was_heard(client: Client) -> None:
    client.post(f"/api/nodes/{NODE}/hold", {"duration": "1m"})
    heard = list(itertools.islice(client.events("?after=0"), 5))
    assert [each["number"] for each in heard] == sorted(each["number"] for each in heard)
    again = list(itertools.islice(client.events(last_event_id=str(heard[2]["number"])), 2))
    assert again == heard[3:5]
    client.post(f"/api/nodes/{NODE}/release")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/api/nodes/nobody", None, 404, "unknown-name"),
        ("POST", "/api/nodes/nobody/wake", {}, 404, "unknown-name"),
        ("POST", "/api/route", {"model": "nothing"}, 404, "unknown-name"),
        ("GET", "/api/nowhere", None, 404, "not-found"),
        ("DELETE", f"/api/nodes/{NODE}", None, 405, "method-not-allowed"),
        ("POST", "/api/route", None, 400, "not-json"),
        ("POST", "/api/route", b"{", 400, "not-json"),
        ("POST", "/api/route", b'{"model": NaN}', 400, "not-json"),
        ("POST", "/api/route", b"[" * 60_000, 400, "not-json"),
        ("POST", "/api/route", b"\xff\xfe", 400, "not-json"),
        ("POST", "/api/route", [], 422, "wrong-shape"),
        ("POST", "/api/route", {"model": 1}, 422, "wrong-shape"),
        ("POST", "/api/route", {"model": "m", "more": 1}, 422, "wrong-shape"),
        ("POST", "/api/route", {"model": "m" * 70_000}, 413, "body-too-long"),
        ("POST", f"/api/nodes/{NODE}/hold", {"duration": "2"}, 422, "wrong-shape"),
        ("POST", f"/api/nodes/{NODE}/hold", {"duration": "400d"}, 422, "wrong-shape"),
        ("POST", f"/api/nodes/{NODE}/mode", {"mode": "nothing"}, 404, "unknown-name"),
        ("POST", "/api/nodes/nobody/wake", {"wait": False}, 404, "unknown-name"),
        ("POST", "/api/nodes/nobody/sleep", {"wait": False}, 404, "unknown-name"),
        ("GET", "/api/events?after=-1", None, 400, "bad-number"),
        ("GET", "/api/events?node=nobody", None, 404, "unknown-name"),
    ],
)
def test_what_cannot_be_done_is_a_problem_document(
    client: Client, method: str, path: str, body: object, status: int, kind: str
) -> None:
    answer = client.ask(method, path, body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer.value
    assert answer.value["type"] == f"urn:provisioner:problem:{kind}"
    assert answer.value["status"] == status
    assert answer.value["detail"]


def test_a_page_in_a_browser_gets_nowhere(client: Client) -> None:
    assert client.get("/api/nodes", Host="evil.example").status == 403
    assert client.post(f"/api/nodes/{NODE}/sleep", {}, Origin="http://evil.example").status == 403
    assert client.post(f"/api/nodes/{NODE}/sleep", {}, Origin="http://[").status == 403
    assert client.ask("POST", f"/api/nodes/{NODE}/sleep", b"", Content_Type="text/plain").status == 415


def test_the_page_and_the_document_show_every_call(client: Client) -> None:
    document = client.get("/api/openapi.json").value
    page = client.get("/api")
    assert page.headers["content-type"].startswith("text/html")
    for path in document["paths"]:
        assert path in page.value
    assert "script" not in page.value


def test_the_private_socket_is_its_owners_alone(client: Client, asleep: Site) -> None:
    folder = asleep.settings.state_folder
    assert (folder / "serve.sock").stat().st_mode & 0o777 == 0o600
    assert PrivateService(folder).ask("GET", "/api/service").value["fleet_file"] == str(asleep.fleet_file)


def test_a_second_service_is_refused(client: Client, asleep: Site) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "provisioner", "serve", "--listen", "127.0.0.1:0"],
        env=asleep.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert "another service (process" in second.stderr


def test_a_stop_ends_streams_and_lets_work_finish(site: Site) -> None:
    with running_service(site) as running:
        events = running.client.events("?after=0")
        assert next(events)["kind"] == "service"
        assert running.stop() == 0
        phases = [each["phase"] for each in events if each["kind"] == "service"]
    assert phases[:1] == ["draining"]
    assert not (site.settings.state_folder / "serve.sock").exists()


SECRET = {name: f"{name}-0123456789abcdef" for name in ("reader", "router", "waker", "admin")}


def test_tokens_may_what_the_fleet_file_says(site: Site) -> None:
    tokens = {
        "reader": "[read]",
        "router": "[route]",
        "waker": "[wake, read]",
        "admin": "[admin]",
    }
    lines = ", ".join(f"{name}: {{secret: env:T_{name}, may: {may}}}" for name, may in tokens.items())
    site.fleet(lambda text: f"{text}service: {{tokens: {{{lines}}}}}\n")
    secrets = {f"T_{name}": secret for name, secret in SECRET.items()}
    with running_service(site, listen="0.0.0.0:0", environment=secrets) as running:
        url = running.client.url.replace("0.0.0.0", "127.0.0.1")
        path = f"/api/nodes/{NODE}"
        wanted = {
            ("GET", path, None): {"reader", "waker", "admin"},
            ("POST", "/api/route", b"{"): {"router", "admin"},
            ("POST", f"{path}/hold", b"{"): {"waker", "admin"},
            ("POST", "/api/idle", b"{"): {"waker", "admin"},
            ("GET", "/api/endpoints", None): {"router", "admin"},
            ("GET", "/api/orchestrators", None): {"reader", "waker", "admin"},
            ("POST", f"{path}/doubt", b"{"): {"router", "admin"},
            ("POST", "/api/requests", b"{"): {"router", "admin"},
            ("POST", f"{path}/mode", b"{"): {"admin"},
        }
        for (method, where, body), may in wanted.items():
            for name, secret in SECRET.items():
                status = Client(url, secret).ask(method, where, body).status
                assert (status != 403) is (name in may), (method, where, name, status)
        for token in (None, "nobody-0123456789abcdef", SECRET["admin"][:-1]):
            refused = Client(url, token).get(path)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "0123456789" not in json.dumps(refused.value)
        forced = Client(url, SECRET["waker"]).post(f"{path}/sleep", {"force": True})
        assert forced.status == 403
        assert PrivateService(site.settings.state_folder).ask("GET", path).status == 200


@pytest.mark.parametrize(
    ("service", "environment", "words"),
    [
        ("{tokens: {me: {secret: env:T_ME, may: [read]}}}", {}, "the environment variable is not set"),
        ("{tokens: {me: {secret: env:T_ME, may: [read]}}}", {"T_ME": "short"}, "openssl rand"),
        ("{tls: {certificate: no.pem, key: no.key}}", {}, "cannot use the certificate"),
    ],
)
def test_what_is_not_safe_is_not_served(site: Site, service: str, environment: dict[str, str], words: str) -> None:
    site.fleet(lambda text: f"{text}service: {service}\n")
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", "serve", "--listen", "127.0.0.1:0"],
        env={**site.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr


def test_an_address_for_all_needs_tokens(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", "serve", "--listen", "0.0.0.0:0"],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "no token is needed" in done.stderr) == (1, True)


def test_it_shows_a_certificate_of_its_own(site: Site, tmp_path: Path) -> None:
    from provisioner.lab import tls

    certificate, key = tls.certificate(tmp_path)
    site.fleet(lambda text: f"{text}service: {{tls: {{certificate: {certificate}, key: {key}}}}}\n")
    with running_service(site) as running:
        assert running.client.url.startswith("https://")
        running.client.certificate = certificate
        assert running.client.get("/api/service").status == 200
