"""The quick way to read a VM's configuration gives the same answers and the same errors as the careful one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.proxmox.session import PasswordLogin, ProxmoxSession, TokenLogin
from provisioner.adapters.secrets import SecretText
from provisioner.domain.fleet import ClusterAddress, TlsTrust
from provisioner.errors import (
    PermissionMissingError,
    ProvisionerError,
    UnreachableError,
    UntrustedError,
    VmMissingError,
)
from provisioner.lab.harness import RunningLab
from tests.lab.support import cluster_spec

PENDING = "nodes/pve1/qemu/5001/pending"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RunningLab]:
    faults = [
        {"path": "/5003/pending", "status": 596, "reason": "Connection timed out", "times": 2},
        {"path": "/5004/pending", "drop": "after", "times": 2},
    ]
    with RunningLab(tmp_path, faults=faults) as running:
        for vmid in (5001, 5003, 5004):
            running.finish(running.call("POST", "/nodes/pve1/qemu", vmid=str(vmid), name="a"))
        yield running


def session(lab: RunningLab, **changes: Any) -> ProxmoxSession:
    spec = cluster_spec(lab)
    trust = changes.get("tls", spec.tls)
    address = ClusterAddress(spec.name, changes.get("url", lab.url), trust, retry_seconds=changes.get("patience", 5.0))
    return ProxmoxSession(address, changes.get("login", TokenLogin(spec.token_id, SecretText(lab.token()))))


def test_it_answers_as_the_careful_way_does(lab: RunningLab) -> None:
    api = session(lab)
    assert api.read(PENDING) == api.call("GET", PENDING)
    assert api.calls == 2


@pytest.mark.parametrize("trust", ["pinned", "ca"])
def test_the_certificate_is_held_to_the_same_trust(lab: RunningLab, trust: str) -> None:
    tls = TlsTrust(fingerprint=lab.fingerprint) if trust == "pinned" else TlsTrust(ca_file=lab.certificate_file)
    assert session(lab, tls=tls).read(PENDING)


@pytest.mark.parametrize("tls", [TlsTrust(), TlsTrust(fingerprint=":".join(["AB"] * 32))], ids=["system", "another"])
def test_a_server_that_is_not_trusted_is_sent_nothing(lab: RunningLab, tls: TlsTrust) -> None:
    lab.forget_requests()
    with pytest.raises(UntrustedError):
        session(lab, tls=tls).read(PENDING)
    assert lab.requests() == []


def test_a_persons_login_reads_too(lab: RunningLab) -> None:
    login = PasswordLogin("root@pam", SecretText(lab.credentials["root@pam"]))
    api = session(lab, login=login)
    assert api.read(PENDING) == api.call("GET", PENDING)


@pytest.mark.parametrize("vmid", [5003, 5004])
def test_a_lost_answer_is_asked_for_again(lab: RunningLab, vmid: int) -> None:
    assert session(lab).read(f"nodes/pve1/qemu/{vmid}/pending")


def test_each_refusal_is_named_as_ever(lab: RunningLab) -> None:
    with pytest.raises(VmMissingError):
        session(lab).read("nodes/pve1/qemu/5009/pending")
    lab.call("PUT", "/access/acl", path="/vms", roles="ProvisionerVM", tokens="provisioner@pve!fleet", delete="1")
    with pytest.raises(PermissionMissingError, match=r"VM\.Audit"):
        session(lab).read(PENDING)


def test_nobody_there_is_said_so(lab: RunningLab) -> None:
    with pytest.raises(UnreachableError, match="refused"):
        session(lab, url="https://127.0.0.1:1", patience=0.0).read(PENDING)


def test_a_token_that_is_no_longer_accepted_is_said_so(lab: RunningLab) -> None:
    wrong = TokenLogin("provisioner@pve!fleet", SecretText("00000000-0000-0000-0000-000000000000"))
    with pytest.raises(ProvisionerError, match="does not accept token") as caught:
        session(lab, login=wrong).read(PENDING)
    assert "00000000" not in str(caught.value)
