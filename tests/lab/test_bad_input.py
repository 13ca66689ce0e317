"""What goes wrong on a first evening: a clear error with the next step, and `up` succeeds once it is mended."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.errors import (
    EngineError,
    HypervisorError,
    InputError,
    NotReadyError,
    PermissionMissingError,
    ProvisionerError,
    RefusedError,
    UntrustedError,
)
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.support import BLOCK, NODE, Site, site_for

Change = Callable[[str], str]


def replacing(old: str, new: str) -> Change:
    def change(text: str) -> str:
        assert old in text, f"{old} is not in the fleet file"
        return text.replace(old, new)

    return change


def fails(site: Site, kind: type[ProvisionerError], change: Change = lambda text: text) -> ProvisionerError:
    """Run `up` on a changed fleet file, expect a failure, put the file back."""
    before = site.fleet_file.read_text()
    with pytest.raises(kind) as caught:
        site.fleet(change).up(NODE)
    site.fleet_file.write_text(before)
    assert caught.value.summary.startswith("cannot ")
    assert caught.value.next_step
    return caught.value


def succeeds(site: Site) -> None:
    assert site.fleet().up(NODE).reply


def test_a_missing_token(site: Site) -> None:
    secret = site.fleet_file.with_suffix(".secret")
    kept = secret.read_text()
    secret.unlink()
    error = fails(site, InputError)
    assert "cannot read the secret file:" in error.summary
    secret.write_text(kept)
    secret.chmod(0o600)
    succeeds(site)


def test_a_token_that_others_may_read(site: Site) -> None:
    secret = site.fleet_file.with_suffix(".secret")
    secret.chmod(0o644)
    assert "chmod 600" in fails(site, InputError).next_step
    secret.chmod(0o600)
    succeeds(site)


def test_a_wrong_token(site: Site) -> None:
    secret = site.fleet_file.with_suffix(".secret")
    kept = secret.read_text()
    secret.write_text("00000000-0000-0000-0000-000000000000")
    error = fails(site, HypervisorError)
    assert "does not accept token provisioner@pve!fleet" in error.summary
    assert "00000000" not in str(error)
    secret.write_text(kept)
    succeeds(site)


def test_a_wrong_fingerprint_shows_both(site: Site) -> None:
    wrong = ":".join(["AB"] * 32)
    error = fails(site, UntrustedError, replacing(site.lab.fingerprint, wrong))
    assert wrong in error.summary
    assert site.lab.fingerprint in error.summary
    succeeds(site)


def test_a_proxy_in_the_environment_loosens_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    wrong = ":".join(["AB"] * 32)
    assert isinstance(fails(site, UntrustedError, replacing(site.lab.fingerprint, wrong)), UntrustedError)
    succeeds(site)


def test_a_state_folder_that_cannot_be_written_is_said_so(site: Site) -> None:
    (site.folder / "client").write_text("in the way")
    error = fails(site, InputError)
    assert "PROVISIONER_STATE" in error.next_step
    (site.folder / "client").unlink()
    succeeds(site)


def test_no_fingerprint_for_a_certificate_nobody_signed(site: Site) -> None:
    line = f'    tls: {{fingerprint: "{site.lab.fingerprint}"}}\n'
    error = fails(site, UntrustedError, replacing(line, ""))
    assert "tls.fingerprint" in error.next_step
    succeeds(site)


def test_a_ca_file_is_an_alternative_to_a_fingerprint(site: Site) -> None:
    pinned, trusted = f'fingerprint: "{site.lab.fingerprint}"', f"ca_file: {site.lab.certificate_file}"
    assert site.fleet(replacing(pinned, trusted)).up(NODE).reply


def test_a_server_that_is_not_there(site: Site) -> None:
    error = fails(site, HypervisorError, replacing(site.lab.url, "https://127.0.0.1:1"))
    assert "cannot reach Proxmox" in error.summary
    assert "refused" in error.summary
    assert error.retryable
    succeeds(site)


def test_something_else_answers_there(site: Site, tmp_path: Path) -> None:
    with served_folder(tmp_path) as url:
        error = fails(site, ProvisionerError, replacing(site.lab.url, url.replace("http:", "https:")))
    assert "SSL" in error.summary or "certificate" in error.summary
    succeeds(site)


def test_an_unknown_storage_lists_the_known_ones(site: Site) -> None:
    error = fails(site, RefusedError, replacing("disks: local-lvm", "disks: tank"))
    assert 'no storage "tank" on pve1; there is: local, local-lvm' in error.summary
    succeeds(site)


def test_a_storage_that_cannot_hold_images(site: Site) -> None:
    error = fails(site, RefusedError, replacing("images: local,", "images: local-lvm,"))
    assert "not import" in error.summary
    succeeds(site)


def test_an_unknown_hypervisor_lists_the_known_ones(site: Site) -> None:
    error = fails(site, RefusedError, lambda text: text.replace("pve1", "pve7"))
    assert 'no node "pve7"; it has: pve1' in error.summary
    succeeds(site)


def test_a_missing_mapping(site: Site) -> None:
    error = fails(site, RefusedError, replacing("mapping: rtx3090", "mapping: rtx4090"))
    assert 'no PCI mapping "rtx4090" in sight' in error.summary
    succeeds(site)


def test_a_mapping_that_no_longer_fits_the_hardware(site: Site) -> None:
    entry = "id=10de:2204,iommugroup=99,node=pve1,path=0000:01:00,subsystem-id=10de:3095"
    site.lab.call("PUT", "/cluster/mapping/pci/rtx3090", map=[entry])
    assert "iommugroup" in fails(site, RefusedError).summary
    site.lab.call("PUT", "/cluster/mapping/pci/rtx3090", map=[entry.replace("=99", "=15")])
    succeeds(site)


def test_a_taken_vmid_names_its_owner_and_a_free_one(site: Site) -> None:
    site.lab.call("POST", "/nodes/pve1/qemu", vmid="5001", name="nextcloud")
    error = fails(site, RefusedError)
    assert 'vmid 5001 belongs to VM "nextcloud"' in error.summary
    assert "5002 is free" in error.next_step
    assert site.fleet(replacing("[small], ", "[small], vmid: 5002, ")).up(NODE).reply
    assert site.lab.call("GET", "/nodes/pve1/qemu/5001/config")["name"] == "nextcloud"


def test_an_image_with_another_checksum_is_not_used(site: Site) -> None:
    wrong = hashlib.sha256(b"another").hexdigest()
    error = fails(site, HypervisorError, replacing(site.material.image.sha256, wrong))
    assert "checksum" in error.summary
    assert "sha256 under images" in error.next_step
    succeeds(site)


def test_an_image_that_is_not_there(site: Site) -> None:
    error = fails(site, HypervisorError, replacing("/image.qcow2", "/nothing.qcow2"))
    assert "404" in error.summary
    assert "fetch the image's URL" in error.next_step
    succeeds(site)


def test_a_full_image_storage(tmp_path: Path) -> None:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", storage_limits={"local": 100}) as lab:
        site = site_for(lab, tmp_path, images)
        error = fails(site, HypervisorError)
        assert "No space left" in error.summary
        assert "free space on that storage" in error.next_step
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", storage_limits={"local": 10**9}) as lab:
        succeeds(site_for(lab, tmp_path, images))


def test_a_missing_privilege_is_named_with_its_path(site: Site) -> None:
    site.lab.call(
        "PUT",
        "/access/acl",
        path="/storage/local-lvm",
        roles="ProvisionerDisks",
        tokens="provisioner@pve!fleet",
        delete="1",
    )
    error = fails(site, ProvisionerError)
    assert "local-lvm" in error.summary
    site.lab.call(
        "PUT", "/access/acl", path="/storage/local-lvm", roles="ProvisionerDisks", tokens="provisioner@pve!fleet"
    )
    succeeds(site)


def test_a_missing_power_privilege_is_named_and_the_next_run_continues(site: Site) -> None:
    privileges = str(site.lab.call("GET", "/access/roles/ProvisionerVM"))
    assert "VM.PowerMgmt" in privileges
    rights = [name for name, on in site.lab.call("GET", "/access/roles/ProvisionerVM").items() if on]
    without = ",".join(right for right in rights if right != "VM.PowerMgmt")
    site.lab.call("PUT", "/access/roles/ProvisionerVM", privs=without)
    error = fails(site, PermissionMissingError)
    assert "VM.PowerMgmt" in error.summary
    site.lab.call("PUT", "/access/roles/ProvisionerVM", privs=",".join(rights))
    succeeds(site)


FAULTS = [
    ({"task": "qmcreate", "fails": "unable to create image: got lock timeout", "times": 1}, HypervisorError, "lock"),
    ({"task": "qmstart", "fails": "got timeout", "times": 1}, HypervisorError, "got timeout"),
    ({"task": "resize", "fails": "No space left on device", "times": 1}, HypervisorError, "No space left"),
    ({"task": "imgcopy", "fails": "No space left on device", "times": 1}, HypervisorError, "No space left"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "kind", "words"), FAULTS, ids=[json.dumps(row[0]) for row in FAULTS])
def test_proxmox_failing_once_is_named_and_the_next_run_continues(
    tmp_path: Path, fault: dict[str, object], kind: type[ProvisionerError], words: str
) -> None:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=[fault]) as lab:
        site = site_for(lab, tmp_path, images)
        assert words in fails(site, kind).summary
        succeeds(site)
        vms = site.lab.call("GET", "/cluster/resources", type="vm")
        assert [vm["vmid"] for vm in vms] == [5001]


SILENCES = [
    {"path": "/cluster/resources", "status": 595, "reason": "No route to host", "times": 1},
    {"method": "POST", "path": "/qemu$", "drop": "before", "times": 1},
    {"method": "POST", "path": "/qemu$", "drop": "after", "times": 1},
    {"method": "POST", "path": "/status/start", "drop": "after", "times": 1},
    {"path": "/tasks/", "status": 596, "reason": "Connection timed out", "times": 1},
]


@pytest.mark.parametrize("fault", SILENCES, ids=json.dumps)
def test_an_answer_that_gets_lost_once_is_borne_and_nothing_is_done_twice(
    tmp_path: Path, fault: dict[str, object]
) -> None:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=[fault]) as lab:
        succeeds(site_for(lab, tmp_path, images))
        started = [task["type"] for task in lab.call("GET", "/nodes/pve1/tasks", source="all")]
        assert started.count("qmcreate") == started.count("qmstart") == 1


def test_warnings_are_success(tmp_path: Path) -> None:
    faults = [{"task": "qmstart", "warns": True}]
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=faults) as lab:
        succeeds(site_for(lab, tmp_path, images))


def test_a_guest_that_never_boots(tmp_path: Path) -> None:
    faults = [{"guest": "never_boots", "vmid": 5001}]
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=faults) as lab:
        site = site_for(lab, tmp_path, images)
        error = fails(site, NotReadyError, replacing("boot_within: 10m", "boot_within: 1s"))
        assert "cannot log in to the guest within 1 s" in error.summary
        assert "Console" in error.next_step


def test_an_engine_that_never_answers(tmp_path: Path) -> None:
    faults = [{"guest": "engine_never_answers", "vmid": 5001}]
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=faults) as lab:
        site = site_for(lab, tmp_path, images)
        error = fails(site, EngineError, replacing("engine_within: 5m", "engine_within: 1s"))
        assert "within 1 s" in error.summary
        assert "journalctl -u llm-small" in error.next_step


def test_a_guest_that_ignores_its_shutdown_is_only_cut_off_by_force(tmp_path: Path) -> None:
    faults = [{"guest": "ignores_powerdown", "vmid": 5001}]
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=faults) as lab:
        site = site_for(lab, tmp_path, images)
        fleet = site.fleet(replacing("min_uptime: 2m", "min_uptime: 2m\n  shutdown_within: 1s"))
        fleet.up(NODE)
        with pytest.raises(HypervisorError) as caught:
            fleet.sleep(NODE)
        assert "got timeout" in caught.value.summary
        assert "--force" in caught.value.next_step
        assert fleet.sleep(NODE, force=True).was_running


def provisioner(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provisioner", *arguments],
        env=site.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class TestCommandLine:
    """Exit codes, streams, no tracebacks."""

    def test_up_twice_and_status(self, site: Site) -> None:
        first, second = provisioner(site, "up"), provisioner(site, "up", NODE)
        assert first.returncode == second.returncode == 0, first.stderr
        assert "nothing had to change" in second.stdout
        status = json.loads(provisioner(site, "status", "--json").stdout)
        assert status["nodes"][0]["state"] == "serving"
        assert "serving" in provisioner(site, "status").stdout

    def test_plan_says_when_there_is_something_to_do(self, site: Site) -> None:
        assert provisioner(site, "plan").returncode == 3
        provisioner(site, "up")
        done = provisioner(site, "plan", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["refused"] is None

    def test_json_is_one_object_a_line_and_ends_with_the_result(self, site: Site) -> None:
        lines = [json.loads(line) for line in provisioner(site, "up", "--json").stdout.splitlines()]
        assert all("event" in line for line in lines[:-1])
        assert lines[-1]["result"]["endpoint"]["model"] == "tiny.gguf"
        for command in (("sleep", NODE), ("wake", NODE), ("wake", "--model", "tiny.gguf"), ("idle",)):
            done = provisioner(site, *command, "--json")
            assert done.returncode == 0, done.stderr
            assert "result" in json.loads(done.stdout.splitlines()[-1])

    def test_ssh_tells_programs_how_to_log_in(self, site: Site) -> None:
        provisioner(site, "up")
        facts = json.loads(provisioner(site, "ssh", NODE, "--json").stdout)["result"]
        assert facts["command"][0] == "ssh"
        assert "StrictHostKeyChecking=yes" in facts["command"]
        assert Path(facts["known_hosts"]).read_text().startswith(f"[127.{BLOCK}.1]:2222 ssh-ed25519 ")

    def test_destroy_asks_and_removes(self, site: Site) -> None:
        provisioner(site, "up")
        assert provisioner(site, "destroy", NODE).returncode == 2
        assert provisioner(site, "destroy", NODE, "--confirm", "llm-gpu-09").returncode == 2
        done = provisioner(site, "destroy", NODE, "--confirm", NODE, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["result"]["removed"]
        assert provisioner(site, "destroy", NODE, "--confirm", NODE).returncode == 0

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("up", "nobody"), 1),
            (("wake", "nobody"), 1),
            (("wake", "--model", "gpt-17"), 1),
            (("wake",), 2),
            (("wake", NODE), 1),
            (("sleep",), 2),
            (("frobnicate",), 2),
            (("--fleet", "/nonexistent.yml", "status"), 1),
            (("doctor", "pve9"), 1),
            (("ssh", NODE), 1),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
    )
    def test_mistakes_get_a_sentence_not_a_traceback(self, site: Site, arguments: tuple[str, ...], code: int) -> None:
        done = provisioner(site, *arguments)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
        assert done.stdout == ""

    def test_an_error_in_json_has_its_three_parts(self, site: Site) -> None:
        done = provisioner(site, "wake", "--model", "gpt-17", "--json")
        error = json.loads(done.stdout)
        assert error["error"] == "UnknownNameError"
        assert "tiny.gguf" in error["next_step"]

    def test_the_token_never_shows(self, site: Site) -> None:
        secret = site.lab.token()
        for command in (("--debug", "up"), ("status",), ("plan",), ("idle",), ("up", "--json")):
            done = provisioner(site, *command)
            assert secret not in done.stdout + done.stderr

    def test_doctor_shows_what_must_be_mended(self, site: Site) -> None:
        assert provisioner(site, "doctor").returncode == 0
        site.lab.call("DELETE", "/cluster/mapping/pci/rtx3090")
        done = provisioner(site, "doctor")
        assert done.returncode == 3
        assert "no PCI mapping" in done.stdout


def test_an_up_killed_right_after_proxmox_took_the_creation_is_continued(tmp_path: Path) -> None:
    """The next run meets a VM that shows nothing but its lock."""
    slow = [{"task": "qmcreate", "delay": 2.0}]
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=slow) as lab:
        site = site_for(lab, tmp_path, images)
        process = subprocess.Popen(
            [sys.executable, "-m", "provisioner", "up"], env=site.environment, stdout=subprocess.DEVNULL
        )
        with process:
            while not any(request["path"].endswith("/qemu") for request in lab.requests()):
                assert process.poll() is None
            process.kill()
        assert lab.call("GET", "/nodes/pve1/qemu/5001/status/current")["lock"] == "create"
        succeeds(site)
        creations = [r for r in lab.requests() if r["method"] == "POST" and r["path"].endswith("/qemu")]
        assert len(creations) == 1


def test_what_befalls_many_nodes_is_told_of_each_by_name(tmp_path: Path) -> None:
    """Their cluster is away; a program must know which nodes that concerns."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        site = site_for(lab, tmp_path, images, nodes=2)
    for verb in ("plan", "up"):
        told = subprocess.run(
            [sys.executable, "-m", "provisioner", verb, "--json"],
            env=site.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 1
        errors = [json.loads(line) for line in told.stdout.splitlines()]
        assert [(each["node"], each["error"]) for each in errors] == [
            ("llm-gpu-01", "UnreachableError"),
            ("llm-gpu-02", "UnreachableError"),
        ]
        assert told.stderr.count('on: node "llm-gpu-02", cluster lab') == 1
        assert "may have happened" not in told.stderr, "nothing was ever sent"
