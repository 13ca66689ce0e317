"""`provisioner init` on the embedded Proxmox: what is found, what is written, and what is refused before anything."""

from __future__ import annotations

import http.server
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.fleet import SecretSource
from provisioner.domain.names import GpuName, HypervisorName, NodeName
from provisioner.domain.quantities import GIB
from provisioner.errors import (
    HypervisorError,
    InputError,
    LoginRefusedError,
    ProvisionerError,
    UnreachableError,
    UntrustedError,
)
from provisioner.fleet import Fleet
from provisioner.lab.harness import RunningLab
from tests.discoveries import with_offers
from tests.lab.init_support import (
    SEVERAL,
    as_root,
    as_token,
    make_token,
    read_back,
    run_init,
    secret_file,
    something_else,
)

ORACLE = Path(__file__).resolve().parents[2].parent / "shared" / "pve" / "oracle" / "cluster.json"


@pytest.mark.parametrize("pve", ["8.4", "9.1"])
def test_a_default_cluster_gives_a_file_that_works_at_once(pve: str, tmp_path: Path) -> None:
    output = tmp_path / "inventory" / "fleet.yml"
    with RunningLab(tmp_path / "lab", pve=pve) as lab:
        lab.forget_requests()
        done = run_init(*as_token(lab, tmp_path), "--output", output)
        assert (done.code, done.error) == (0, None)
        # Four for the cluster, four for the one server; the first is the knock, without a login.
        asked = [(request["path"], request["user"]) for request in lab.requests()]
        assert asked[0] == ("/access/domains", None)
        assert len(asked) == 1 + 4 + 4
        assert "(8 API calls)" in done.stdout
        fleet = read_back(output)
        (spec,) = fleet.clusters.values()
        assert (spec.api_url, spec.tls.fingerprint, spec.token_id) == (
            lab.url,
            lab.fingerprint,
            "provisioner@pve!fleet",
        )
        assert (spec.storage.disks, spec.storage.images, spec.storage.iso) == ("local-lvm", "local", "local")
        gpus = fleet.hypervisors[HypervisorName("pve1")].gpus
        assert {name: gpu.vram_bytes for name, gpu in gpus.items()} == {"rtx3090": 24 * GIB, "rtx3060": None}
        checks = Fleet.load(output).hypervisor("pve1").doctor()
        assert [check for check in checks if check.status.value == "fail"] == []
    assert f"next: provisioner --fleet {output} doctor" in done.stdout
    nodes = with_offers(output.read_text()).nodes
    assert [(node.name, node.vmid, str(node.address)) for node in nodes.values()] == [
        ("llm-gpu-01", 5001, "10.10.90.1/16"),
        ("llm-gpu-02", 5002, "10.10.90.2/16"),
        ("llm-cpu-01", 5101, "10.10.90.101/16"),
    ]


