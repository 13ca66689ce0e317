"""Thirty-two VMs made from four places at once, as from four machines with nothing in common but the cluster.

Ours twice: each of the four brings up eight of the nodes; then all four bring up all of them, so that all want each of
the 32 VMIDs. Counted is every node that failed, but for those of the second kind whose refusal says that running again
will do: somebody else was at that VM. Theirs: four plays of eight VMs each that leave the VMID to the collection,
which is what it offers. What is missing or there twice counts for all.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import yaml

from provisioner.adapters.processes import dying_with_us
from tests.bench.clients.collection import PLAY
from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import LabSite, Latencies, lab_site
from tests.peers import ansible_playbook, collection_login, collection_version

VMS = 32
PROCESSES = 4


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    latencies = Latencies.drawn(bench.seed, VMS)
    wrong, notes = 0, []
    for what in ("eight each", "all of them"):
        with lab_site(bench.folder / f"ours, {what}", VMS, latencies) as site:
            names = site.names
            share = VMS // PROCESSES if what == "eight each" else VMS
            shares = [names[at : at + share] for at in range(0, VMS, share)] * (PROCESSES * share // VMS)
            failed, refused = ours(site, shares)
            missing = not_once(site, site.names)
        notes.append(f"{what}: {failed} failed, {refused} to be run again, {missing} missing or twice")
        bench.say(f"ours, {notes[-1]}")
        wrong += failed + missing + (refused if what == "eight each" else 0)
    peers = {}
    if collection_version() is not None:
        with lab_site(bench.folder / "theirs", VMS, latencies) as site:
            failures = collection(site)
            missing = not_once(site, [f"vm-{number}" for number in range(VMS)])
        bench.say(f"community.proxmox: {failures} failed, {missing} missing or twice")
        peers["community.proxmox, next free VMID"] = Figures.of([float(max(failures, missing))], bench.seed)
    yield Result(
        f"provisioning.parallel_creates_{VMS}_from_{PROCESSES}_processes",
        "failures",
        "0",
        Figures.of([float(wrong)], bench.seed),
        peers,
        wrong == 0,
        "; ".join(notes),
    )


def not_once(site: LabSite, names: Sequence[str]) -> int:
    """Return how many of the names there is no VM of, or more than one."""
    found = Counter(vm["name"] for vm in site.proxmox.cluster.resources.get(type="vm"))
    return sum(found[name] != 1 for name in names)


def ours(site: LabSite, shares: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Run one process a share; return how many nodes failed, and how many were refused with leave to run again."""
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen(
                    dying_with_us(sys.executable, "-m", "provisioner", "up", "--json", *names),
                    env=site.environment | {"PROVISIONER_STATE": str(site.folder / f"client-{number}")},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            for number, names in enumerate(shares)
        ]
        with ThreadPoolExecutor(len(runs)) as pool:
            lines = [line for words in pool.map(lambda run: run.communicate()[0], runs) for line in words.splitlines()]
    answers = [json.loads(line) for line in lines]
    for answer in answers:
        if "error" in answer:
            print(f"    {answer['error']}: {answer['summary']}"[:160])
    refused = sum(bool(answer.get("retryable")) for answer in answers)
    proved = sum("result" in answer for answer in answers)
    return sum(map(len, shares)) - proved - refused, refused


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
            command = dying_with_us(ansible_playbook(), "-i", str(inventory), "--forks", str(share), str(book))
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
        with ThreadPoolExecutor(len(runs)) as pool:
            words = "".join(pool.map(lambda run: run.communicate()[0], runs))
    return sum(int(count) for count in re.findall(r"failed=(\d+)", words))
