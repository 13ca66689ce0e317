"""Clients that nobody here wrote live on the embedded Proxmox as on a real one, certificates verified.

The Ansible collection community.proxmox, through ansible-playbook, and proxmoxer with its own helpers. What they
cannot do here that they can do on Proxmox is a fault of the lab.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from proxmoxer import ProxmoxAPI, ResourceException
from proxmoxer.tools import Files, Tasks

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.lab.material import pretended_material
from tests.peers import ansible_playbook, collection_login, require_collection

PLAY = Path(__file__).with_name("second-client.yml")
FLAVOURS = ("8.4", "9.1")
PLAY_SECONDS = 300


@pytest.fixture(params=FLAVOURS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningLab]:
    with RunningLab(tmp_path / "lab", pve=request.param) as running:
        yield running


def iso(folder: Path) -> Path:
    """An ISO as far as anybody looks into it here."""
    path = folder / "second.iso"
    path.write_bytes(b"\0" * 32768 + b"\x01CD001")
    return path


def as_the_collection(lab: RunningLab, folder: Path) -> dict[str, str]:
    """Who the collection logs in as, and whom it trusts."""
    folder.mkdir(parents=True, exist_ok=True)
    return collection_login(folder, lab.host, lab.port, lab.token(), lab.certificate_file)


@dataclass(frozen=True)
class Played:
    """What became of a lab on which the play was played."""

    exit_code: int
    words: str
    requests: list[dict[str, Any]]
    vms: list[object]
    disks: list[object]
    tasks: Counter[str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """The play on every flavour at the same time: most of it is the collection's fixed waiting."""
    require_collection()
    folder = tmp_path_factory.mktemp("plays")
    image = pretended_material(folder / "images").image
    with served_folder(image.path.parent) as images, ExitStack() as stack:
        variables = {"image_url": f"{images}/image.qcow2", "image_sha256": image.sha256, "iso": str(iso(folder))}
        command = [ansible_playbook(), "-i", "localhost,", "-e", json.dumps(variables), str(PLAY)]
        labs = {pve: stack.enter_context(RunningLab(folder / pve, pve=pve)) for pve in FLAVOURS}
        runs = {
            pve: stack.enter_context(
                subprocess.Popen(
                    command,
                    env=as_the_collection(lab, folder / pve),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            for pve, lab in labs.items()
        }
        return {pve: _end(runs[pve], lab) for pve, lab in labs.items()}


def _end(run: subprocess.Popen[str], lab: RunningLab) -> Played:
    words, _ = run.communicate(timeout=PLAY_SECONDS)
    requests = lab.requests()
    return Played(
        run.returncode,
        words,
        requests,
        lab.call("GET", "/cluster/resources", type="vm"),
        lab.call("GET", "/nodes/pve1/storage/local-lvm/content"),
        Counter(task["type"] for task in lab.call("GET", "/nodes/pve1/tasks", limit="100")),
    )


@pytest.mark.parametrize("pve", FLAVOURS)
def test_the_ansible_collection_creates_starts_lists_stops_and_deletes(played: dict[str, Played], pve: str) -> None:
    done = played[pve]
    assert done.exit_code == 0, done.words
    # The play would pass on a lab that says yes to everything: here is what is true.
    assert {request["user"] for request in done.requests} == {"provisioner@pve!fleet"}
    assert [request for request in done.requests if request["status"] != 200] == []
    assert done.vms == []
    assert done.disks == []
    assert done.tasks == {
        "imgcopy": 1, "download": 1, "qmcreate": 2, "resize": 1, "qmstart": 2, "qmshutdown": 1, "qmdestroy": 2
    }  # fmt: skip


def test_the_collection_refuses_a_certificate_that_it_was_not_told_to_trust(lab: RunningLab, tmp_path: Path) -> None:
    require_collection()
    environment = as_the_collection(lab, tmp_path) | {"PROXMOX_VALIDATE_CERTS": "true"}
    del environment["PROXMOX_CA_PATH"]
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "-c", "local"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}", "-m", "community.proxmox.proxmox_vm_info"]
    asked = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert asked.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in asked.stdout + asked.stderr
    assert lab.requests() == []


def connected(lab: RunningLab) -> ProxmoxAPI:
    """Proxmoxer as its documentation tells one to use it."""
    return ProxmoxAPI(
        lab.host,
        port=lab.port,
        user="provisioner@pve",
        token_name="fleet",
        token_value=lab.token(),
        verify_ssl=str(lab.certificate_file),
    )


def test_proxmoxers_helpers_upload_wait_and_read_tasks(lab: RunningLab, tmp_path: Path) -> None:
    proxmox = connected(lab)
    node = proxmox.nodes("pve1")
    path = iso(tmp_path)
    uploaded = Files(proxmox, "pve1", "local").upload_local_file_to_storage(str(path))
    assert (uploaded["status"], uploaded["exitstatus"]) == ("stopped", "OK")
    stored = next(tmp_path.rglob("iso/second.iso"))
    assert stored.read_bytes() == path.read_bytes()
    upid = node.qemu.post(vmid=7001, name="second", scsi0="local-lvm:4", net0="virtio,bridge=vmbr0", memory=512)
    ended = Tasks.blocking_status(proxmox, upid, polling_interval=0.05)
    parts = Tasks.decode_upid(upid)
    assert (parts["node"], parts["type"], parts["id"], parts["user"]) == ("pve1", "qmcreate", "7001", "provisioner@pve")
    # What is encoded in the name is what the API says of the task.
    assert {key: ended[key] for key in ("pid", "pstart", "starttime")} == {
        key: parts[key] for key in ("pid", "pstart", "starttime")
    }
    assert Tasks.decode_log(node.tasks(upid).log.get()).splitlines()[-1] == "TASK OK"
    for act in (node.qemu(7001).status.start.post, node.qemu(7001).status.stop.post, node.qemu(7001).delete):
        assert Tasks.blocking_status(proxmox, act(), polling_interval=0.05)["exitstatus"] == "OK"
    assert proxmox.cluster.resources.get(type="vm") == []


def test_a_file_that_proxmoxer_uploads_with_a_wrong_sum_is_refused(lab: RunningLab, tmp_path: Path) -> None:
    proxmox = connected(lab)
    with iso(tmp_path).open("rb") as file:
        upid = (
            proxmox.nodes("pve1")
            .storage("local")
            .upload.post(
                **{"content": "iso", "checksum-algorithm": "sha256", "checksum": hashlib.sha256(b"").hexdigest()},
                filename=file,
            )
        )
    assert "checksum mismatch" in Tasks.blocking_status(proxmox, upid, polling_interval=0.05)["exitstatus"]
    assert proxmox.nodes("pve1").storage("local").content.get() == []


def test_proxmoxer_fetches_a_file_by_its_address_and_finds_its_sum(lab: RunningLab, tmp_path: Path) -> None:
    path = iso(tmp_path)
    (tmp_path / "SHA512SUMS").write_text(f"{hashlib.sha512(path.read_bytes()).hexdigest()}  {path.name}\n")
    proxmox = connected(lab)
    with served_folder(tmp_path) as url:
        fetched = Files(proxmox, "pve1", "local").download_file_to_storage(f"{url}/{path.name}")
    assert fetched["exitstatus"] == "OK"
    (stored,) = proxmox.nodes("pve1").storage("local").content.get(content="iso")
    assert (stored["volid"], stored["size"]) == ("local:iso/second.iso", path.stat().st_size)


def test_proxmoxer_is_told_the_reason_of_a_refusal(lab: RunningLab) -> None:
    proxmox = connected(lab)
    with pytest.raises(ResourceException) as caught:
        proxmox.nodes("pve1").qemu(7001).config.get()
    assert caught.value.status_code == 500
    assert caught.value.content == "Configuration file 'nodes/pve1/qemu-server/7001.conf' does not exist"
    with pytest.raises(ResourceException) as caught:
        proxmox.nodes("pve1").qemu.post(vmid=7001, cores="many", colour="red")
    assert caught.value.status_code == 400
    assert set(caught.value.errors) == {"cores", "colour"}
