"""What Prometheus needs to watch the fleet: a configuration, rules, and the engines as targets in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import EngineName
from provisioner.engines.base import InferenceEngine
from provisioner.planning.prometheus_targets import target_groups

CONFIGURATION, RULES, TARGETS, NAMES = "prometheus.yml", "provisioner-rules.yml", "gpu-nodes.json", "metrics.md"
# A wake lasts tens of seconds; what is scraped less often than this shows half of them.
_INTERVAL = "15s"


@dataclass(frozen=True, slots=True)
class PrometheusWishes:
    """The control service's base URL, and the file from which Prometheus reads its token."""

    url: str
    token_file: Path


def rules() -> str:
    """Return recording and alert rules."""
    return Path(__file__).with_name("rules.yml").read_text(encoding="utf-8")


def targets(fleet: FleetSpec, engines: Mapping[EngineName, InferenceEngine]) -> str:
    """Return every node's engine that can be scraped, for ``file_sd``: a file does not know who is awake."""
    return json.dumps(target_groups(fleet, engines, fleet.nodes.values()), indent=2) + "\n"


def configuration(fleet: FleetSpec, wishes: PrometheusWishes) -> str:
    """Return the text of a ``prometheus.yml``. The token itself is not in it."""
    tls, place = fleet.service.tls, urlsplit(wishes.url)

    def door() -> dict[str, object]:
        # Made anew each time: what is one object would be an alias in the text.
        found: dict[str, object] = {}
        if fleet.service.tokens:
            # The type is the default, which discovery of Prometheus 2.42 forgets: it would be told 401.
            found["authorization"] = {"type": "Bearer", "credentials_file": str(wishes.token_file)}
        if tls and place.scheme == "https":
            found["tls_config"] = {"ca_file": str(tls.certificate)}
        return found

    http_sd = {"url": f"{wishes.url}/sd/prometheus", "refresh_interval": "30s", **door()}
    document = {
        "global": {"scrape_interval": _INTERVAL, "evaluation_interval": _INTERVAL},
        "rule_files": [RULES],
        "scrape_configs": [
            {
                "job_name": "provisioner",
                "scheme": place.scheme,
                "metrics_path": f"{place.path}/metrics",
                **door(),
                "static_configs": [{"targets": [place.netloc]}],
            },
            {"job_name": "gpu-engines", "http_sd_configs": [http_sd]},
        ],
    }
    return _HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


_HEAD = f"""\
# Written by: provisioner export prometheus. Change the fleet file and write it again, or take out what you need.
# The engines that answer are asked for at the service (http_sd). Without it, use {TARGETS} instead:
#   file_sd_configs: [{{files: [{TARGETS}]}}]
"""
