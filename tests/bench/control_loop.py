"""The control loop of the service over many sleeping nodes: what one turn costs, through the real adapter and HTTPS."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from provisioner.domain.conventions import TAG
from provisioner.domain.serving import Phase
from provisioner.fleet import Fleet
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.settings import Settings
from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import LabProcess, LabSite, lab_process

MOST_CPU_SECONDS = {1_000: 0.2, 10_000: 2.0}
ROUNDS = 10
_FIRST_VMID = 10_000
_TOKEN = "provisioner@pve!fleet"


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    for nodes, most in MOST_CPU_SECONDS.items():
        folder = bench.folder / str(nodes)
        folder.mkdir()
        state = folder / "state.json"
        state.write_text(json.dumps(_cluster(nodes)))
        with lab_process(folder / "lab", "--state", str(state)) as lab:
            fleet = _fleet(lab, nodes)
            world = fleet.world
            keeper = Keeper(fleet.spec, world, Journal(world.events, world.clock))
            # The first look tells of every node; what counts is the turn in which nothing has changed.
            keeper.look()
            site = LabSite(lab.folder, lab.url, lab.pid, ())
            site.forget_requests()
            cpu = []
            for _ in range(ROUNDS):
                began = time.process_time()
                keeper.look()
                cpu.append(time.process_time() - began)
            each = len(site.requests()) / ROUNDS
            assert {now.phase for now in keeper.seen().values()} == {Phase.ASLEEP}
        figures = Figures.of(cpu)
        note = f"{each:g} API calls a turn"
        yield Result(
            f"wake.control_loop_{nodes}_nodes", "s", f"<= {most:g}", figures, met=figures.p50 <= most, note=note
        )


def _cluster(nodes: int) -> dict[str, object]:
    return {
        "nodes": {"pve1": {}},
        "users": {"provisioner@pve": ""},
        "tokens": {_TOKEN: {"privsep": 0}},
        "acl": [{"path": "/", "role": "PVEAuditor", "who": ["provisioner@pve"]}],
        "storage": {"local": {"type": "dir", "content": ["iso", "import"], "path": "/var/lib/vz"}},
        "guests": {
            str(_FIRST_VMID + number): {
                "node": "pve1",
                "type": "qemu",
                "status": "stopped",
                "config": {"name": f"n{number}", "cores": "4", "memory": "8192", "tags": TAG},
            }
            for number in range(nodes)
        },
    }


def _fleet(lab: LabProcess, nodes: int) -> Fleet:
    secret = lab.folder / "secret"
    secret.write_text(lab.credentials[_TOKEN])
    secret.chmod(0o600)
    lines = "".join(
        f"  n{number}: {{hypervisor: pve1, modes: [small], vmid: {_FIRST_VMID + number}, gateway: 10.0.0.1, "
        f"address: 10.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}/8}}\n"
        for number in range(nodes)
    )
    path = lab.folder / "fleet.yml"
    path.write_text(
        f"""\
clusters:
  lab:
    api: {lab.url}
    token: {{id: provisioner@pve!fleet, secret: "file:{secret}"}}
    tls: {{ca_file: "{lab.certificate}"}}
    storage: {{disks: local, images: local, iso: local}}
    guests: simulated
hypervisors:
  pve1: {{cluster: lab}}
modes:
  small: {{engine: ollama, model: tiny}}
engines:
  ollama: {{source: https://example.org/ollama.tar.zst, sha256: {"0" * 64}}}
nodes:
{lines}"""
    )
    return Fleet.load(path, settings=Settings(path, lab.folder / "client"))
