"""Thirty-two VMs made from four places at once.

Ours: four `provisioner up` with nothing in common but the cluster and the fleet file, as from four machines, so that
all four want each of the 32 VMIDs. Theirs: four plays of eight VMs each that leave the VMID to the collection, which
is what it offers. Counted is what was reported as failed, and what is there twice or not at all.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import yaml

from tests.bench.clients.collection import PLAY
from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import LabSite, Latencies, lab_site, vmids
from tests.peers import ansible_playbook, collection_login, collection_version

VMS = 32
PROCESSES = 4


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    with lab_site(bench.folder / "ours", VMS, Latencies.drawn(bench.seed, VMS)) as site:
        failed = ours(site)
        # A failed start may be all that keeps one from running; the next run would mend it, this row counts it.
        names = Counter(vm["name"] for vm in site.proxmox.cluster.resources.get(type="vm"))
        wrong = sum(names[name] != 1 for name in site.names)
    bench.say(f"ours: {failed} failed, {wrong} missing or twice")
    peers = {}
    if collection_version() is not None:
        with lab_site(bench.folder / "theirs", VMS, Latencies.drawn(bench.seed, VMS)) as site:
            failures = collection(site)
            names = Counter(vm["name"] for vm in site.proxmox.cluster.resources.get(type="vm"))
            missing = sum(names[f"vm-{number}"] != 1 for number in range(VMS))
        bench.say(f"community.proxmox: {failures} failed, {missing} missing or twice")
        peers["community.proxmox, next free VMID"] = Figures.of([float(max(failures, missing))], bench.seed)
    yield Result(
        f"provisioning.parallel_creates_{VMS}_from_{PROCESSES}_processes",
        "failures",
        "0",
        Figures.of([float(failed + wrong)], bench.seed),
        peers,
        failed + wrong == 0,
    )


def ours(site: LabSite) -> int:
    """Run the four; return how many nodes were reported as failed, by whichever of them."""
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "provisioner", "up", "--json"],
                    env=site.environment | {"PROVISIONER_STATE": str(site.folder / f"client-{number}")},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(PROCESSES)
        ]
        lines = [line for run in runs for line in run.communicate()[0].splitlines()]
    answers = [json.loads(line) for line in lines]
    proved = sum("result" in answer for answer in answers)
    for answer in answers:
        if "error" in answer:
            print(f"    {answer.get('summary', answer)}"[:160])
    return PROCESSES * len(vmids(VMS)) - proved


def collection(site: LabSite) -> int:
    """Run the four plays; return how many VMs failed."""
    play = yaml.safe_load(PLAY.read_text())
    create, start = (task["community.proxmox.proxmox_kvm"] for task in play[0]["tasks"])
    del create["vmid"], start["vmid"]
    start["name"] = "{{ inventory_hostname }}"
    book = site.folder / "next-free.yml"
    book.write_text(yaml.safe_dump(play))
    environment = collection_login(site.folder, site.host, site.port, site.secret, site.certificate)
    share = VMS // PROCESSES
    with ExitStack() as stack:
        runs = []
        for number in range(PROCESSES):
            inventory = site.folder / f"inventory-{number}.yml"
            hosts: dict[str, dict[str, str]] = {f"vm-{number * share + each}": {} for each in range(share)}
            inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
            command = [ansible_playbook(), "-i", str(inventory), "--forks", str(share), str(book)]
            runs.append(
                stack.enter_context(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                    )
                )
            )
        words = "".join(run.communicate()[0] for run in runs)
    return sum(int(count) for count in re.findall(r"failed=(\d+)", words))
