"""Where faults are tried: a lab with a node of ours and VMs of other people, and what must hold after every fault."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from provisioner.errors import ProvisionerError
from provisioner.fleet import Fleet
from provisioner.lab.harness import RunningLab
from provisioner.lab.model import Guest
from provisioner.services.events import Event
from provisioner.services.fleet_view import NodeState
from tests.lab.support import NODE, Site, site_for

VMID = 5001
CARD = ("pve1", "0000:01:00.0")
SEED = "llm-gpu-01-5001-*-seed.iso"
FOREIGN = (100, 101)
"""VMs of other people: one that runs, one that is off; no tag of ours on either."""

PATIENT = {"boot_within": "10m", "engine_within": "10m", "shutdown_within": "20s", "retry_for": "3m"}
_CLUSTER_KEYS = ("retry_for", "answer_within", "task_within")


class HurriedClock:
    """Ten of its seconds are one of ours: our pauses and patience shrink, and what is waited for does not."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic() * 10

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 10)


@dataclass
class Yard:
    """One lab with its fleet file; `events` is what the last verb told on its way."""

    lab: RunningLab
    site: Site
    events: list[Event] = field(default_factory=list)
    before: dict[int, object] = field(default_factory=dict)
    marked: frozenset[str] = frozenset()
    _patient: Fleet | None = None

    @property
    def patient(self) -> Fleet:
        """The fleet as it is used between two faults, its connection kept."""
        if self._patient is None:
            self._patient = self.fleet()
        return self._patient

    @classmethod
    def laid_out(cls, lab: RunningLab, folder: Path, images: str) -> Yard:
        """Put other people's VMs into a new lab, and a fleet file beside it."""
        yard = cls(lab, site_for(lab, folder, images))
        for vmid, name in zip(FOREIGN, ("nextcloud", "old-llm"), strict=True):
            lab.finish(lab.call("POST", "/nodes/pve1/qemu", vmid=str(vmid), name=name, scsi0="local-lvm:1"))
        lab.finish(lab.call("POST", f"/nodes/pve1/qemu/{FOREIGN[0]}/status/start"))
        yard.before = {vmid: yard.stranger(vmid) for vmid in FOREIGN}
        return yard

    def fleet(self, **settings: str) -> Fleet:
        """Load the fleet file with other times in it."""
        self.events.clear()
        kept = self.site.fleet_file.read_text()
        try:
            return self.site.fleet(lambda text: with_times(text, {**PATIENT, **settings}), HurriedClock())
        finally:
            self.site.fleet_file.write_text(kept)

    def bring(self, given: str) -> None:
        """Bring the node where a fault is to meet it: absent, asleep or awake."""
        fleet = self.patient
        seen = self.state()
        if given == "absent":
            if seen is not NodeState.ABSENT:
                fleet.destroy(NODE)
            return
        if seen is not NodeState.SERVING:
            fleet.up(NODE)
        if given == "asleep":
            fleet.sleep(NODE, force=True)

    def run(self, verb: str, fleet: Fleet) -> str:
        """Do one of our verbs; return what it says in the end. Raises ProvisionerError."""
        told = self.events.append
        match verb:
            case "up":
                return f"answers at {fleet.up(NODE, told).endpoint.url}"
            case "wake":
                return f"answers at {fleet.wake_report(NODE, on_event=told).endpoint.url}"
            case "sleep" | "sleep --force":
                report = fleet.sleep(NODE, force=verb != "sleep", on_event=told)
                return "shut down" if report.was_running else "was off already"
            case "destroy":
                return ", ".join(fleet.destroy(NODE, told)) or "nothing was left"
            case "idle":
                return "; ".join(map(str, fleet.idle(on_event=told)))
            case "plan":
                return str(fleet.plan(NODE))
            case "status":
                return "; ".join(f"{each.node.name} {each.state.value}: {each.reason}" for each in fleet.status())
        raise ValueError(verb)

    def told(self) -> str:
        """Return everything that was told on the way."""
        return "\n".join(str(event) for event in self.events)

    def stranger(self, vmid: int) -> object:
        """Return all that is to be known of somebody else's VM."""
        guest = self.lab.lab.cluster.guests[str(vmid)]
        return dict(guest.config), guest.node, self.lab.lab.is_running(guest)

    def ours(self) -> Guest | None:
        """Return the VM with our node's VMID, whoever made it."""
        return self.lab.lab.cluster.guests.get(str(VMID))

    def state(self) -> NodeState:
        """Return what `status` shows of the node."""
        (status,) = self.patient.status()
        return status.state

    def power(self) -> str:
        """Return absent, stopped or running."""
        guest = self.ours()
        return "absent" if guest is None else "running" if self.lab.lab.is_running(guest) else "stopped"

    def tasks(self, kind: str) -> list[Any]:
        """Return every task of a kind about our VM, oldest first."""
        records = self.lab.lab.cluster.tasks.values()
        return [each for each in records if each.type == kind and each.id in (str(VMID), "")]

    def done(self, kind: str) -> list[Any]:
        """Return the tasks of a kind about our VM that went well since `mark`."""
        known = ("OK", "WARNINGS: 1", "unexpected status")
        return [each for each in self.tasks(kind) if each.upid not in self.marked and each.exitstatus in known]

    def mark(self) -> None:
        """Count from here on."""
        self.marked = frozenset(self.lab.lab.cluster.tasks)
        self.lab.forget_requests()

    def count(self, method: str, ending: str) -> int:
        """Return how many requests went to a path."""
        return sum(
            request["method"] == method and re.search(ending, request["path"]) is not None
            for request in self.lab.requests()
        )

    def rest(self) -> None:
        """Let the lab finish what it is at, but for what was told to hang."""
        if any(rule.hangs for rule in self.lab.faults.rules):
            return
        for record in self.lab.lab.cluster.tasks.values():
            if record.exitstatus is None:
                self.lab.finish(record.upid)

    def assert_safe(self, *, makes_several: bool = False) -> None:
        """Hold the lab against what must be true whatever went wrong; several verbs may make a VM several times."""
        lab = self.lab.lab
        assert {vmid: self.stranger(vmid) for vmid in FOREIGN} == self.before, "a foreign VM was touched"
        named = {value.split(",")[0] for guest in lab.cluster.guests.values() for value in guest.config.values()}
        busy = {guest.vmid for guest in lab.cluster.guests.values() if "lock" in guest.config}
        orphans = [v.volid for v in lab.cluster.volumes.values() if v.volid not in named and v.vmid not in busy]
        assert orphans == [], "a disk belongs to nobody"
        isos = {entry.volid for entry in lab.storages.content(lab.cluster.storages["local"]) if entry.content == "iso"}
        assert all(fnmatchcase(iso, f"local:iso/{SEED}") for iso in isos), "a foreign ISO was left behind"
        ours = self.ours()
        if ours is not None and "seed: sealed" in str(ours.config.get("description")):
            assert isos <= {str(ours.config.get("ide2")).partition(",")[0]}, "an ISO was left behind"
        leftovers = [p.name for p in (self.lab.state_dir / "storage").rglob(".*") if p.is_file()]
        leftovers += [p.name for p in (self.lab.state_dir / "incoming").glob("*")]
        assert leftovers == [], "half a file was left behind"
        holder = lab.pci.holder(*CARD)
        guest = self.ours()
        assert holder != VMID or (guest is not None and lab.is_running(guest)), "a VM that is off holds the card"
        running = [
            g.vmid for g in lab.cluster.guests.values() if lab.is_running(g) and "mapping=rtx3090" in str(g.config)
        ]
        assert len(running) <= 1, "two running VMs hold one card"
        assert makes_several or len(self.done("qmcreate")) <= 1, "one thing was made twice"
        assert not any(secret in self.told() for secret in self.lab.credentials.values()), "a secret shows"

    def end_state(self) -> str:
        """Say how things stand, for a reader."""
        lab = self.lab.lab
        guest, holder = self.ours(), lab.pci.holder(*CARD)
        if guest is None:
            vm = f"no VM {VMID}"
        else:
            lock = f", locked ({guest.config['lock']})" if "lock" in guest.config else ""
            mine = "" if "provisioner" in guest.config.get("tags", "") or lock else ", not ours"
            vm = f"VM {VMID} {self.power()}{lock}{mine}"
        card = "the card is free" if holder is None else f"VM {holder} holds the card"
        return f"{vm}; {card}; no orphan disk or ISO; foreign VMs untouched"


