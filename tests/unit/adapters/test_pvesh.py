"""What pvesh prints when it refuses becomes the error that the API's refusal would be."""

from __future__ import annotations

from types import TracebackType

import pytest

from provisioner.adapters.proxmox.pvesh import PveshCaller
from provisioner.domain.fleet import ClusterAddress, TlsTrust
from provisioner.domain.names import ClusterName
from provisioner.errors import HypervisorError, PermissionMissingError, ProvisionerError, VmidTakenError
from provisioner.ports.guest_shell import CommandResult

CLUSTER = ClusterAddress(ClusterName("homelab"), "https://10.10.0.2:8006", TlsTrust())
WARNING = "perl: warning: Setting locale failed.\n"


class OneAnswer:
    """A shell that says one thing and remembers what it was asked."""

    def __init__(self, exit_code: int, out: str = "", err: str = "") -> None:
        self.result = CommandResult(exit_code, out, err)
        self.asked: list[str] = []

    def run(self, script: str, *, seconds: float, privileged: bool = True) -> CommandResult:
        assert privileged
        assert seconds > 30
        self.asked.append(script)
        return self.result

    def __enter__(self) -> OneAnswer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None


@pytest.mark.parametrize(("out", "answer"), [('{"a": 1}\n', {"a": 1}), ("[]", []), ("", None), ('"UPID:x"', "UPID:x")])
def test_an_answer_is_what_was_printed(out: str, answer: object) -> None:
    assert PveshCaller(CLUSTER, OneAnswer(0, out, WARNING)).call("GET", "version") == answer


def test_a_request_is_a_quoted_command_line() -> None:
    shell = OneAnswer(0)
    caller = PveshCaller(CLUSTER, shell)
    caller.call("POST", "cluster/mapping/pci", id="gpu", map=["node=a;b", "$(reboot)"], description="it's")
    caller.call("PUT", "access/acl", path="/", delete=1)
    assert shell.asked == [
        "LC_ALL=C pvesh create /cluster/mapping/pci --id gpu --map 'node=a;b' --map '$(reboot)' "
        "--description 'it'\"'\"'s' --output-format json",
        "LC_ALL=C pvesh set /access/acl --path / --delete 1 --output-format json",
    ]


@pytest.mark.parametrize(
    ("exit_code", "err", "kind", "summary"),
    [
        (
            255,
            "create role failed: role 'Mine' already exists\n",
            HypervisorError,
            "cannot POST access/roles: create role failed: role 'Mine' already exists",
        ),
        (
            255,
            "400 Parameter verification failed.\nprivs: invalid privilege 'VM.Monitor'\npvesh create <api_path> ...\n",
            HypervisorError,
            "cannot POST access/roles: Parameter verification failed. privs: invalid privilege 'VM.Monitor'",
        ),
        (
            255,
            "403 Permission check failed (/access, Sys.Modify)\n",
            PermissionMissingError,
            "cannot POST access/roles: Permission check failed (/access, Sys.Modify)",
        ),
        (255, "please run as root\n", PermissionMissingError, "cannot POST access/roles: pvesh asks for root"),
        (
            127,
            "sh: 1: pvesh: not found\n",
            HypervisorError,
            "cannot POST access/roles: there is no pvesh on that machine",
        ),
        (
            255,
            "unable to create VM 5001 - VM 5001 already exists on node 'pve1'\n",
            VmidTakenError,
            "cannot create the VM: unable to create VM 5001 - VM 5001 already exists on node 'pve1'",
        ),
        (255, "", HypervisorError, "cannot POST access/roles: exit code 255"),
    ],
)
def test_a_refusal_is_told_in_our_words(exit_code: int, err: str, kind: type[ProvisionerError], summary: str) -> None:
    with pytest.raises(kind) as refusal:
        PveshCaller(CLUSTER, OneAnswer(exit_code, "", err)).call("POST", "access/roles", roleid="Mine")
    assert refusal.value.summary == summary


def test_what_is_not_json_is_said_to_be_so() -> None:
    with pytest.raises(HypervisorError, match="cannot understand what pvesh printed"):
        PveshCaller(CLUSTER, OneAnswer(0, "┌───┐")).call("GET", "version")
