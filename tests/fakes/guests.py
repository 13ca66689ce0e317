"""Guests behind the fake hypervisors: shells, playbooks and an engine that come up after their VM."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import Vmid
from provisioner.domain.snapshot import Power
from provisioner.domain.vm_traits import Trait
from provisioner.errors import HostKeyError, PlaybookError
from provisioner.lab.guests.simulated_gpu import ENGINE_PID, gpu_answer, tells_of_gpus
from provisioner.ports.guest_shell import CommandResult, GuestAway, GuestRefuses
from provisioner.ports.playbooks import PlaybookOutcome
from provisioner.ports.seeds import HostKeyPair
from provisioner.ports.web import NO_HEADERS, Answer, Headers, NoAnswer
from provisioner.services.converging import RECIPE
from provisioner.services.engine_help import ASKING
from provisioner.services.guest_host_key import FINISHED, PUBLIC_KEY
from tests.fakes.hypervisors import FakeHypervisors, FakeVm

BOOT_SECONDS = 8.0
LOAD_SECONDS = 3.0
_DRIVE = frozenset(trait for trait in Trait if trait.name.startswith("CLOUD_INIT"))


@dataclass
class GuestDisk:
    """What is written inside one guest: gone with its VM."""

    host_key: str
    instance: tuple[str, ...] = ()
    """What Proxmox's drive said at the last first boot."""
    applied: list[Mapping[str, object]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    partition_bytes: int = 0
    """As large as the disk was at the first boot; the filesystem in it likewise."""
    filesystem_bytes: int = 0
    recipes: dict[str, object] = field(default_factory=dict)
    """What playbooks that note it were last played with."""
    helps: dict[str, str] = field(default_factory=dict)
    """What engines have printed of themselves, by the name that it is kept under."""


@dataclass
class FakeGuests:
    """All guests of a fake cluster; also the ports GuestShells, Playbooks and Web."""

    hypervisors: FakeHypervisors
    disks: dict[Vmid, GuestDisk] = field(default_factory=dict)
    refuses_key: bool = False
    refusals: int = 0
    never_boots: bool = False
    engine_dead: bool = False
    failing_task: str | None = None
    cloud_init: Mapping[str, object] = field(default_factory=lambda: {"status": "done", "errors": []})
    running: int = 0
    tokens: float = 0.0
    chats: int = 0
    missing_commands: set[str] = field(default_factory=set)
    resize_fails: bool = False
    asked: list[str] = field(default_factory=list)
    """URLs that were fetched."""
    sent: list[tuple[str, str]] = field(default_factory=list)
    """The same, each with what was sent to be let in."""
    has_agent: bool = True
    journal: list[str] = field(default_factory=lambda: ["nothing of interest"])
    """What journalctl prints."""
    news: list[str] = field(default_factory=list)
    """What it prints when it is followed, until the guest goes away."""
    followed: list[tuple[str, ...]] = field(default_factory=list)
    logins: int = 0
    looks: int = 0
    """At cards, inside guests."""
    help_text: str | None = None
    """What engines print when they are asked for help; None where they fail to."""
    asked_for_help: list[tuple[str, ...]] = field(default_factory=list)
    """The commands of engines that really ran."""
    gpu_faults: set[str] = field(default_factory=set)
    gpu_percent: dict[int, int] = field(default_factory=dict)
    """How much its cards compute, by their number; the others lie still."""
    engine_pid: int = ENGINE_PID
    hangs: bool = False
    """Who is logged in gets no answer any more."""
    shows: dict[str, str] = field(default_factory=dict)
    """Section -> what the guest shows there of its use, instead of nothing."""
    played: list[str] = field(default_factory=list)
    """The playbooks that ran to their end."""
    first_boots: int = 0
    """From drives of the cluster's own making, each with a new host key."""

    def __post_init__(self) -> None:
        self.hypervisors.guest_files = self._read_file

    def _read_file(self, vmid: Vmid, path: str) -> str | None:
        if not self.has_agent or not self._is_up(vmid):
            raise GuestAway("QEMU guest agent is not running")
        files = {FINISHED: "{}", PUBLIC_KEY: f"{self.disks[vmid].host_key} root@guest\n"}
        return files.get(path)

    def _boot_natively(self, vm: FakeVm) -> None:
        """Do what cloud-init does with a drive of the cluster's own: new host keys for a new instance."""
        drive = tuple(value for trait, value in vm.started_with[0].items() if trait in _DRIVE)
        disk = self.disks.get(vm.seen.vmid)
        if disk is None:
            disk = GuestDisk("", partition_bytes=vm.disk_bytes, filesystem_bytes=vm.disk_bytes)
            self.disks[vm.seen.vmid] = disk
        if disk.instance != drive:
            self.first_boots += 1
            disk.instance, disk.host_key = drive, f"ssh-ed25519 BBBB{self.first_boots}"

    def _is_up(self, vmid: Vmid, extra: float = 0.0) -> bool:
        vm = self.hypervisors.vms.get(vmid)
        if vm is None or vm.seen.power is not Power.RUNNING or self.never_boots:
            return False
        if vm.seed is None:
            self._boot_natively(vm)
        elif vmid not in self.disks:
            storage, seed = vm.seed
            key = json.loads(self.hypervisors.files[storage, "iso"][seed])["public"]
            self.disks[vmid] = GuestDisk(key, partition_bytes=vm.disk_bytes, filesystem_bytes=vm.disk_bytes)
        return self.hypervisors.clock.monotonic() - vm.started_at >= BOOT_SECONDS + extra

    # GuestShells

    def open(self, node: NodeSpec, host_key: str) -> FakeShell:
        if not self._is_up(node.vmid):
            raise GuestAway("connection refused")
        if self.refuses_key:
            self.refusals += 1
            raise GuestRefuses("Authentication failed.")
        if self.disks[node.vmid].host_key != host_key:
            raise HostKeyError("another host key", subject=node.name, next_step="none")
        self.logins += 1
        return FakeShell(self, node)

    # Playbooks

    def size_question(self, playbook: str, variables: Mapping[str, object]) -> tuple[str, ...]:
        return ()

    def recipe(self, playbook: str, variables: Mapping[str, object]) -> str:
        return json.dumps([playbook, variables], sort_keys=True)

    def run(
        self,
        playbook: str,
        node: NodeSpec,
        host_key: str,
        variables: Mapping[str, object],
        on_task: Callable[[str], None],
    ) -> PlaybookOutcome:
        self.open(node, host_key)
        on_task("First task")
        if self.failing_task:
            raise PlaybookError(f'failed at "{self.failing_task}"', subject=node.name, next_step="none")
        self.played.append(playbook)
        if RECIPE in variables:
            known = self.disks[node.vmid].recipes
            same = known.get(playbook) == variables[RECIPE]
            known[playbook] = variables[RECIPE]
            return PlaybookOutcome(2, () if same else ("Write the settings",))
        if playbook == "install-nvidia-driver":
            self.gpu_faults.discard("gpu_driver_missing")
            return PlaybookOutcome(9, ("Install the driver",))
        applied = self.disks[node.vmid].applied
        if applied and applied[-1] == variables:
            return PlaybookOutcome(5, ())
        applied.append(variables)
        return PlaybookOutcome(5, ("Write the unit",))

    # Web

    def locks(self, url: str, headers: Headers) -> bool:
        """Say whether the engine that was laid down last asks for another key than a request has."""
        (launch,) = self.disks[self._vmid(url)].applied[-1]["engine_launches"]
        key = launch["secrets"].get("LLAMA_API_KEY")
        return key is not None and headers.get("Authorization") != f"Bearer {key}"

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        self.asked.append(url)
        self.sent.append((url, headers.get("Authorization", "")))
        vmid = self._vmid(url)
        if self.engine_dead or not self._is_up(vmid) or not self.disks[vmid].applied:
            raise NoAnswer("connection refused")
        if not self._is_up(vmid, LOAD_SECONDS):
            return Answer(503, json.dumps({"error": {"message": "Loading model"}}))
        path = url.split("/", 3)[3]
        if path != "health" and self.locks(url, headers):
            return Answer(401, json.dumps({"error": {"message": "Invalid API Key", "code": 401}}))
        (launch,) = self.disks[vmid].applied[-1]["engine_launches"]
        model = launch["argv"][launch["argv"].index("--alias") + 1]
        texts = {
            "health": "ok",
            "v1/models": json.dumps({"data": [{"id": model}]}),
            "metrics": f"llamacpp:requests_processing {self.running}\nllamacpp:requests_deferred 0\n"
            f"llamacpp:tokens_predicted_total {self.tokens}\nllamacpp:n_decode_total 0\n",
        }
        return Answer(200, texts[path])

    def post_json(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        self.get(url.rsplit("/v1/", 1)[0] + "/health", seconds=seconds)
        if self.locks(url, headers):
            return Answer(401, json.dumps({"error": {"message": "Invalid API Key", "code": 401}}))
        self.chats += 1
        self.tokens += 1
        return Answer(200, json.dumps({"choices": [{"message": {"content": "hello"}}]}))

    @staticmethod
    def _vmid(url: str) -> Vmid:
        last = int(url.split("/")[2].split(":")[0].rsplit(".", 1)[1])
        return Vmid(5000 + last)


@dataclass
class FakeShell:
    guests: FakeGuests
    node: NodeSpec

    @property
    def hangs_up(self) -> bool:
        """The guest has gone off."""
        return not self.guests._is_up(self.node.vmid)

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        if command[0] == "cloud-init":
            return CommandResult(0, "....\n" + json.dumps(self.guests.cloud_init), "")
        disk = self.guests.disks[self.node.vmid]
        if command[0] == "test":
            return CommandResult(0 if command[2] in disk.files else 1, "", "")
        if command[0] == "touch":
            disk.files.add(command[1])
            return CommandResult(0, "", "")
        if command[0] in self.guests.missing_commands:
            return CommandResult(1, "", f"sudo: {command[0]}: command not found")
        if command[0] == "lsblk":
            return CommandResult(0, self._block_devices(disk), "")
        if command[0] == "growpart":
            disk.partition_bytes = self.guests.hypervisors.vms[self.node.vmid].disk_bytes
            return CommandResult(0, "CHANGED: partition=1", "")
        if command[0] == "resize2fs":
            if self.guests.resize_fails:
                return CommandResult(1, "", "resize2fs: Permission denied to resize filesystem")
            if disk.filesystem_bytes == disk.partition_bytes:
                return CommandResult(0, "", "The filesystem is already 1 (4k) blocks long.  Nothing to do!")
            disk.filesystem_bytes = disk.partition_bytes
            return CommandResult(0, "The filesystem is now 2 (4k) blocks long.", "")
        if tells_of_gpus(list(command)):
            if self.hangs_up:
                raise GuestAway("the connection was closed")
            self.guests.looks += command[4] == "live"
            faults = frozenset(self.guests.gpu_faults)
            if self.guests.hangs:
                raise GuestAway(f"sh took longer than {seconds:g} s")
            text = gpu_answer(list(command), len(self.node.gpus), serves=True, faults=faults)
            text = text.replace(f"{ENGINE_PID}\n", f"{self.guests.engine_pid}\n")
            text = text.replace(f"{ENGINE_PID}, ", f"{self.guests.engine_pid}, ")
            text = self._with_load(text, command[5].split(","))
            for name, shown in self.guests.shows.items():
                text = text.replace(f"=== {name} 0\n", f"=== {name} 0\n{shown}\n")
            return CommandResult(0, text, "")
        if command[3:4] == ("still-is-as",):
            noted = disk.recipes.get(command[4].rpartition("/")[2])
            return CommandResult(0 if noted == command[5] else 1, "", "")
        if command[3:4] == (ASKING,):
            return self._help(disk, command[4], tuple(command[6:]))
        if command[0] == "journalctl":
            return CommandResult(0, "\n".join(self.guests.journal), "")
        return CommandResult(127, "", f"{command[0]}: command not found")

    def _with_load(self, text: str, fields: Sequence[str]) -> str:
        """Put what the cards compute into the driver's answer."""
        head, found, rest = text.partition("=== smi-query 0\n")
        rows = rest.split("\n")
        for number, percent in self.guests.gpu_percent.items():
            cells = rows[number].split(", ")
            cells[fields.index("utilization.gpu")] = str(percent)
            rows[number] = ", ".join(cells)
        return head + found + "\n".join(rows)

    def _help(self, disk: GuestDisk, kept: str, command: tuple[str, ...]) -> CommandResult:
        if kept not in disk.helps:
            self.guests.asked_for_help.append(command)
            if self.guests.help_text is None:
                return CommandResult(1, "", "Failed to infer device type")
            disk.helps[kept] = self.guests.help_text
        return CommandResult(0, disk.helps[kept], "")

    def lines(self, command: Sequence[str], *, privileged: bool = False) -> Iterator[str]:
        self.guests.followed.append(tuple(command))
        yield from self.guests.news

    def _block_devices(self, disk: GuestDisk) -> str:
        whole = {"name": "sda", "pkname": None, "type": "disk", "fstype": None, "mountpoint": None}
        part = {"name": "sda1", "pkname": "sda", "type": "part", "fstype": "ext4", "mountpoint": "/"}
        size = self.guests.hypervisors.vms[self.node.vmid].disk_bytes
        return json.dumps({"blockdevices": [whole | {"size": size}, part | {"size": disk.partition_bytes}]})

    def __enter__(self) -> FakeShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FakeSeeds:
    """Seeds one can read: JSON instead of an ISO."""

    def __init__(self) -> None:
        self._made = 0

    def new_host_key(self) -> HostKeyPair:
        self._made += 1
        return HostKeyPair(public=f"ssh-ed25519 AAAA{self._made}", private=f"private {self._made}")

    def authorized_keys(self) -> tuple[str, ...]:
        return ("ssh-ed25519 AAAALOGIN provisioner",)

    def verify(self, node: NodeSpec) -> None:
        """Nothing on this machine is needed."""

    def seed(self, fleet: FleetSpec, node: NodeSpec, host_key: HostKeyPair) -> bytes:
        return json.dumps({"public": host_key.public, "private": host_key.private}).encode()

    def sealed_seed(self, fleet: FleetSpec, node: NodeSpec, host_key_public: str) -> bytes:
        return json.dumps({"public": host_key_public}).encode()
