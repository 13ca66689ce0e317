"""The shapes on the wire: statuses, reason phrases, bodies, logins, uploads."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from provisioner.lab import tls
from provisioner.lab.harness import RunningLab
from tests.unit.lab.lab_vms import PROVISIONER

Ask = Callable[..., "Answer"]


class Answer:
    """One HTTP answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.reason = response.status, response.reason
        self.text = response.read().decode()
        self.closes = response.getheader("Connection", "").lower() == "close"

    @property
    def body(self) -> Any:
        return json.loads(self.text)


@pytest.fixture
def ask(lab: RunningLab) -> Ask:
    def send(
        method: str,
        path: str,
        params: Mapping[str, object] | bytes = b"",
        headers: Mapping[str, str] | None = None,
        token: str | None = PROVISIONER,
    ) -> Answer:
        context = ssl.create_default_context(cafile=str(lab.certificate_file))
        connection = http.client.HTTPSConnection(lab.host, lab.port, context=context, timeout=20)
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"PVEAPIToken={token}={lab.token(token)}")
        body = params if isinstance(params, bytes) else urlencode(params, doseq=True).encode()
        if body:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        try:
            connection.request(method, f"/api2/json{path}", body or None, sent)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    return send


def test_success_is_wrapped_in_data_and_keeps_the_connection(ask: Ask) -> None:
    answer = ask("GET", "/version")
    assert (answer.status, answer.body["data"]["release"], answer.closes) == (200, "9.1", False)


def test_the_reason_phrase_carries_the_refusal_and_the_connection_closes(ask: Ask) -> None:
    answer = ask("GET", "/nodes/pve1/qemu/5999/config")
    text = "Configuration file 'nodes/pve1/qemu-server/5999.conf' does not exist"
    assert (answer.status, answer.reason, answer.closes) == (500, text, True)
    assert answer.body == {"data": None, "message": f"{text}\n"}


def test_parameter_errors_are_in_the_body(ask: Ask) -> None:
    answer = ask("POST", "/nodes/pve1/qemu", {"vmid": "abc", "onboot": "True"})
    assert (answer.status, answer.reason) == (400, "Parameter verification failed.")
    assert set(answer.body["errors"]) == {"vmid", "onboot"}


@pytest.mark.parametrize(
    ("query", "body", "name"),
    [
        ("", b"name=body", "body"),
        ("?name=query", b"", "query"),
        ("?name=query", b"name=body", "query"),
        ("", b"memory=512;name=parted", "parted"),
        ("", b"name=first=second", "first"),
        ("", b"name", "VM 5001"),
    ],
)
def test_query_and_body_are_read_with_the_real_decoders_habits(
    ask: Ask, lab: RunningLab, query: str, body: bytes, name: str
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = ask("POST", f"/nodes/pve1/qemu{query}", b"&".join(filter(None, (b"vmid=5001", body))), form)
    assert answer.status == 200, answer.text
    lab.finish(answer.body["data"])
    assert lab.call("GET", "/cluster/resources", type="vm")[0]["name"] == name


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "No ticket"),
        ("PVEAPIToken=provisioner@pve!fleet=wrong", "invalid token value!"),
        ("PVEAPIToken=provisioner@pve!other=x", "no such token 'other' for user 'provisioner@pve'"),
        ("PVEAPIToken=nobody@pve!fleet=x", "no such user ('nobody@pve')"),
    ],
)
def test_a_bad_login_is_an_empty_401(ask: Ask, header: str | None, reason: str) -> None:
    answer = ask("GET", "/version", headers={"Authorization": header} if header else {}, token=None)
    assert (answer.status, answer.reason, answer.text) == (401, reason, "")


def test_rights_come_before_parameters(ask: Ask) -> None:
    answer = ask("POST", "/cluster/mapping/pci", {"nonsense": "1"})
    assert (answer.status, answer.reason) == (403, "Permission check failed (/mapping/pci, Mapping.Modify)")


def test_a_delete_with_a_body_is_not_understood(ask: Ask) -> None:
    answer = ask("DELETE", "/nodes/pve1/qemu/5001", {"purge": "1"})
    assert (answer.status, answer.reason) == (501, "Unexpected content for method 'DELETE'")


def test_unknown_paths_are_not_implemented(ask: Ask) -> None:
    answer = ask("POST", "/nodes/pve1/qemu/5001/wake")
    assert (answer.status, answer.reason) == (501, "Method 'POST /nodes/pve1/qemu/5001/wake' not implemented")


def test_a_body_beyond_the_limit_is_refused(ask: Ask) -> None:
    answer = ask("POST", "/nodes/pve1/qemu", b"description=" + b"x" * (513 * 1024))
    assert (answer.status, answer.reason) == (501, "for data too large")


