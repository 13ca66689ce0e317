"""A lab in a process of its own, with as many nodes as a row needs and tasks that take as long as a seed says."""

from __future__ import annotations

import json
import os
import random
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import yaml
from proxmoxer import ProxmoxAPI

from provisioner.adapters.processes import dying_with_us

IMAGE = "bench.qcow2"
FIRST_VMID = 6001
_STOP_SECONDS = 60
# Beside the addresses that the demonstration and the tests give their guests.
_FIRST_NET = 100


@dataclass(frozen=True)
class Latencies:
    """How long Proxmox works, in seconds: one create and one start per VM, the same for every other task.

    Lognormal around 1 s for a create and 2 s for a start, as a small image on an SSD and a VM without a GPU take;
    sigma 0.35 puts one in twenty at 1.8 times that. Uploads and resizes are short and vary little.
    """

    create: dict[int, float]
    start: dict[int, float]
    upload: float = 0.1
    resize: float = 0.2

    @classmethod
    def drawn(cls, seed: int, nodes: int) -> Latencies:
        """Draw them."""
        chance = random.Random(seed)
        vmids = range(FIRST_VMID, FIRST_VMID + nodes)
        create = {vmid: chance.lognormvariate(0.0, 0.35) for vmid in vmids}
        return cls(create, {vmid: 2 * chance.lognormvariate(0.0, 0.35) for vmid in vmids})

    def rules(self) -> list[dict[str, object]]:
        """Return them as a fault plan for the lab."""
        rules: list[dict[str, object]] = [
            {"task": "imgcopy", "delay": self.upload},
            {"task": "resize", "delay": self.resize},
        ]
        for kind, seconds in (("qmcreate", self.create), ("qmstart", self.start)):
            rules += [{"task": kind, "vmid": vmid, "delay": delay} for vmid, delay in seconds.items()]
        return rules

    def critical_path(self, nodes_at_once: int, copies_at_once: int) -> float:
        """Return how long Proxmox alone needs from nothing to every node running.

        Args:
            nodes_at_once: how many nodes are worked on at the same time, in order.
            copies_at_once: how many of them may be created at the same time, first come, first served.
        """
        waiting, ready = deque(self.create), deque[int]()
        events: list[tuple[float, int, str]] = []
        copies, now = copies_at_once, 0.0

        def admit() -> None:
            if waiting:
                heappush(events, (now + self.upload, waiting.popleft(), "uploaded"))

        for _ in range(nodes_at_once):
            admit()
        while events:
            now, vmid, what = heappop(events)
            if what == "uploaded":
                ready.append(vmid)
            elif what == "created":
                copies += 1
                heappush(events, (now + self.resize + self.start[vmid], vmid, "running"))
            else:
                admit()
            while copies and ready:
                copies -= 1
                vmid = ready.popleft()
                heappush(events, (now + self.create[vmid], vmid, "created"))
        return now


@dataclass(frozen=True)
class LabProcess:
    """A running lab."""

    folder: Path
    url: str
    pid: int

    @property
    def certificate(self) -> Path:
        """The certificate to trust."""
        return self.folder / "state" / "lab-cert.pem"

    @property
    def credentials(self) -> dict[str, str]:
        """Identity to password or token secret."""
        return dict(json.loads((self.folder / "tokens.json").read_text()))

    @property
    def host(self) -> str:
        """The address the lab listens on."""
        return self.url.removeprefix("https://").partition(":")[0]

    @property
    def port(self) -> int:
        """The port the lab listens on."""
        return int(self.url.rpartition(":")[2])

    def as_root(self) -> Any:
        """Return a client for root's own eyes."""
        return ProxmoxAPI(
            self.host,
            port=self.port,
            user="root@pam",
            password=self.credentials["root@pam"],
            verify_ssl=str(self.certificate),
            timeout=60,
        )