def test_a_persons_login_leaves_the_tokens_place_in_the_file_and_nothing_secret(tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    with RunningLab(tmp_path / "lab") as lab:
        done = run_init(*as_root(lab, tmp_path), "--output", output)
        password = lab.credentials["root@pam"]
    assert done.error is None
    (spec,) = read_back(output).clusters.values()
    assert spec.token_id == "provisioner@pve!fleet"
    assert spec.token_secret.source is SecretSource.FILE
    assert spec.token_secret.name == str(Path("~/.config/provisioner/homelab.token").expanduser())
    for text in (output.read_text(), done.stdout, done.stderr):
        assert password not in text


def test_a_persons_login_shows_the_privileged_step_and_does_nothing_of_it(tmp_path: Path) -> None:
    with RunningLab(tmp_path / "lab") as lab:
        lab.call("DELETE", "/cluster/mapping/pci/rtx3060")
        arguments = ("--token-id", "new@pve!fleet", "--token-secret", f"file:{tmp_path / 'new.token'}")
        lab.forget_requests()
        done = run_init(*as_root(lab, tmp_path), *arguments, "--output", tmp_path / "fleet.yml")
        methods = [(request["method"], request["path"]) for request in lab.requests()]
        again = run_init(*as_root(lab, tmp_path), *arguments, "--output", tmp_path / "2.yml", "--json").result
    assert done.error is None
    # A second factor is good for one login, so there is one.
    assert methods.count(("POST", "/access/ticket")) == 1
    assert {method for method, path in methods if path != "/access/ticket"} == {"GET"}
    assert not (tmp_path / "new.token").exists()
    for words in (
        "$ pvesh create /access/users --userid new@pve",
        "$ pvesh create /access/users/new@pve/token/fleet --privsep 1",
        "--path /mapping/pci/rtx3060 ",
        "$ pvesh create /cluster/mapping/pci --id rtx3060 --map node=pve1,path=0000:02:00,",
        "prepare pve1 --only access --login root@pam --gpu rtx3060=0000:02:00",
    ):
        assert words in done.stdout, words
    assert any(step["name"] == "create token new@pve!fleet" for step in again["privileged_step"]["steps"])


def test_the_steps_done_by_hand_leave_nothing_to_do(tmp_path: Path) -> None:
    token = tmp_path / "new.token"
    arguments = ("--token-id", "new@pve!fleet", "--token-secret", f"file:{token}", "--json")
    with RunningLab(tmp_path / "lab") as lab:
        lab.call("DELETE", "/cluster/mapping/pci/rtx3060")
        first = run_init(*as_root(lab, tmp_path), *arguments, "--output", tmp_path / "1.yml").result
        for step in first["privileged_step"]["steps"]:
            request = step["request"]
            answer = lab.call(request["method"], request["path"], **request["parameters"])
            if step["file"]:
                secret_file(tmp_path, answer["value"], token.name)
        second = run_init(*as_root(lab, tmp_path), *arguments, "--output", tmp_path / "2.yml").result
        assert second["privileged_step"]["steps"] == []
        assert second["privileged_step"]["obstacles"] == []
        assert second["next_step"] == f"provisioner --fleet {tmp_path / '2.yml'} doctor"
        checks = Fleet.load(tmp_path / "2.yml").hypervisor("pve1").doctor()
    assert [check for check in checks if check.status.value == "fail"] == []


def test_a_person_with_few_rights_still_gets_the_file(tmp_path: Path) -> None:
    with RunningLab(tmp_path / "lab") as lab:
        lab.call("POST", "/access/users", userid="plain@pve", password="long-enough")
        password = secret_file(tmp_path, "long-enough", "password")
        login = [lab.url, "--user", "plain@pve", "--password", password, "--fingerprint", lab.fingerprint]
        done = run_init(*login, "--output", tmp_path / "fleet.yml")
    assert done.error is None
    assert "the privileged step is not planned: cannot see what is there: 403" in done.stdout
    assert list(read_back(tmp_path / "fleet.yml").hypervisors) == ["pve1"]


def test_a_person_may_say_which_token_the_fleet_will_use(tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    with RunningLab(tmp_path / "lab") as lab:
        arguments = ("--token-id", "other@pve!x1", "--token-secret", "env:NOT_SET_YET")
        assert run_init(*as_root(lab, tmp_path), *arguments, "--output", output).error is None
    (spec,) = read_back(output).clusters.values()
    assert (spec.token_id, str(spec.token_secret)) == ("other@pve!x1", "env:NOT_SET_YET")


@pytest.mark.skipif(not ORACLE.exists(), reason="the recorded cluster is not next to the checkout")
@pytest.mark.parametrize("pve", ["8.4", "9.1"])
def test_the_recorded_cluster_shows_every_card_and_who_names_it(pve: str, tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    with RunningLab(tmp_path / "lab", pve=pve, state=json.loads(ORACLE.read_text())) as lab:
        done = run_init(*as_root(lab, tmp_path), "--output", output, "--json")
    assert done.error is None
    fleet = read_back(output)
    assert {name: len(server.gpus) for name, server in fleet.hypervisors.items()} == {"pve1": 7, "pve2": 1}
    states = {gpu["name"]: gpu["used_by"] for gpu in done.result["fleet"]["gpus"]}
    assert (states["h100"], states["a100"], states["stale"], states["l40s-pve2"]) == ([5001], [], [5005], [])
    pooled = [gpu.name for gpu in fleet.hypervisors[HypervisorName("pve1")].gpus.values() if gpu.mapping == "pool4"]
    assert [states[name] for name in pooled] == [[5002], [], [], []]
    assert done.result["discovery"]["cluster_name"] == "lab"
    # 4 for the cluster, 4 for each server, one for each guest.
    guests = len(done.result["discovery"]["guests"])
    assert done.result["discovery"]["calls"] == 4 + 2 * 4 + guests
    # Disabled storages and those that hold ISOs only are nobody's disks.
    assert fleet.clusters[next(iter(fleet.clusters))].storage.disks == "local-lvm"
    with_offers(output.read_text())


@pytest.fixture
def several(tmp_path: Path) -> Any:
    with RunningLab(tmp_path / "several", state=SEVERAL) as lab:
        yield lab


def test_several_servers_with_awkward_names_are_told_apart(several: RunningLab, tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    done = run_init(*as_root(several, tmp_path), "--output", output)
    assert done.error is None
    fleet = read_back(output)
    assert set(fleet.hypervisors) == {"no", "PVE-1e3", "007"}
    assert {name: set(server.gpus) for name, server in fleet.hypervisors.items()} == {
        "no": {"big", "rx7900xt"},
        "PVE-1e3": {"rtx3090"},
        "007": set(),
    }
    (spec,) = fleet.clusters.values()
    assert (spec.storage.disks, spec.storage.images, spec.storage.iso) == ("thin.pool-1", "local", "local")
    text = " ".join(output.read_text().replace("\n    #", " ").split())
    # The server to begin with is one whose card can be mapped now.
    assert "prepare no --only access --login root@pam --gpu rx7900xt=0000:02:00" in done.stdout
    for words in (
        "pvesh set /storage/local --content backup,import,iso,vztmpl",
        "was offline",
        "the IOMMU is off",
        "UHD 630",
        "also named by VM 200",
        "the server is offline",
    ):
        assert words in text, words
    assert "ASPEED" not in text


def test_its_offers_avoid_what_is_taken(several: RunningLab, tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    assert run_init(*as_root(several, tmp_path), "--output", output).error is None
    fleet = with_offers(output.read_text())
    first = fleet.nodes[NodeName("llm-gpu-01")]
    # VM 5001 and the addresses .201 (a VM's) and .202 (a container's) are somebody's.
    assert (first.hypervisor, first.gpus, first.vmid) == ("no", (GpuName("rx7900xt"),), 5200)
    assert str(first.address) == "192.168.7.203/24"
    assert first.gateway == IPv4Address("192.168.7.1")
    assert (first.cores, first.memory_bytes) == (8, 32 * GIB)
    windows = fleet.nodes[NodeName("windows-gaming")]
    assert (windows.adopt, windows.vmid, str(windows.address)) == (True, 200, "192.168.7.201/24")


def test_a_server_that_is_listed_but_silent_is_noted(several: RunningLab, tmp_path: Path) -> None:
    several.faults.add(path="^/nodes/PVE-1e3/", status=595, reason="No route to host")
    done = run_init(*as_root(several, tmp_path), "--output", tmp_path / "fleet.yml", "--json")
    assert done.error is None
    silent = [each for each in done.result["unseen"] if "PVE-1e3" in each["what"]]
    assert len(silent) == 3
    assert all("595" in each["why"] for each in silent)


def test_a_login_that_sees_little_is_told_what_it_lacks_and_gets_the_rest(tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    with RunningLab(tmp_path / "lab") as lab:
        token = make_token(lab, "blind", {"/storage/local": "PVEDatastoreUser"})
        done = run_init(*as_token(lab, tmp_path, token), "--output", output)
    assert done.error is None
    fleet = read_back(output)
    assert dict(fleet.hypervisors[HypervisorName("pve1")].gpus) == {}
    for place in (done.stdout, output.read_text()):
        flat = " ".join(place.replace("\n#", " ").split())
        for words in (
            "GPUs of pve1: this login lacks Sys.Audit or Sys.Modify on /",
            "lacks VM.Audit on /vms",
            "lacks Mapping.Audit on /mapping/pci",
            "lacks SDN.Audit on /sdn/zones/localnetwork",
            "PVEAuditor on /",
        ):
            assert words in flat, words


@pytest.mark.parametrize("pve", ["8.4", "9.1"])
def test_the_role_that_is_recommended_shows_everything(pve: str, tmp_path: Path) -> None:
    with RunningLab(tmp_path / "lab", pve=pve) as lab:
        token = make_token(lab, "auditor", {"/": "PVEAuditor"})
        done = run_init(*as_token(lab, tmp_path, token), "--output", tmp_path / "fleet.yml", "--json")
    assert done.error is None
    assert done.result["unseen"] == []
    assert len(done.result["fleet"]["gpus"]) == 2


def test_a_dry_run_prints_the_file_and_writes_nothing(tmp_path: Path) -> None:
    with RunningLab(tmp_path / "lab") as lab:
        done = run_init(*as_root(lab, tmp_path), "--output", tmp_path / "new" / "fleet.yml", "--dry-run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "copy.yml").write_text(done.stdout)
    assert list(read_back(tmp_path / "copy.yml").hypervisors) == ["pve1"]


def refused(kind: type[ProvisionerError], *arguments: object) -> ProvisionerError:
    """Run `init`, expect a refusal in our words."""
    done = run_init(*arguments)
    assert isinstance(done.error, kind), done
    assert done.error.summary.startswith("cannot ")
    assert done.error.next_step
    return done.error


def test_a_file_that_is_there_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    output.write_text("mine")
    with RunningLab(tmp_path / "lab") as lab:
        lab.forget_requests()
        refused(InputError, *as_root(lab, tmp_path), "--output", output)
        assert lab.requests() == []
    assert output.read_text() == "mine"


def test_an_unknown_certificate_is_shown_and_refused_before_any_secret_is_read(tmp_path: Path) -> None:
    with RunningLab(tmp_path / "lab") as lab:
        lab.forget_requests()
        error = refused(
            UntrustedError, lab.url, "--token-id", "a@pve!b1", "--token-secret", "file:/is/not/there", "--dry-run"
        )
        assert lab.fingerprint in error.summary
        assert f"--accept-fingerprint {lab.fingerprint}" in error.next_step
        assert lab.requests() == []


def test_another_fingerprint_than_the_one_given_is_refused_with_both(tmp_path: Path) -> None:
    other = ":".join(["AB"] * 32)
    with RunningLab(tmp_path / "lab") as lab:
        lab.forget_requests()
        arguments = [*as_root(lab, tmp_path)[:-1], other]
        error = refused(UntrustedError, *arguments, "--output", tmp_path / "fleet.yml")
        assert lab.requests() == []
    assert lab.fingerprint in error.summary
    assert other in error.summary
    assert not (tmp_path / "fleet.yml").exists()


def test_an_authority_is_an_alternative_to_a_fingerprint(tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    with RunningLab(tmp_path / "lab") as lab, RunningLab(tmp_path / "other") as other:
        arguments = as_root(lab, tmp_path)[:-2]
        refused(UntrustedError, *arguments, "--ca-file", other.certificate_file, "--output", output)
        refused(InputError, *arguments, "--ca-file", tmp_path / "password", "--output", output)
        assert run_init(*arguments, "--ca-file", lab.certificate_file, "--output", output).error is None
        (spec,) = read_back(output).clusters.values()
        assert spec.tls.ca_file == lab.certificate_file


def test_a_certificate_that_the_trust_store_accepts_is_neither_asked_about_nor_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "fleet.yml"
    with RunningLab(tmp_path / "lab") as lab:
        # The trust store of this moment; the check beforehand and the session must go by the same one.
        for module in ("provisioner.adapters.proxmox.certificate", "requests.adapters"):
            monkeypatch.setattr(f"{module}.DEFAULT_CA_BUNDLE_PATH", str(lab.certificate_file))
        assert run_init(*as_root(lab, tmp_path)[:-2], "--output", output).error is None
        (spec,) = read_back(output).clusters.values()
    assert (spec.tls.fingerprint, spec.tls.ca_file) == (None, None)


@pytest.mark.parametrize("login", ["token", "password"])
def test_a_wrong_secret_is_refused_in_words_for_who_has_no_fleet_file(login: str, tmp_path: Path) -> None:
    wrong = secret_file(tmp_path, "no-such-secret", "wrong")
    with RunningLab(tmp_path / "lab") as lab:
        arguments = as_token(lab, tmp_path) if login == "token" else as_root(lab, tmp_path)
        arguments[4] = wrong
        error = refused(LoginRefusedError, *arguments, "--output", tmp_path / "fleet.yml")
    assert "clusters." not in error.next_step
    assert not (tmp_path / "fleet.yml").exists()


def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    secret = secret_file(tmp_path, "x")
    for url in ("https://127.0.0.1:9", f"https://{'a' * 64}.invalid:8006"):
        began = time.monotonic()
        refused(UnreachableError, url, "--token-id", "a@pve!b1", "--token-secret", secret, "--dry-run")
        assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"data": [{"realm": "pam"}, {"realm": "pbs"}]}, 200),
        ({"data": None}, 200),
        (["hello"], 200),
        ({"data": [{"realm": "pve"}]}, 404),
    ],
)
def test_something_that_is_no_proxmox_ve_gets_no_secret(answer: object, status: int, tmp_path: Path) -> None:
    with something_else(tmp_path / "tls", answer, status) as (url, fingerprint):
        error = refused(
            HypervisorError, url, "--token-id", "a@pve!b1", "--token-secret", "file:/is/not/there",
            "--fingerprint", fingerprint, "--dry-run",
        )  # fmt: skip
    assert "something else" in error.summary


def test_what_speaks_no_tls_is_told_apart(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_address[1]}"
        error = refused(
            HypervisorError, url, "--token-id", "a@pve!b1", "--token-secret", "file:/is/not/there", "--dry-run"
        )
        assert "cannot speak TLS" in error.summary
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


URL = "https://10.10.0.2:8006"
TOKEN = ("--token-id", "a@pve!b1", "--token-secret", "env:X")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give the address"),
        ((URL, "--api", URL, *TOKEN), "give the address"),
        ((URL,), "say who you are"),
        (("http://10.10.0.2:8006", *TOKEN), "https address"),
        (("https://me:pw@10.10.0.2:8006", *TOKEN), "https address"),
        (("https://10.10.0.2:x", *TOKEN), "https address"),
        (("", *TOKEN), "https address"),
        ((URL, "--token-id", "a@pve!b1"), "go together"),
        ((URL, "--token-id", "a@pve", "--token-secret", "env:X"), "USER@REALM!TOKENID"),
        ((URL, "--token-id", "a@pve!b1", "--token-secret", "hunter2"), "env:NAME or file:PATH"),
        ((URL, *TOKEN, "--password", "env:X"), "belong to --user"),
        ((URL, "--user", "root", "--password", "env:X"), "with their realm"),
        ((URL, "--user", "root@pam"), "no terminal"),
        ((URL, *TOKEN, "--fingerprint", "AB:CD"), "64 digits"),
        ((URL, *TOKEN, "--fingerprint", "AB" * 32, "--ca-file", "x"), "either"),
    ],
)
def test_wrong_usage_is_said_and_no_secret_repeated(arguments: tuple[str, ...], words: str) -> None:
    done = run_init(*arguments)
    assert done.code == 2
    assert words in " ".join(done.stderr.split())
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("10.10.0.2", "https://10.10.0.2:8006"),
        ("pve1.lan:443", "https://pve1.lan:443"),
        ("https://pve.example.org", "https://pve.example.org"),
        ("https://10.10.0.2:8006/#v1:0:18:4:::::", "https://10.10.0.2:8006"),
        ("https://[fd00::2]:8006/", "https://[fd00::2]:8006"),
    ],
)
def test_an_address_is_taken_as_people_write_it(typed: str, meant: str) -> None:
    from provisioner.cli.hypervisor.init import normal_url

    assert normal_url(typed) == meant


