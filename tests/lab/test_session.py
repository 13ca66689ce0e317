"""The session's patience: what is asked again, for how long, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.proxmox.session import PasswordLogin, ProxmoxSession, TokenLogin
from provisioner.adapters.secrets import SecretText
from provisioner.domain.fleet import ClusterAddress
from provisioner.domain.names import ClusterName
from provisioner.errors import LoginRefusedError, PermissionMissingError, UnreachableError, UntrustedError
from provisioner.lab.harness import RunningLab
from tests.fakes.clock import FakeClock
from tests.lab.support import cluster_spec

TOKEN = "provisioner@pve!fleet"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RunningLab]:
    with RunningLab(tmp_path) as running:
        yield running


def session(lab: RunningLab, clock: FakeClock | None = None, secret: str | None = None) -> ProxmoxSession:
    spec = cluster_spec(lab)
    address = ClusterAddress(ClusterName("lab"), spec.api_url, spec.tls, answer_seconds=5.0, retry_seconds=10.0)
    return ProxmoxSession(
        address,
        TokenLogin(TOKEN, SecretText(secret or lab.token())),
        renewed_login=lambda: TokenLogin(TOKEN, SecretText(lab.token())),
        clock=clock or FakeClock(),
    )


@pytest.mark.parametrize(
    "fault",
    [{"says": "no_route"}, {"says": "bad_gateway"}, {"drop": "before"}, {"answers": "html"}, {"answers": "nothing"}],
    ids=str,
)
def test_reading_is_tried_again_while_no_answer_comes(lab: RunningLab, fault: dict[str, object]) -> None:
    lab.faults.add(method="GET", times=3, **fault)
    clock = FakeClock()
    assert session(lab, clock).call("GET", "version")["release"] == "9.1"
    assert clock.sleeps == [0.05, 0.1, 0.2]


def test_reading_ends_with_the_patience(lab: RunningLab) -> None:
    lab.faults.add(method="GET", says="out_of_time")
    clock = FakeClock()
    with pytest.raises(UnreachableError, match="596 Connection timed out"):
        session(lab, clock).call("GET", "version")
    assert clock.monotonic() == pytest.approx(10.0)


def test_a_change_that_may_have_happened_is_never_sent_twice(lab: RunningLab) -> None:
    lab.faults.add(method="POST", drop="after")
    with pytest.raises(UnreachableError) as caught:
        session(lab).call("POST", "nodes/pve1/qemu", vmid=5001)
    assert caught.value.may_have_happened
    assert [request["method"] for request in lab.requests()] == ["POST"]


def test_a_refusal_is_not_asked_for_again(lab: RunningLab) -> None:
    opened = session(lab)
    with pytest.raises(PermissionMissingError, match=r"Sys\.Audit"):
        opened.call("GET", "nodes/pve9/status")
    assert opened.calls == 1


def test_a_first_contact_that_fails_is_told_at_once(lab: RunningLab) -> None:
    opened = session(lab)
    lab.close()
    with pytest.raises(UnreachableError, match="Connection refused") as caught:
        opened.call("GET", "version")
    assert not caught.value.may_have_happened
    assert opened.calls == 1


def test_a_server_that_has_answered_before_is_waited_for(lab: RunningLab) -> None:
    clock = FakeClock()
    opened = session(lab, clock)
    opened.call("GET", "version")
    lab.close()
    with pytest.raises(UnreachableError):
        opened.call("POST", "nodes/pve1/qemu", vmid=5001)
    assert clock.monotonic() == pytest.approx(10.0)
    assert opened.calls > 5


def test_a_rotated_token_is_read_again_once(lab: RunningLab) -> None:
    opened = session(lab)
    opened.call("GET", "version")
    lab.befall("token_rotated")
    assert opened.call("GET", "version")["release"] == "9.1"
    assert opened.calls == 3


def test_a_wrong_token_is_refused_after_one_look_at_its_source(lab: RunningLab) -> None:
    spec = cluster_spec(lab)
    reads = []

    def read() -> TokenLogin:
        reads.append(1)
        return TokenLogin(TOKEN, SecretText("00000000-wrong"))

    opened = ProxmoxSession(spec.address, read(), renewed_login=read, clock=FakeClock())
    with pytest.raises(LoginRefusedError) as caught:
        opened.call("GET", "version")
    assert len(reads) == 2
    assert opened.calls == 1
    assert "wrong" not in str(caught.value)


def test_a_ticket_that_the_restarted_server_does_not_know_is_asked_for_anew(lab: RunningLab) -> None:
    login = PasswordLogin("root@pam", SecretText(lab.credentials["root@pam"]))
    opened = ProxmoxSession(cluster_spec(lab).address, login, clock=FakeClock())
    assert opened.call("GET", "nodes/pve1/status")["kversion"]
    lab.lab.forget_tickets(b"another secret of thirty-two bytes")
    assert opened.call("GET", "nodes/pve1/status")["kversion"]


@pytest.mark.parametrize("fault", [{"says": "out_of_time"}, {"answers": "html"}, {"drop": "after"}], ids=str)
def test_a_login_that_gets_no_answer_is_no_wrong_password(lab: RunningLab, fault: dict[str, object]) -> None:
    lab.faults.add(path="/access/ticket", times=2, **fault)
    login = PasswordLogin("root@pam", SecretText(lab.credentials["root@pam"]))
    opened = ProxmoxSession(cluster_spec(lab).address, login, clock=FakeClock())
    assert opened.call("GET", "version")["release"] == "9.1"


def test_another_certificate_is_not_asked_again(lab: RunningLab) -> None:
    clock = FakeClock()
    opened = session(lab, clock)
    opened.call("GET", "version")
    lab.befall("certificate_renewed")
    with pytest.raises(UntrustedError):
        opened.call("GET", "version")
    assert clock.sleeps in ([], [0.05])
