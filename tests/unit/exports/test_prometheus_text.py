"""What is written for Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner.engines.registry import ENGINES
from provisioner.errors import InputError
from provisioner.exports.prometheus import PrometheusWishes, configuration, rules, targets
from provisioner.fleet import Fleet
from provisioner.metrics.table import TABLE, documentation
from provisioner.settings import Settings
from tests.fleets import FLEET, fleet_from

HERE = Path(__file__).parent
WISHES = PrometheusWishes("http://127.0.0.1:8700", Path("/etc/prometheus/provisioner.token"))
TOKENS = "service: {tokens: {prometheus: {secret: env:T, may: [read]}}}\n"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)"
)


def written(folder: Path, text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(configuration(fleet_from(folder, text), WISHES))
    return found


def exported(folder: Path, text: str = FLEET) -> Path:
    path = folder / "fleet.yml"
    path.write_text(text)
    Fleet.load(path, settings=Settings(path, folder / "state")).export_prometheus(folder / "out")
    return folder / "out"


def expressions() -> Iterator[str]:
    for group in yaml.safe_load(rules())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def test_the_service_is_scraped_and_asked_for_engines(tmp_path: Path) -> None:
    service, engines = written(tmp_path, FLEET)["scrape_configs"]
    assert service == {
        "job_name": "provisioner",
        "scheme": "http",
        "metrics_path": "/metrics",
        "static_configs": [{"targets": ["127.0.0.1:8700"]}],
    }
    assert engines["http_sd_configs"] == [{"url": "http://127.0.0.1:8700/sd/prometheus", "refresh_interval": "30s"}]


def test_where_tokens_are_asked_for_it_reads_one_from_a_file(tmp_path: Path) -> None:
    service, engines = written(tmp_path, FLEET + TOKENS)["scrape_configs"]
    shown = {"type": "Bearer", "credentials_file": "/etc/prometheus/provisioner.token"}
    assert (service["authorization"], engines["http_sd_configs"][0]["authorization"]) == (shown, shown)


def test_a_service_behind_a_proxy_is_scraped_there(tmp_path: Path) -> None:
    text = FLEET + "service: {url: https://llm.example.org/gpu/}\n"
    found = yaml.safe_load((exported(tmp_path, text) / "prometheus.yml").read_text())["scrape_configs"]
    assert (found[0]["scheme"], found[0]["metrics_path"]) == ("https", "/gpu/metrics")
    assert found[0]["static_configs"] == [{"targets": ["llm.example.org"]}]
    assert found[1]["http_sd_configs"][0]["url"] == "https://llm.example.org/gpu/sd/prometheus"


def test_a_service_that_listens_everywhere_must_say_where_it_is_found(tmp_path: Path) -> None:
    text = FLEET + TOKENS.replace("{tokens", "{listen: '0.0.0.0:8700', tokens")
    with pytest.raises(InputError, match="it listens everywhere"):
        exported(tmp_path, text)


def test_names_and_units_are_in_a_table_beside_them(tmp_path: Path) -> None:
    assert (exported(tmp_path) / "metrics.md").read_text() == documentation()


def test_every_node_whose_engine_can_be_scraped_is_in_the_targets_file(tmp_path: Path) -> None:
    found = json.loads(targets(fleet_from(tmp_path), ENGINES))
    assert [each["labels"]["gpu_node"] for each in found] == ["llm-gpu-01", "llm-gpu-02"]


def test_rules_speak_only_of_metrics_that_there_are() -> None:
    known = {metric.name for metric in TABLE} | {f"{metric.name}_bucket" for metric in TABLE}
    used = {name for each in expressions() for name in re.findall(r"\bprovisioner_\w+", each)}
    assert used
    assert used <= known


def test_a_folder_that_is_not_writable_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot write there"):
        exported(tmp_path)


def test_a_folder_is_written_anew_and_nothing_half_is_ever_seen(tmp_path: Path) -> None:
    out = exported(tmp_path)
    names = sorted(os.listdir(out))
    assert names == ["gpu-nodes.json", "metrics.md", "prometheus.yml", "provisioner-rules.yml"]
    exported(tmp_path, FLEET.replace("  llm-gpu-02: {hypervisor: pve1, gpus: [rtx3090], modes: [small]}\n", ""))
    assert len(json.loads((out / "gpu-nodes.json").read_text())) == 1
    assert sorted(os.listdir(out)) == names


@needs_promtool
@pytest.mark.parametrize("text", [FLEET, FLEET + TOKENS], ids=["open", "tokens"])
def test_promtool_finds_nothing_wrong_with_configuration_and_rules(tmp_path: Path, text: str) -> None:
    out = exported(tmp_path, text)
    configuration_file = out / "prometheus.yml"
    token = out / "token"
    token.write_text("a token")
    configuration_file.write_text(configuration_file.read_text().replace(str(WISHES.token_file), str(token)))
    checked = subprocess.run(
        ["promtool", "check", "config", configuration_file], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "17 rules found" in checked.stdout


@needs_promtool
def test_every_alert_speaks_when_it_must_and_is_silent_when_it_must(tmp_path: Path) -> None:
    out = exported(tmp_path)
    shutil.copy(HERE / "rules_test.yml", out)
    tested = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_no_alert_is_without_a_test() -> None:
    alerts = {
        rule["alert"] for group in yaml.safe_load(rules())["groups"] for rule in group["rules"] if "alert" in rule
    }
    tested = {
        case["alertname"]
        for each in yaml.safe_load((HERE / "rules_test.yml").read_text())["tests"]
        for case in each.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert alerts == tested