@dataclass(frozen=True)
class LabSite(LabProcess):
    """A running lab with our token, a fleet file for it, and ways to look at it."""

    names: tuple[str, ...]

    @property
    def fleet_file(self) -> Path:
        """Where the fleet file is."""
        return self.folder / "fleet.yml"

    @property
    def secret(self) -> str:
        """The secret of the token provisioner@pve!fleet."""
        return self.credentials["provisioner@pve!fleet"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment for our command line."""
        return {
            **os.environ,
            "PROVISIONER_FLEET": str(self.fleet_file),
            "PROVISIONER_STATE": str(self.folder / "client"),
        }

    @property
    def proxmox(self) -> Any:
        """A client for looking from outside."""
        return ProxmoxAPI(
            self.host,
            port=self.port,
            user="provisioner@pve",
            token_name="fleet",
            token_value=self.secret,
            verify_ssl=str(self.certificate),
            timeout=60,
        )

    def requests(self) -> list[dict[str, Any]]:
        """Return every API request since the lab was made ready."""
        return list(self._lab("GET"))

    def forget_requests(self) -> None:
        """Start counting anew."""
        self._lab("DELETE")

    def require_running(self, vmids: Sequence[int]) -> None:
        """Raise when a VM does not run: a client that left one out must not be called quick."""
        seen = {int(vm["vmid"]): vm["status"] for vm in self.proxmox.cluster.resources.get(type="vm")}
        missing = [vmid for vmid in vmids if seen.get(vmid) != "running"]
        if missing or len(seen) != len(vmids):
            raise AssertionError(f"not running: {missing}; there is {sorted(seen)}")

    def _lab(self, method: str) -> Any:
        context = ssl.create_default_context(cafile=str(self.certificate))
        request = urllib.request.Request(f"{self.url}/lab/requests", method=method)
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def lab_process(folder: Path, *options: str) -> Iterator[LabProcess]:
    """Start a lab; end it with its guests afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    command = dying_with_us(sys.executable, "-m", "provisioner", "lab", "--json", "--listen", "127.0.0.1:0")
    command += ["--state-dir", str(folder / "state"), "--tokens-out", str(folder / "tokens.json"), "--stop-guests"]
    with (folder / "lab.log").open("w") as words:
        process = subprocess.Popen(
            [*command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words, text=True
        )
        with process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, (folder / "lab.log").read_text()
                ready = json.loads(line)
                yield LabProcess(folder, ready["url"], int(ready["pid"]))
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(_STOP_SECONDS)


@contextmanager
def lab_site(folder: Path, nodes: int, latencies: Latencies | None = None) -> Iterator[LabSite]:
    """Start a lab with the image in place and a fleet file of so many CPU nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    faults = folder / "faults.yml"
    faults.write_text(yaml.safe_dump(latencies.rules() if latencies else []))
    fleet_file = folder / "fleet.yml"
    with lab_process(folder, "--faults", str(faults), "--fleet-out", str(fleet_file)) as lab:
        site = LabSite(lab.folder, lab.url, lab.pid, _write_nodes(fleet_file, nodes))
        _fetch_image(site)
        site.forget_requests()
        yield site


def vmids(nodes: int) -> list[int]:
    """Return the ids that so many nodes have."""
    return list(range(FIRST_VMID, FIRST_VMID + nodes))


def _write_nodes(fleet_file: Path, count: int) -> tuple[str, ...]:
    """Replace the fleet's nodes by CPU nodes: GPUs would keep all but one from running."""
    fleet = yaml.safe_load(fleet_file.read_text())
    fleet["nodes"] = {
        f"node-{number + 1:04d}": {
            "vmid": FIRST_VMID + number,
            "hypervisor": "pve1",
            "modes": ["small"],
            "address": f"10.10.{_FIRST_NET + number // 250}.{number % 250 + 1}/16",
            "connect": {"address": f"127.10.{_FIRST_NET + number // 250}.{number % 250 + 1}", "ssh_port": 2222},
        }
        for number in range(count)
    }
    # The others import every disk: what is compared is the same work.
    fleet["defaults"]["clone"] = "never"
    fleet_file.write_text(yaml.safe_dump(fleet, sort_keys=False))
    return tuple(fleet["nodes"])


def _fetch_image(site: LabSite) -> None:
    """Have the image on the storage before anybody is measured, under the name that our plan looks for."""
    from provisioner.fleet import Fleet
    from provisioner.settings import Settings

    spec = Fleet.load(site.fleet_file, settings=Settings(site.fleet_file, site.folder / "client")).spec
    (image,) = (image for name, image in spec.images.items() if name == "lab")
    node = site.proxmox.nodes("pve1")
    for name in (image.volume_name, IMAGE):
        upid = node.storage("local")("download-url").post(
            url=image.url, content="import", filename=name, checksum=image.sha256, **{"checksum-algorithm": "sha256"}
        )
        while (status := node.tasks(upid).status.get())["status"] != "stopped":
            continue
        assert status["exitstatus"] == "OK", status