def with_times(text: str, settings: Mapping[str, str]) -> str:
    """Return a fleet file with other times in it."""
    for key, value in settings.items():
        if key in _CLUSTER_KEYS:
            text = text.replace("    bridge: vmbr0\n", f"    bridge: vmbr0\n    {key}: {value}\n")
        elif f"  {key}: " in text:
            text = re.sub(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.MULTILINE)
        else:
            text = text.replace("\nimages:\n", f"\n  {key}: {value}\nimages:\n", 1)
    return text


Deed = Callable[[Yard], object]


def nothing(yard: Yard) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Case:
    """One fault: when it strikes, what we say of it, how things stand then, and what mends it.

    `error` None means that the verb bears it and succeeds; then `says` is looked
    for in what it tells and returns. `left` is our VM's power afterwards.
    """

    fault: str
    verb: str
    given: str = "absent"
    rules: Sequence[Mapping[str, object]] = ()
    before: Deed = nothing
    times: Mapping[str, str] = field(default_factory=dict)
    error: type[ProvisionerError] | None = None
    says: Sequence[str] = ()
    then: Sequence[str] = ()
    left: str | None = None
    ends: Deed = nothing
    mend: Deed = nothing
    is_first_contact: bool = False

    def __str__(self) -> str:
        return f"{self.verb}: {self.fault}"
