"""A real Prometheus at the service: discovery, scrapes, rules, and every query of the dashboards.

One service goes through it all, so the tests stand in their order.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.domain.names import NodeName
from provisioner.exports.grafana.panels import BOARDS
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.metrics.table import TABLE
from tests.lab.serving import Client, RunningService, running_service
from tests.lab.support import NODE, Site, site_for
from tests.lab.watching import Prometheus, fetched, running_prometheus, until

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus)"
)

TOKEN = "token-of-the-tests-0123456789"
SECRETS = {"T_READ": f"{TOKEN}-read", "T_ME": TOKEN}
CHAT = {"model": "tiny.gguf", "messages": [{"role": "user", "content": "Say hello."}]}
SERVICE = (
    "service: {tokens: {prometheus: {secret: env:T_READ, may: [read]}, me: {secret: env:T_ME, may: [admin]}}, "
    "look_every: 1s, figures_every: 1s, idle_every: 2s}\nelectricity: {price: 0.30 EUR/kWh}\n"
)


@dataclass(frozen=True)
class Watched:
    """A service that has done everything once, and a Prometheus that saw it."""

    site: Site
    service: RunningService
    me: Client
    reader: Client
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with served_folder(folder) as images, RunningLab(folder / "lab", boot_seconds=0.3, engine_seconds=0.3) as lab:
        site = site_for(lab, folder, images, nodes=2)
        told = f"orchestrators: {{prometheus: {{targets_file: {folder / 'sd' / 'gpu-nodes.json'}}}}}\n"
        fleet = site.fleet(lambda text: text + SERVICE + told)
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        with running_service(site, environment=SECRETS, token=TOKEN) as service:
            out, data = folder / "out", folder / "prometheus"
            data.mkdir()
            exported = export(site, out, service.client.url)
            (out / "token").write_text(f"{TOKEN}-read")
            for path in exported:
                text = (
                    path.read_text().replace("interval: 30s", "interval: 1s").replace("interval: 15s", "interval: 1s")
                )
                path.write_text(text)
            with (out / "prometheus.yml").open("a") as configuration:
                discovery = f"file_sd_configs: [{{files: ['{folder}/sd/*.json'], refresh_interval: 1s}}]"
                configuration.write(f"- job_name: by-file\n  {discovery}\n")
            with running_prometheus(data, out / "prometheus.yml") as prometheus:
                reader = Client(service.client.url, f"{TOKEN}-read")
                yield Watched(site, service, service.client, reader, prometheus)


def export(site: Site, out: Path, url: str) -> list[Path]:
    """Write what Prometheus needs, by our own command."""
    command = [sys.executable, "-m", "provisioner", "export", "prometheus", "--json"]
    command += ["--service", url, "--token-file", str(out / "token"), str(out)]
    told = subprocess.run(command, env=site.environment, capture_output=True, text=True, check=True, timeout=60)
    return [Path(each) for each in json.loads(told.stdout)["result"]["files"]]


def targets(watched: Watched) -> list[dict[str, object]]:
    found: list[dict[str, object]] = watched.reader.get("/sd/prometheus").value
    return found


def test_who_sleeps_is_no_target_and_there_is_an_empty_list(watched: Watched) -> None:
    answer = watched.reader.get("/sd/prometheus")
    assert (answer.status, answer.value, answer.headers["content-type"]) == (200, [], "application/json")


def test_prometheus_finds_the_engine_that_a_request_has_woken_and_scrapes_it(watched: Watched) -> None:
    until(
        lambda: [each["health"] for each in watched.prometheus.targets().get("provisioner", [])] == ["up"], "a scrape"
    )
    for _ in range(3):
        assert watched.me.post("/v1/chat/completions", CHAT).status == 200
    (group,) = targets(watched)
    assert isinstance(group["labels"], dict)
    assert group["labels"]["gpu_node"] == NODE
    engines = until(lambda: watched.prometheus.targets().get("gpu-engines"), "the engine")
    assert engines[0]["discoveredLabels"]["__address__"] == group["targets"][0]  # type: ignore[index]
    until(
        lambda: watched.prometheus.query('up{job="gpu-engines",gpu_node="llm-gpu-01"} == 1'), "a scrape of the engine"
    )


def test_prometheus_finds_it_in_the_file_that_the_service_keeps_too(watched: Watched) -> None:
    (engine,) = until(lambda: watched.prometheus.targets().get("by-file"), "the engine in the file")
    assert engine["labels"]["gpu_node"] == NODE


def test_what_happened_is_there_to_be_asked(watched: Watched) -> None:
    def value(expression: str) -> float:
        return float(until(lambda: watched.prometheus.query(expression), expression)[0]["value"][1])

    assert value(f'provisioner_requests_total{{model="tiny.gguf",node="{NODE}",outcome="answered"}}') == 3
    assert value(f'provisioner_node_wakes_total{{node="{NODE}",result="done"}}') == 1
    assert value(f'provisioner_node_ready{{node="{NODE}"}}') == 1
    assert value(f'provisioner_gpu_power_watts{{node="{NODE}",gpu="0"}}') > 0
    assert value(f'provisioner_guest_disk_free_bytes{{node="{NODE}",mounted_at="/"}}') > 0
    assert value(f'provisioner_node_awake_seconds_total{{node="{NODE}"}} > 0') > 0
    assert value(f'provisioner_node_measured_joules_total{{node="{NODE}"}} > 0') > 0
    assert value('sum(provisioner_proxmox_calls_total{result="answered"})') > 0
    assert value('provisioner_loop_turns_total{loop="look",result="done"}') > 1


def test_every_query_of_the_dashboards_has_an_answer(watched: Watched) -> None:
    watched.me.post(f"/api/nodes/{NODE}/sleep", {"force": True})
    until(lambda: watched.prometheus.query('provisioner_node_sleeps_total{result="done"} == 1'), "the sleep")
    assert watched.me.post("/v1/chat/completions", CHAT).status == 200
    for board in BOARDS:
        for panel in (each for row in board.rows for each in row.panels):
            for query in panel.queries:
                expression = query.expression.replace("$__rate_interval", "1m").replace("$node", ".*")
                until(
                    lambda expression=expression: watched.prometheus.query(expression), f"{panel.title}: {expression}"
                )


def test_every_metric_of_the_table_that_there_is_occasion_for_is_exposed(watched: Watched) -> None:
    # Nothing is wrong with a card, nobody stands in or changes modes, holds a node, has a database for the record.
    without = ("gpu_check", "requests_fallback", "node_mode", "node_holds", "record_")
    expected = {metric for metric in TABLE if not any(word in metric.name for word in without)}

    def missing() -> set[str]:
        text = watched.reader.get("/metrics").value
        return {metric.name for metric in expected if f"# TYPE {metric.name} {metric.kind}\n" not in text}

    # Quiet is who was found so by an idle pass; the next one comes.
    until(lambda: not missing(), f"one of {missing()}")


def test_promtool_finds_nothing_wrong_with_our_page(watched: Watched) -> None:
    answer = watched.reader.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=answer.value, capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_rules_are_loaded_and_none_speaks_of_a_fleet_that_is_well(watched: Watched) -> None:
    status, text = fetched(f"{watched.prometheus.url}/api/v1/rules")
    found = [rule for group in json.loads(text)["data"]["groups"] for rule in group["rules"]]
    assert (status, len(found)) == (200, 17)
    assert {rule["health"] for rule in found} <= {"ok", "unknown"}
    assert watched.prometheus.query('ALERTS{alertstate="firing"}') == []


def test_only_who_may_read_is_told(watched: Watched) -> None:
    url = watched.reader.url
    for path in ("/metrics", "/sd/prometheus"):
        assert Client(url).get(path).status == 401
        assert Client(url, "somebody-elses-token").get(path).status == 401
        assert Client(url, f"{TOKEN}-read").post(path).status == 405


def test_hours_and_energy_survive_a_service_that_ends(watched: Watched) -> None:
    (before,) = watched.prometheus.query(f'provisioner_node_awake_seconds_total{{node="{NODE}"}}')
    # It keeps what it counted when it ends; one state folder has one service at a time.
    assert watched.service.stop() == 0
    with running_service(watched.site, environment=SECRETS, token=TOKEN) as again:
        text = again.client.get("/metrics").value
        today = again.client.get("/api/savings").value["today"]
    begin = f'provisioner_node_awake_seconds_total{{node="{NODE}"}} '
    (after,) = [line.removeprefix(begin) for line in text.splitlines() if line.startswith(begin)]
    assert float(after) >= float(before["value"][1]) > 0
    assert (today["currency"], today["nodes"][0]["node"]) == ("EUR", NODE)
    assert today["nodes"][0]["awake_seconds"] > 0
    assert today["words"][0].endswith("h are counted")
    counted = {each.node: each.counted for each in watched.site.fleet().savings().nodes}
    assert counted[NodeName(NODE)].awake_seconds >= float(before["value"][1])
