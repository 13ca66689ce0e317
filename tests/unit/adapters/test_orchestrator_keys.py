"""What a fleet file may say of orchestrators."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.files.fleet_schema import json_schema
from provisioner.domain.orchestrator import OrchestratorName
from tests.fleets import FLEET, fleet_from

N8N = "url: http://10.10.40.12:5678, api_key: env:N8N_API_KEY"
SERVICE = "service: {tokens: {n8n: {secret: env:N8N_TOKEN, may: [route, wake]}}, url: http://10.10.0.5:8700}\n"


def test_n8n_is_named_with_address_and_key_and_given_the_token_of_its_name(tmp_path: Path) -> None:
    text = f"{FLEET}{SERVICE}orchestrators: {{n8n: {{{N8N}}}}}\n"
    fleet = fleet_from(tmp_path, text)
    spec = fleet.orchestrators[OrchestratorName("n8n")]
    assert (spec.url, str(spec.api_key), spec.token, spec.webhook_key) == (
        "http://10.10.40.12:5678",
        "env:N8N_API_KEY",
        "n8n",
        None,
    )
    assert fleet.service.address_for_others == "http://10.10.0.5:8700"
    assert not list(jsonschema.Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(text)))


def test_each_takes_what_is_its_own(tmp_path: Path) -> None:
    entries = (
        f"n8n: {{{N8N}}}, prometheus: {{targets_file: /etc/prometheus/targets/gpu-nodes.json}}, "
        "open-webui: {url: http://10.10.40.13:3000, api_key: env:K, token: n8n}, "
        "litellm: {config_file: litellm/ours.yaml, token: n8n}"
    )
    text = f"{FLEET}{SERVICE}orchestrators: {{{entries}}}\n"
    named = fleet_from(tmp_path, text).orchestrators
    assert {name: spec.file for name, spec in named.items()} == {
        "n8n": None,
        "prometheus": Path("/etc/prometheus/targets/gpu-nodes.json"),
        "open-webui": None,
        "litellm": tmp_path / "litellm/ours.yaml",
    }
    assert not list(jsonschema.Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(text)))


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:8700", "http://127.0.0.1:8700"),
        ("'[::1]:8700'", "http://[::1]:8700"),
        ("127.0.0.1:0", ""),
    ],
)
def test_without_a_word_others_find_it_where_it_listens(tmp_path: Path, listen: str, address: str) -> None:
    fleet = fleet_from(tmp_path, f"{FLEET}service: {{listen: {listen}}}\n")
    assert fleet.service.address_for_others == address


@pytest.mark.parametrize(
    ("service", "orchestrators", "words"),
    [
        (
            "",
            f"zapier: {{{N8N}}}",
            'unknown orchestrator "zapier"; allowed: one of: litellm, n8n, open-webui, prometheus',
        ),
        ("", "n8n: {url: http://10.10.40.12:5678}", "no api_key"),
        ("", "n8n: {api_key: env:KEY}", "no url"),
        ("", "prometheus: {url: http://x}", "no targets_file"),
        ("", "prometheus: {targets_file: x, url: http://x}", "found url of prometheus; allowed: the keys targets_file"),
        ("", f"n8n: {{{N8N}, uri: x}}", 'unknown key "uri"'),
        ("", "n8n: {url: ftp://x, api_key: env:KEY}", "an http or https URL without user, query or fragment"),
        ("", "n8n: {url: \"http://x/'+evil+'\", api_key: env:KEY}", "an http or https URL"),
        ("", "n8n: {url: http://me:pass@x, api_key: env:KEY}", "an http or https URL"),
        ("", "n8n: {url: http://x, api_key: eyJhbGciOi}", "a literal value (not repeated here)"),
        ("", f"n8n: {{{N8N}, webhook_key: hunter2}}", "a literal value (not repeated here)"),
        ("tokens: {me: {secret: env:T, may: [admin]}}", f"n8n: {{{N8N}}}", 'no token "n8n" for it'),
        ("tokens: {n8n: {secret: env:T, may: [read]}}", f"n8n: {{{N8N}}}", "nothing of route, wake"),
        ("tokens: {n8n: {secret: env:T, may: [admin]}}", f"n8n: {{{N8N}, token: other}}", 'no token "other"'),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(
    tmp_path: Path, service: str, orchestrators: str, words: str
) -> None:
    with pytest.raises(FleetFileError) as caught:
        fleet_from(tmp_path, f"{FLEET}service: {{{service}}}\norchestrators: {{{orchestrators}}}\n")
    assert words in caught.value.summary
    assert "hunter2" not in caught.value.summary