class AtTerminal:
    """`provisioner init` as a person sees it: on a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self.process_id, self._terminal = pty.fork()
        if self.process_id == 0:
            command = [sys.executable, "-m", "provisioner", "init", *map(str, arguments)]
            os.execv(sys.executable, command)
        self.shown = ""

    def expect(self, words: str) -> None:
        deadline = time.monotonic() + 60
        while words not in self.shown:
            assert time.monotonic() < deadline, self.shown
            try:
                self.shown += os.read(self._terminal, 4096).decode()
            except OSError:  # the other end is gone
                break
        assert words in self.shown, self.shown

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def end(self) -> int:
        while True:
            try:
                chunk = os.read(self._terminal, 4096).decode()
            except OSError:
                break
            if not chunk:
                break
            self.shown += chunk
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.process_id, 0)[1])


def test_a_person_compares_the_fingerprint_then_types_a_password_that_is_not_shown(tmp_path: Path) -> None:
    output = tmp_path / "fleet.yml"
    with RunningLab(tmp_path / "lab") as lab:
        password = lab.credentials["root@pam"]
        screen = AtTerminal(lab.url, "--user", "root@pam", "--output", output)
        screen.expect("Is it the same?")
        assert lab.fingerprint in screen.shown
        assert [request for request in lab.requests() if request["path"] != "/access/domains"] == []
        screen.type("y\n")
        screen.expect("Password of root@pam")
        screen.type(f"{password}\n")
        assert screen.end() == 0
    assert password not in screen.shown
    (spec,) = read_back(output).clusters.values()
    assert spec.tls.fingerprint == lab.fingerprint


def test_a_person_who_says_no_sends_nothing(tmp_path: Path) -> None:
    with RunningLab(tmp_path / "lab") as lab:
        lab.forget_requests()
        screen = AtTerminal(lab.url, "--user", "root@pam", "--output", tmp_path / "fleet.yml")
        screen.expect("Is it the same?")
        screen.type("n\n")
        assert screen.end() == 1
        assert lab.requests() == []
    assert "you did not accept" in screen.shown


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    output = tmp_path / "new" / "fleet.yml"
    # Every answer takes its time, so the signal falls into the middle of the look.
    with RunningLab(tmp_path / "lab", faults=[{"path": "/", "delay": 0.5}]) as lab:
        lab.forget_requests()
        process = subprocess.Popen(
            [sys.executable, "-m", "provisioner", "init", *as_token(lab, tmp_path), "--output", str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 60
        while not any(request["path"] == "/version" for request in lab.requests()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in shown
    assert not output.parent.exists()