def test_json_bodies_may_carry_real_booleans(ask: Ask, lab: RunningLab) -> None:
    body = json.dumps({"vmid": 5001, "onboot": True, "name": "a"}).encode()
    assert ask("POST", "/nodes/pve1/qemu", body, {"Content-Type": "application/json"}).status == 200
    lab.finish(ask("GET", "/cluster/tasks").body["data"][0]["upid"])
    assert ask("GET", "/nodes/pve1/qemu/5001/config").body["data"]["onboot"] == 1


def test_repeated_keys_make_an_array(ask: Ask, lab: RunningLab) -> None:
    root = login(ask, lab)
    entries = ["node=pve1,path=0000:01:00,id=10de:2204", "node=pve1,path=0000:02:00,id=10de:2504"]
    assert ask("POST", "/cluster/mapping/pci", {"id": "both", "map": entries}, root, None).status == 200
    assert ask("POST", "/cluster/mapping/pci", {"id": "one", "map": entries[:1]}, root, None).status == 200
    assert len(ask("GET", "/cluster/mapping/pci/both", headers=root, token=None).body["data"]["map"]) == 2


def login(ask: Ask, lab: RunningLab) -> dict[str, str]:
    answer = ask(
        "POST", "/access/ticket", {"username": "root@pam", "password": lab.credentials["root@pam"]}, token=None
    )
    data = answer.body["data"]
    return {"Cookie": f"PVEAuthCookie={quote(data['ticket'])}", "CSRFPreventionToken": data["CSRFPreventionToken"]}


def test_a_ticket_reads_with_the_cookie_and_writes_with_the_csrf_token(ask: Ask, lab: RunningLab) -> None:
    headers = login(ask, lab)
    assert ask("GET", "/access/users", headers=headers, token=None).status == 200
    assert ask("POST", "/pools", {"poolid": "gpu"}, headers, None).status == 200
    del headers["CSRFPreventionToken"]
    answer = ask("POST", "/pools", {"poolid": "cpu"}, headers, None)
    assert (answer.status, answer.reason) == (401, "Permission denied - invalid csrf token")


def test_a_wrong_password_gives_no_ticket(ask: Ask) -> None:
    answer = ask("POST", "/access/ticket", {"username": "root@pam", "password": "guess"}, token=None)
    assert (answer.status, answer.reason) == (401, "authentication failure")


def multipart(*fields: tuple[str, str, bytes]) -> tuple[bytes, dict[str, str]]:
    parts = []
    for name, file_name, value in fields:
        shown = f'; filename="{file_name}"' if file_name else ""
        head = f'--sep\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
        parts.append(head.encode() + value + b"\r\n")
    return b"".join(parts) + b"--sep--\r\n", {"Content-Type": "multipart/form-data; boundary=sep"}


def test_an_upload_replaces_a_file_of_the_same_name(ask: Ask, lab: RunningLab) -> None:
    for content in (b"first", b"second, longer"):
        body, headers = multipart(("content", "", b"iso"), ("filename", "seed.iso", content))
        answer = ask("POST", "/nodes/pve1/storage/local/upload", body, headers)
        assert lab.finish(answer.body["data"]).exitstatus == "OK"
    listed = ask("GET", "/nodes/pve1/storage/local/content").body["data"]
    assert [(entry["volid"], entry["size"]) for entry in listed] == [("local:iso/seed.iso", 14)]
    assert list((lab.state_dir / "incoming").iterdir()) == []


def test_an_upload_beyond_the_body_limit_is_streamed(ask: Ask, lab: RunningLab) -> None:
    body, headers = multipart(("content", "", b"iso"), ("filename", "big.iso", b"x" * (2 << 20)))
    assert lab.finish(ask("POST", "/nodes/pve1/storage/local/upload", body, headers).body["data"]).exitstatus == "OK"


def test_the_file_must_come_last(ask: Ask) -> None:
    body, headers = multipart(("filename", "seed.iso", b"x"), ("content", "", b"iso"))
    assert ask("POST", "/nodes/pve1/storage/local/upload", body, headers).status == 400


def test_snippets_can_not_be_uploaded(ask: Ask, lab: RunningLab) -> None:
    body, headers = multipart(("content", "", b"snippets"), ("filename", "x.yaml", b"x"))
    answer = ask("POST", "/nodes/pve1/storage/local/upload", body, headers)
    assert set(answer.body["errors"]) == {"content"}
    assert list((lab.state_dir / "incoming").iterdir()) == []


def test_the_journal_counts_requests_and_masks_secrets(ask: Ask, lab: RunningLab) -> None:
    ask("POST", "/access/ticket", {"username": "root@pam", "password": "guess"}, token=None)
    assert lab.requests()[-1]["params"] == {"username": "root@pam", "password": "***"}
    assert lab.requests()[-1]["status"] == 401
    lab.forget_requests()
    assert lab.requests() == []


def test_the_certificate_is_kept(tmp_path: Path) -> None:
    first, _ = tls.certificate(tmp_path)
    before = tls.fingerprint(first)
    again, key = tls.certificate(tmp_path)
    assert tls.fingerprint(again) == before
    assert key.stat().st_mode & 0o777 == 0o600
