"""kill -9 after every single API request of `up` and of `destroy`: the next run ends as if nothing had happened.

The lab kills the client itself, when a request has been carried out and before its answer leaves. Where tasks take
their time, only requests that change something are followed by death: they leave a task behind. Clients are forked from
a process that has everything imported, so that a hundred of them take a minute.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from provisioner.domain.actions import DownloadImage
from provisioner.domain.names import HypervisorName
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.forks import FORKS
from tests.lab.cloned import TEMPLATE, four, native, parents, vms
from tests.lab.support import NODE, Site, site_for

VMID = 5001
CLIENT_SECONDS = 60


def client(go: Connection, arguments: list[str], environment: dict[str, str], words: Path) -> None:
    """Be the command line, in a process of its own, once somebody is ready to kill it."""
    from provisioner.cli import app

    os.environ.update(environment)
    go.recv()
    with (
        words.open("w") as file,
        redirect_stdout(file),
        redirect_stderr(file),
        patch("sys.argv", ["provisioner", *arguments]),
    ):
        app.main()


@dataclass(frozen=True)
class Ended:
    """A client that is over: its exit code (negative for a signal), and what it printed."""

    code: int
    words: str

    @property
    def result(self) -> dict[str, Any]:
        """What the command printed last."""
        assert self.code == 0, self.words
        found: dict[str, Any] = json.loads(self.words.splitlines()[-1])["result"]
        return found


class Victims:
    """Runs clients against a lab and has them killed after a number of requests of the methods that count."""

    def __init__(self, site: Site, methods: frozenset[str]) -> None:
        self.site = site
        self._pid: int | None = None
        self._left: int | None = None
        self._last = ""
        lab = site.lab.lab
        note = lab.journal.note

        def note_and_kill(method: str, path: str, *rest: Any) -> None:
            note(method, path, *rest)
            if self._left is None or self._pid is None or method not in methods:
                return
            self._left -= 1
            if self._left == 0:
                self._last = f"{method} {path}"
                os.kill(self._pid, signal.SIGKILL)

        lab.journal.note = note_and_kill  # type: ignore[method-assign]

    def run(self, *arguments: str, kill_after: int | None = None, aside: str = "") -> Ended:
        """Run a client to its end, or until so many requests have been carried out; `aside` tells several apart."""
        words = self.site.folder / f"words{aside}"
        words.write_text("")
        here, there = FORKS.Pipe()
        process = FORKS.Process(target=client, args=(there, list(arguments), self.site.environment, words))
        process.start()
        self._pid, self._left = process.pid, kill_after
        here.send("go")
        process.join(CLIENT_SECONDS)
        assert process.exitcode is not None, f"{arguments} does not end: {words.read_text()}"
        self._left = None
        return Ended(process.exitcode, words.read_text())

    def killed_after_each(self, *arguments: str) -> Iterator[str]:
        """Kill the command after one request, after two, and so on; yield after which, until it survives."""
        for requests in range(1, 1000):
            ended = self.run(*arguments, kill_after=requests)
            if ended.code != -signal.SIGKILL:
                assert ended.code == 0, ended.words
                return
            yield f"request {requests}, {self._last}"

    def up(self) -> Ended:
        return self.run("up", NODE, "--json")

    def destroy(self) -> Ended:
        return self.run("destroy", NODE, "--confirm", NODE, "--json")

    def settle(self) -> None:
        """Let tasks end that a dead client began: Proxmox does not stop them either."""
        for task in self.site.lab.call("GET", "/nodes/pve1/tasks", source="active"):
            self.site.lab.finish(task["upid"])

    def volumes(self, storage: str) -> list[str]:
        """What lies on a storage."""
        return sorted(entry["volid"] for entry in self.site.lab.call("GET", f"/nodes/pve1/storage/{storage}/content"))

    def require_exactly_one_node(self, when: str) -> None:
        """One VM of ours that runs, the disks and the seed in its configuration, and nothing else."""
        (vm,) = self.site.lab.call("GET", "/cluster/resources", type="vm")
        assert (vm["vmid"], vm["name"], vm["status"]) == (VMID, NODE, "running"), when
        assert "lock" not in vm, when
        config = self.site.lab.call("GET", f"/nodes/pve1/qemu/{VMID}/config")
        named = sorted(value.split(",")[0] for value in config.values() if str(value).startswith("local"))
        isos = [volid for volid in self.volumes("local") if ":iso/" in volid]
        assert self.volumes("local-lvm") + isos == sorted(named, key=lambda volid: ":iso/" in volid), when
        assert not any(key.startswith("unused") for key in config), when

    def require_nothing(self, when: str) -> None:
        """No VM, no disk, no seed; the image stays for the next node."""
        assert self.site.lab.call("GET", "/cluster/resources", type="vm") == [], when
        assert self.volumes("local-lvm") == [], when
        assert [volid for volid in self.volumes("local") if ":import/" not in volid] == [], when
        uploads = self.site.lab.state_dir / "incoming"
        assert not uploads.exists() or list(uploads.iterdir()) == [], when


CHANGING = frozenset({"POST", "PUT", "DELETE"})


@pytest.fixture(
    params=[(0.0, CHANGING | {"GET"}), pytest.param((0.15, CHANGING), marks=pytest.mark.long)],
    ids=["tasks are over at once", "tasks outlive the client"],
)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Victims]:
    task_seconds, methods = request.param
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", task_seconds=task_seconds) as lab:
        site = site_for(lab, tmp_path, images)
        # Guests of other tests that run on this machine at the same time keep their addresses.
        site.fleet_file.write_text(
            site.fleet_file.read_text().replace("10.10.91.", "10.10.96.").replace("127.10.91.", "127.10.96.")
        )
        yield Victims(site, methods)


def test_an_up_killed_after_any_request_is_continued_by_the_next(scene: Victims) -> None:
    killed = 0
    for when in scene.killed_after_each("up", NODE, "--json"):
        killed += 1
        assert scene.up().result["reply"], when
        scene.settle()
        scene.require_exactly_one_node(when)
        # What is there is looked at above; that a further run sees it so too need not be asked each time.
        if killed % 5 == 1:
            assert scene.up().result["changed"] == [], when
        assert scene.destroy().code == 0
        scene.require_nothing(when)
    # image, seed, create, grow, start, guest, seal, configure, prove: fewer requests than steps cannot be.
    assert killed > 10


def test_a_destroy_killed_after_any_request_is_finished_by_the_next(scene: Victims) -> None:
    assert scene.up().code == 0
    killed = 0
    for when in scene.killed_after_each("destroy", NODE, "--confirm", NODE, "--json"):
        killed += 1
        assert scene.destroy().code == 0, when
        scene.settle()
        scene.require_nothing(when)
        assert scene.up().code == 0, when
    # stop, destroy, remove seed
    assert killed >= 3


def test_a_node_whose_destroy_was_killed_can_be_brought_up_instead(scene: Victims) -> None:
    assert scene.up().code == 0
    for when in scene.killed_after_each("destroy", NODE, "--confirm", NODE, "--json"):
        ended = scene.up()
        assert ended.code == 0, f"{when}: {ended.words}"
        scene.settle()
        scene.require_exactly_one_node(when)


@pytest.mark.parametrize("drive", ["seed", pytest.param("proxmox", marks=pytest.mark.long)])
def test_an_up_by_clone_killed_after_any_change_is_continued_by_the_next(tmp_path: Path, drive: str) -> None:
    killed = []
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", task_seconds=0.15) as lab:
        site = site_for(lab, tmp_path, images)
        fleet = four(site) if drive == "seed" else native(four(site), site)
        # The image outlives a node, so every round must find it there for the kills to fall on all the rest.
        image = fleet.plan("node-1").steps[0].action
        assert isinstance(image, DownloadImage)
        api = next(iter(fleet._world.clusters.values()))
        api.download_image(HypervisorName("pve1"), image.storage, image.image)
        victims = Victims(site, CHANGING)
        for when in victims.killed_after_each("up", "node-1", "--json"):
            killed.append(when)
            ended = victims.run("up", "node-1", "--json")
            assert ended.code == 0, f"{when}: {ended.words}"
            victims.settle()
            seen = vms(site)
            assert sorted(seen) == [VMID, TEMPLATE], when
            assert (seen[TEMPLATE]["template"], seen[VMID]["tags"]) == (1, "provisioner"), when
            assert "base-9000-disk" in str(parents(site)[VMID]), when
            config = lab.call("GET", f"/nodes/pve1/qemu/{VMID}/config")
            assert ("sshkeys" in config, "cloudinit" in config["ide2"]) == (drive == "proxmox",) * 2, when
            assert not any(key.startswith("unused") for key in config), when
            if len(killed) % 5 == 1:
                assert victims.run("up", "node-1", "--json").result["changed"] == [], when
            assert victims.run("destroy", "node-1", "--confirm", "node-1", "--json").code == 0, when
            lab.finish(lab.call("DELETE", f"/nodes/pve1/qemu/{TEMPLATE}"))
            assert victims.volumes("local-lvm") == [], when
    steps = "\n".join(killed)
    for request in (r"POST .*/qemu$", r"POST .*/template$", r"POST .*/clone$", r"PUT .*/config$"):
        assert re.search(request, steps, re.MULTILINE), steps
