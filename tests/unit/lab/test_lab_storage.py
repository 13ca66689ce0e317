"""Storages: downloads, names, and what a full one says."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioner.lab.harness import RunningLab
from provisioner.lab.refusals import Refusal
from provisioner.lab.volume_names import checked_upload_name, parse_volume_name
from tests.unit.lab.lab_vms import GPU_VM, PROVISIONER

Done = Callable[..., str]
DOWNLOAD = "/nodes/pve1/storage/local/download-url"
IMAGE = b"QFI\xfb" + bytes(20) + (3 << 30).to_bytes(8, "big") + bytes(1000)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "noble.img").write_bytes(IMAGE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def wish(web: str, **more: str) -> dict[str, str]:
    return {"url": f"{web}/noble.img", "content": "import", "filename": "noble.qcow2", **more}


def checksum(text: str | None = None) -> dict[str, str]:
    return {"checksum": text or hashlib.sha256(IMAGE).hexdigest(), "checksum-algorithm": "sha256"}


def test_a_download_is_verified_and_a_right_file_is_not_fetched_twice(lab: RunningLab, done: Done, web: str) -> None:
    assert done("POST", DOWNLOAD, who=PROVISIONER, **wish(web), **checksum()) == "OK"
    upid = lab.call("POST", DOWNLOAD, **wish(web), **checksum())
    assert "OK, got correct file already, no need to download" in lab.finish(upid).log
    assert done("POST", DOWNLOAD, **wish(web)) == "refusing to override existing file 'noble.qcow2'"
    assert "mismatching checksum" in done("POST", DOWNLOAD, **wish(web), **checksum("0" * 64))
    (entry,) = lab.call("GET", "/nodes/pve1/storage/local/content", content="import")
    assert (entry["volid"], entry["size"]) == ("local:import/noble.qcow2", len(IMAGE))


def test_a_wrong_checksum_leaves_no_file(lab: RunningLab, done: Done, web: str) -> None:
    assert done("POST", DOWNLOAD, **wish(web), **checksum("0" * 64)).startswith("checksum mismatch")
    assert lab.call("GET", "/nodes/pve1/storage/local/content") == []


def test_a_missing_page_fails_the_task(done: Done, web: str) -> None:
    assert "404" in done("POST", DOWNLOAD, **{**wish(web), "url": f"{web}/none"})


def test_a_full_storage_refuses_downloads(tmp_path: Path, web: str) -> None:
    with RunningLab(tmp_path / "small", storage_limits={"local": 100}) as lab:
        ended = lab.finish(lab.call("POST", DOWNLOAD, **wish(web))).exitstatus
        assert "No space left on device" in str(ended)
        assert lab.call("GET", "/nodes/pve1/storage/local/content") == []
        assert lab.call("GET", "/nodes/pve1/storage/local/status")["total"] == 100


def test_a_full_storage_refuses_imports_and_new_disks(tmp_path: Path, web: str) -> None:
    with RunningLab(tmp_path / "small", storage_limits={"local-lvm": 500}) as lab:
        assert lab.finish(lab.call("POST", DOWNLOAD, **wish(web))).exitstatus == "OK"
        source = {"scsi0": "local-lvm:0,import-from=local:import/noble.qcow2"}
        ended = lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid="5001", **source)).exitstatus
        assert "No space left on device" in str(ended)
        assert lab.call("GET", "/nodes/pve1/qemu") == []
    with RunningLab(tmp_path / "none", storage_limits={"local-lvm": 0}) as lab:
        ended = lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid="5001", **GPU_VM)).exitstatus
        assert "free space in thin pool pve/data reached threshold" in str(ended)


@pytest.mark.parametrize(
    ("kind", "name", "content", "vmid"),
    [
        ("dir", "iso/seed.iso", "iso", None),
        ("dir", "import/noble.qcow2", "import", None),
        ("dir", "5001/vm-5001-disk-0.qcow2", "images", 5001),
        ("lvmthin", "vm-5001-disk-0", "images", 5001),
        ("zfspool", "base-9000-disk-1/vm-7901-disk-0", "images", 7901),
    ],
)
def test_volume_names(kind: str, name: str, content: str, vmid: int | None) -> None:
    found = parse_volume_name("store", kind, name)
    assert (found.content, found.vmid) == (content, vmid)


@pytest.mark.parametrize(("kind", "word"), [("zfspool", "zfs"), ("lvmthin", "lvm"), ("dir", "directory")])
def test_names_that_are_none(kind: str, word: str) -> None:
    with pytest.raises(Refusal, match=f"unable to parse {word} volume name '32G'"):
        parse_volume_name("store", kind, "32G")


@pytest.mark.parametrize("name", ["noble.img", "noble", "no/ble.iso"])
def test_an_import_needs_the_ending_of_an_image(name: str) -> None:
    with pytest.raises(Refusal):
        checked_upload_name("import", name)


def test_only_the_broad_right_deletes_files(lab: RunningLab, done: Done, web: str) -> None:
    done("POST", DOWNLOAD, **wish(web))
    path = "/nodes/pve1/storage/local/content/local:import/noble.qcow2"
    lab.call("POST", "/access/users", userid="eve@pve")
    lab.call("PUT", "/access/acl", path="/storage/local", roles="PVEDatastoreUser", users="eve@pve")
    with pytest.raises(Refusal, match=r"/storage/local, Datastore.Allocate\)"):
        lab.call("DELETE", path, who="eve@pve")
    assert done("DELETE", path) == "OK"


def test_the_content_of_a_storage_is_replaced_as_a_whole(lab: RunningLab) -> None:
    assert lab.call("PUT", "/storage/local", content="iso,import") == {"storage": "local", "type": "dir"}
    assert lab.call("GET", "/storage/local")["content"] == "iso,import"
    # What a type cannot hold is dropped, and nobody is told.
    lab.call("PUT", "/storage/local-lvm", content="images,import", bwlimit="clone=100")
    definition = lab.call("GET", "/storage/local-lvm")
    assert (definition["content"], definition["bwlimit"]) == ("images", "clone=100")


def test_a_storage_is_switched_off_and_on_and_bound_to_nodes(lab: RunningLab) -> None:
    lab.call("PUT", "/storage/local", disable="1", nodes="pve1")
    definition = lab.call("GET", "/storage/local")
    assert (definition["disable"], definition["nodes"]) == (1, "pve1")
    lab.call("PUT", "/storage/local", delete="disable,nodes")
    assert {"disable", "nodes"}.isdisjoint(lab.call("GET", "/storage/local"))


@pytest.mark.parametrize(
    ("storage", "change", "message"),
    [
        ("none", {"content": "iso"}, "update storage failed: storage 'none' does not exist"),
        ("local", {"pool": "x"}, "update storage failed: unexpected property 'pool'"),
        ("local", {"content": "iso,none"}, "update storage failed: unable to combine 'none' with other content types"),
        ("local-lvm", {"content": "iso"}, "update storage failed: storage does not support content type 'none'"),
        ("local", {"delete": "path"}, "update storage failed: unable to delete required option 'path'"),
        ("local", {"delete": "pool"}, "update storage failed: no such option 'pool'"),
        ("local", {"delete": "content", "content": "iso"}, "update storage failed: cannot set and delete property"),
        ("local", {"content": "films"}, "Parameter verification failed."),
        ("local", {"prune-backups": "keep-all=1,keep-last=3"}, "Parameter verification failed."),
    ],
)
def test_changes_to_a_storage_that_make_no_sense(
    lab: RunningLab, storage: str, change: dict[str, str], message: str
) -> None:
    before = lab.call("GET", "/storage")
    with pytest.raises(Refusal) as refusal:
        lab.call("PUT", f"/storage/{storage}", **change)
    assert refusal.value.message.startswith(message)
    assert lab.call("GET", "/storage") == before


def test_only_the_broad_right_on_all_storages_changes_one(lab: RunningLab) -> None:
    with pytest.raises(Refusal, match=r"/storage, Datastore.Allocate\)"):
        lab.call("PUT", "/storage/local", who=PROVISIONER, content="iso")
