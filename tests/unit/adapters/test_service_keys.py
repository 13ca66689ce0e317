"""What a fleet file may say of the control service."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.files.fleet_schema import json_schema
from provisioner.domain.callers import Scope
from provisioner.domain.service import ServiceSpec
from tests.fleets import FLEET, fleet_from


def with_service(text: str) -> str:
    return f"{FLEET}service: {text}\n"


def test_without_a_word_it_listens_on_loopback_and_knows_no_token(tmp_path: Path) -> None:
    service = fleet_from(tmp_path).service
    assert service == ServiceSpec()
    assert (str(service.listen), service.listen.is_private_to_us, dict(service.tokens)) == ("127.0.0.1:8700", True, {})


def test_everything_may_be_said(tmp_path: Path) -> None:
    text = with_service(
        "{listen: '10.10.0.5:8700', tokens: {n8n: {secret: env:N8N_TOKEN, may: [route, wake]}, "
        "page: {secret: file:page.token, may: [read]}}, tls: {certificate: tls/cert.pem, key: /etc/key.pem}, "
        "look_every: 2s, idle_every: 5m, drain_within: 0s, keep_events: 7d, figures_every: 30s, "
        "record: {url: 'http://10.10.0.9:8086/', organization: home, bucket: llm, secret: env:INFLUX_TOKEN}}"
    )
    service = fleet_from(tmp_path, text).service
    assert not service.listen.is_private_to_us
    assert service.tokens["n8n"].may == {Scope.ROUTE, Scope.WAKE}
    assert str(service.tokens["page"].secret) == f"file:{tmp_path}/page.token"
    assert service.tls is not None
    assert (service.tls.certificate, service.tls.key) == (tmp_path / "tls/cert.pem", Path("/etc/key.pem"))
    assert (service.look_every_seconds, service.idle_every_seconds, service.drain_seconds) == (2.0, 300.0, 0.0)
    assert (service.keep_events_seconds, service.figures_every_seconds) == (7 * 86400.0, 30.0)
    assert service.record is not None
    assert (service.record.url, service.record.bucket) == ("http://10.10.0.9:8086", "llm")
    assert str(service.record.secret) == "env:INFLUX_TOKEN"
    assert not list(jsonschema.Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(text)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{listen: 0.0.0.0:8700}", "which others reach, and no tokens"),
        ("{listen: '[::]:8700'}", "which others reach, and no tokens"),
        ("{listen: 8700}", "an address and a port"),
        ("{listen: 'localhost:8700'}", "an address and a port"),
        ("{listen: '127.0.0.1:99999'}", "an address and a port"),
        ("{listen: '::1:8700'}", "an address and a port"),
        ("{tokens: {n8n: {secret: env:A}}}", "may; it is required"),
        ("{tokens: {n8n: {secret: env:A, may: []}}}", "service.tokens.n8n.may"),
        ("{tokens: {n8n: {secret: env:A, may: [everything]}}}", "'read', 'route', 'wake' or 'admin'"),
        ("{tokens: {n8n: {secret: hunter2hunter2, may: [read]}}}", "not repeated here"),
        ("{tokens: {n8n: hunter2hunter2}}", "not repeated here"),
        ("{tls: {certificate: a.pem}}", "key; it is required"),
        ("{look_every: 0s}", "a time above zero"),
        ("{look_every: 5}", "a time with its unit"),
        ("{record: {url: 'http://a:1'}}", "exactly one of database, bucket"),
        ("{record: {url: 'http://a:1', database: a, bucket: b}}", "exactly one of database, bucket"),
        ("{record: {url: 'http://a:1', database: a, user: u}}", "user and secret together"),
        ("{record: {url: 'http://a:1', bucket: b, user: u}}", "user with database only"),
        ("{record: {url: 'http://a:1', database: a, organization: o}}", "organization with bucket only"),
        ("{record: {url: 'http://a:1', bucket: b, secret: hunter2hunter2}}", "not repeated here"),
        ("{record: {url: 'ftp://a', database: a}}", "an http or https URL"),
        ("{listens: 127.0.0.1:1}", 'unknown key "listens"'),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FleetFileError) as refused:
        fleet_from(tmp_path, with_service(text))
    assert words in str(refused.value)
    assert f"fleet.yml:{len(FLEET.splitlines()) + 1}: service" in str(refused.value)
    assert "hunter2" not in str(refused.value)
