"""The whole way on a real n8n: registered by its API, its webhook wakes a node, and everything is taken back.

One n8n and one fleet live through the module, in the order of the tests; guests are simulated. `test_real_guest` has
one with a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import Client, RunningService, running_service
from tests.lab.support import NODE, Site, site_for
from tests.n8n.install import why_not
from tests.n8n.server import SCOPES, RunningN8n, free_port, running_n8n

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(300)]

OTHER, MODEL = "llm-gpu-02", "tiny.gguf"
NAMES = {"LLM load balancer", "Health check and failover", "Idle shutdown", "Request metrics"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
SECRETS = {"T_N8N": "token-of-n8n-0123456789", "T_HOOK": "webhook-key-0123456789", "T_ME": "admin-0123456789abcdef"}
BOOT_SECONDS = 1.0


@pytest.fixture(scope="module")
def n8n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningN8n]:
    with running_n8n(tmp_path_factory.mktemp("n8n")) as running:
        yield running


@dataclass
class Scene:
    """A fleet with one node that sleeps, a service over it, and an n8n that is told of it."""

    site: Site
    n8n: RunningN8n
    port: int
    key: str

    @property
    def environment(self) -> Mapping[str, str]:
        return {**self.site.environment, **SECRETS, "T_API": self.key}

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "provisioner", *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not [secret for secret in (*SECRETS.values(), self.n8n.key) if secret in done.stdout + done.stderr]
        return done

    def register(self, *more: str, code: int = 0) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.run("register", "--json", *more, code=code).stdout)["result"]
        return result

    def items(self, *more: str, code: int = 0) -> dict[str, tuple[str, str]]:
        return {each["name"]: (each["state"], each["deed"]) for each in self.register(*more, code=code)["items"]}

    def ask(self, body: Mapping[str, object] = CHAT, **headers: str) -> requests.Response:
        shown = {"Authorization": f"Bearer {SECRETS['T_HOOK']}", **headers}
        return requests.post(f"{self.n8n.url}/webhook/llm/chat", json=body, headers=shown, timeout=120)

    @property
    def admin(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", SECRETS["T_ME"])

    def every_second(self, name: str) -> None:
        """Have a schedule tick each second, as somebody could who edits the workflow."""
        there = self.n8n.workflows()[name]
        for node in there["nodes"]:
            if node["type"].endswith("scheduleTrigger"):
                node["parameters"]["rule"]["interval"] = [{"field": "seconds", "secondsInterval": 1}]
        body = {key: there[key] for key in ("name", "nodes", "connections")} | {"settings": {}}
        self.n8n.api("PUT", f"/workflows/{there['id']}", body)


def until(claim: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def scene(n8n: RunningN8n, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder: Path = tmp_path_factory.mktemp("fleet")
    lab = RunningLab(folder / "lab", boot_seconds=BOOT_SECONDS, engine_seconds=0.2)
    with served_folder(folder) as images, lab:
        site = site_for(lab, folder, images, nodes=2)
        port = free_port()
        tokens = "n8n: {secret: env:T_N8N, may: [route, wake]}, me: {secret: env:T_ME, may: [admin]}"
        more = (
            f"service: {{listen: '127.0.0.1:{port}', look_every: 1h, idle_every: 1h, tokens: {{{tokens}}}}}\n"
            f"orchestrators: {{n8n: {{url: {n8n.url}, api_key: env:T_API, webhook_key: env:T_HOOK}}}}\n"
        )
        quick = ("idle_after: 20m", "idle_after: 0s"), ("min_uptime: 2m", "min_uptime: 0s")
        text = site.fleet_file.read_text()
        for old, new in quick:
            text = text.replace(old, new)
        site.fleet_file.write_text(text + more)
        yield Scene(site, n8n, port, n8n.key)


@pytest.fixture(scope="module")
def service(scene: Scene) -> Iterator[RunningService]:
    with running_service(scene.site, listen=f"127.0.0.1:{scene.port}", environment=scene.environment) as running:
        yield running


def test_up_registers_the_node_and_a_second_time_changes_nothing(scene: Scene) -> None:
    said = scene.run("up", NODE).stdout
    # Or "not registered at n8n": `up` gives an n8n little time, and what a busy one did not take is finished here.
    assert "registered at n8n" in said
    assert scene.register()["complete"]
    assert set(scene.n8n.workflows()) == NAMES
    again = scene.register()
    assert (again["complete"], again["changed"], again["nodes"]) == (True, False, [NODE])
    assert all(each["active"] for each in scene.n8n.workflows().values())
    assert all([tag["name"] for tag in each["tags"]] == ["provisioner"] for each in scene.n8n.workflows().values())
    text = json.dumps(scene.n8n.workflows())
    assert not [secret for secret in SECRETS.values() if secret in text]


def test_a_webhook_call_wakes_the_node_and_names_it(scene: Scene, service: RunningService) -> None:
    scene.run("sleep", NODE)
    began = time.monotonic()
    answer = scene.ask()
    seconds = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-served-by"] == NODE
    assert answer.headers["x-fallback"] == "0"
    assert answer.json()["choices"][0]["message"]["content"]
    assert seconds > BOOT_SECONDS
    warm = scene.ask()
    assert (warm.status_code, warm.headers["x-served-by"]) == (200, NODE)
    until(lambda: len(scene.admin.get("/api/requests").value["requests"]) == 2)
    cold, quick = scene.admin.get("/api/requests").value["requests"]
    assert (cold["node"], cold["model"], cold["success"], cold["caller"]) == (NODE, MODEL, True, "n8n")
    assert cold["request_time_ms"] > BOOT_SECONDS * 1000 > quick["request_time_ms"]
    assert quick["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (CHAT, {"Authorization": "Bearer wrong"}, 403, "Authorization data is wrong"),
        ({**CHAT, "model": "nothing"}, {}, 404, "nothing"),
        ({"messages": []}, {}, 400, "model"),
        ({**CHAT, "stream": True}, {}, 400, "streams do not pass through n8n"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words_without_secrets(
    scene: Scene, service: RunningService, body: dict[str, object], headers: dict[str, str], status: int, words: str
) -> None:
    answer = scene.ask(body, **headers)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert not [secret for secret in (*SECRETS.values(), "    at ", "/node_modules/") if secret in answer.text]


def test_another_node_answers_for_one_that_died_unseen(scene: Scene, service: RunningService) -> None:
    scene.run("up", OTHER)
    until(lambda: OTHER in json.dumps(scene.n8n.workflows()["LLM load balancer"]))
    scene.admin.post(f"/api/nodes/{OTHER}/wake")
    scene.admin.post(f"/api/nodes/{NODE}/wake")
    scene.site.lab.finish(scene.site.lab.call("POST", "/nodes/pve1/qemu/5001/status/stop"))
    answer = scene.ask()
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-served-by"], answer.headers["x-fallback"]) == (OTHER, "1")


def test_what_somebody_edits_is_kept_and_what_they_delete_or_rename_is_found(scene: Scene) -> None:
    scene.every_second("Idle shutdown")
    there = scene.n8n.workflows()
    renamed = {key: there["Request metrics"][key] for key in ("nodes", "connections")} | {"settings": {}}
    scene.n8n.api("PUT", f"/workflows/{there['Request metrics']['id']}", renamed | {"name": "My metrics"})
    scene.n8n.delete(there["Health check and failover"]["id"])
    seen = scene.items("--dry-run")
    assert (seen["Idle shutdown"], seen["Health check and failover"]) == (("edited", ""), ("missing", ""))
    assert "Health check and failover" not in scene.n8n.workflows()
    done = scene.items()
    assert (done["Idle shutdown"], done["Health check and failover"]) == (
        ("edited", "left as it is"),
        ("same", "created"),
    )
    assert set(scene.n8n.workflows()) == NAMES - {"Request metrics"} | {"My metrics"}
    assert "changed by hand" in scene.run("status").stdout


def test_the_idle_workflow_puts_an_unused_node_to_sleep(scene: Scene, service: RunningService) -> None:
    # It has ticked each second since somebody edited it.
    until(lambda: scene.admin.get(f"/api/nodes/{OTHER}").value["phase"] == "asleep")
    forced = scene.items("--force")
    assert forced["Idle shutdown"] == ("same", "overwritten")
    assert set(scene.n8n.workflows()) == NAMES
    assert scene.register()["changed"] is False


def test_the_metrics_workflow_reads_each_request_once(scene: Scene, service: RunningService) -> None:
    scene.every_second("Request metrics")
    identity = scene.n8n.workflows()["Request metrics"]["id"]
    before = len(scene.admin.get("/api/requests").value["requests"])
    seen: dict[int, int] = {}

    def read() -> bool:
        seen.clear()
        runs = scene.n8n.api("GET", f"/executions?workflowId={identity}&includeData=true&limit=250")["data"]
        for run in runs:
            ended = run["data"]["resultData"]["runData"].get("Records")
            for item in ended[0]["data"]["main"][0] if ended else ():
                number = item["json"]["number"]
                seen[number] = seen.get(number, 0) + 1
                assert {"timestamp", "node", "request_time_ms", "tokens_per_second", "model", "success"} <= set(
                    item["json"]
                )
        return len(seen) >= before and len(runs) >= 3

    until(read)
    assert set(seen.values()) == {1}
    scene.register("--force")


def test_the_health_check_reports_a_node_that_went_silent(scene: Scene, service: RunningService) -> None:
    scene.admin.post(f"/api/nodes/{NODE}/wake")
    scene.every_second("Health check and failover")
    scene.site.lab.finish(scene.site.lab.call("POST", "/nodes/pve1/qemu/5001/status/stop"))
    # The service itself looks once an hour.
    until(lambda: scene.admin.get(f"/api/nodes/{NODE}").value["phase"] == "asleep")
    scene.register("--force")


def test_two_that_pass_for_ours_are_told_and_neither_is_touched(scene: Scene) -> None:
    there = scene.n8n.workflows()["Idle shutdown"]
    body = {key: there[key] for key in ("name", "nodes", "connections")} | {"settings": {}}
    copy = scene.n8n.api("POST", "/workflows", body)["id"]
    scene.n8n.api("PUT", f"/workflows/{copy}/tags", [{"id": tag["id"]} for tag in there["tags"]])
    assert scene.items(code=1)["Idle shutdown"] == ("doubled", "left as it is")
    assert "there are 2" in scene.run("status").stdout
    scene.n8n.delete(copy)
    assert scene.register()["complete"]


def test_a_key_that_is_revoked_lacks_a_scope_or_leads_nowhere_says_so(scene: Scene, service: RunningService) -> None:
    good, text = scene.key, scene.site.fleet_file.read_text()
    try:
        scene.key = "revoked"
        assert "does not accept the API key" in scene.register(code=1)["error"]["summary"]
        scene.key = scene.n8n.new_key([scope for scope in SCOPES if not scope.startswith("credential:")])
        assert "lacks the scope" in scene.register(code=1)["error"]["summary"]
        scene.site.fleet_file.write_text(text.replace(scene.n8n.url, f"http://127.0.0.1:{free_port()}"))
        error = scene.register(code=1)["error"]
        assert (error["summary"], error["retryable"]) == ("cannot reach n8n: connection refused", True)
        # It stops nobody from working, and status says since when.
        assert f"{NODE} serves" in scene.run("up", NODE).stdout
        assert "registered anew at n8n since" in scene.run("status").stdout
    finally:
        scene.key = good
        scene.site.fleet_file.write_text(text)
    assert scene.register()["complete"]
    assert "n8n since" not in scene.run("status").stdout


def test_a_ready_node_is_named_again_and_again_and_the_times_are_shown(scene: Scene, service: RunningService) -> None:
    scene.admin.post(f"/api/nodes/{NODE}/wake")
    session = requests.Session()
    url, shown = f"http://127.0.0.1:{scene.port}/api/route", {"Authorization": f"Bearer {SECRETS['T_N8N']}"}
    times = []
    for _ in range(300):
        began = time.perf_counter()
        # A node that kept the service waiting for a second, on a machine that is that busy, is looked at again first.
        if session.post(url, json={"model": MODEL}, headers=shown, timeout=60).status_code == 200:
            times.append(time.perf_counter() - began)
    assert len(times) > 200
    whole = []
    for _ in range(30):
        began = time.perf_counter()
        if scene.ask().status_code == 200:
            whole.append(time.perf_counter() - began)
    for words, found in (("route", times), ("webhook", whole)):
        found.sort()
        p50, p95 = found[len(found) // 2], found[len(found) * 95 // 100]
        print(f"{words} of a ready node: p50 {p50 * 1000:.2f} ms, p95 {p95 * 1000:.2f} ms ({os.cpu_count()} CPUs)")


def test_destroying_the_nodes_takes_everything_back(scene: Scene) -> None:
    scene.run("destroy", OTHER, "--confirm", OTHER)
    assert OTHER not in json.dumps(scene.n8n.workflows())
    assert set(scene.n8n.workflows()) == NAMES
    said = scene.run("destroy", NODE, "--confirm", NODE).stdout
    assert "withdrawn at n8n" in said
    # As above.
    assert scene.register()["nodes"] == []
    assert scene.n8n.workflows() == {}
    assert scene.n8n.api("GET", "/credentials?limit=250")["data"] == []
    assert scene.n8n.api("GET", "/tags?limit=250")["data"] == []
