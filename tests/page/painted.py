"""Pages over a fleet that a test paints: states, requests, a day of events. Nothing behind it is asked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from provisioner.api.app import Api
from provisioner.api.control import AboutUs, Acts, Control
from provisioner.domain.callers import Caller, Callers, Scope
from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.gpu_reading import GpuReading
from provisioner.domain.in_flight import InFlight
from provisioner.domain.lease import Hold
from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.quantities import GIB
from provisioner.domain.savings import CountedTime, NodePower, Price, Savings, savings
from provisioner.domain.serving import NodeNow, Phase
from provisioner.errors import RefusedError
from provisioner.page.app import Page
from provisioner.page.door import BrowserDoor
from provisioner.page.views import Views
from provisioner.services.day_history import DayHistory
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper, Seen
from provisioner.services.power_trail import PowerTrail
from tests.fakes.clock import FakeClock
from tests.fakes.event_log import MemoryEventLog
from tests.fakes.serving import FakeLedger
from tests.fleets import SUM, fleet_from

SECRETS = {name: f"{name}-0123456789abcdef" for name in ("reader", "router", "waker", "admin")}
CALLERS = Callers(
    [
        (Caller("reader", frozenset({Scope.READ})), SECRETS["reader"]),
        (Caller("router", frozenset({Scope.ROUTE})), SECRETS["router"]),
        (Caller("waker", frozenset({Scope.READ, Scope.WAKE})), SECRETS["waker"]),
        (Caller("admin", frozenset({Scope.ADMIN})), SECRETS["admin"]),
    ]
)
HOST = "fleet.example:8700"
ORIGIN = f"http://{HOST}"


def fleet_text(nodes: int) -> str:
    """Return a fleet file with so many nodes, one GPU each."""
    names = [f"llm-gpu-{number:02d}" if number < 100 else f"llm-{number}" for number in range(1, nodes + 1)]
    slots = "".join(f"      gpu{n}: {{mapping: gpu{n}, vram: 24GiB}}\n" for n in range(1, nodes + 1))
    lines = "".join(
        f"  {name}: {{hypervisor: pve1, gpus: [gpu{n}], modes: [ml, small], vmid: {5000 + n}, gateway: 10.0.0.1, "
        f"address: 10.{n // 250}.{n % 250}.1/8}}\n"
        for n, name in enumerate(names, 1)
    )
    return f"""\
clusters:
  homelab:
    api: https://10.10.0.2:8006
    token: {{id: provisioner@pve!fleet, secret: env:PROXMOX_TOKEN_SECRET}}
    storage: {{disks: local-lvm, images: local, iso: local}}
    bridge: vmbr0
hypervisors:
  pve1:
    cluster: homelab
    gpus:
{slots}defaults: {{cores: 12, memory: 48GiB, disk: 200GiB, idle_after: 20m}}
engines:
  llama.cpp: {{source: llama.tar.gz, sha256: {SUM}}}
models:
  qwen2.5-7b-instruct-q4.gguf: {{source: qwen.gguf, sha256: {SUM}}}
  gemma-2-2b-it.gguf: {{source: gemma.gguf, sha256: {SUM}}}
modes:
  ml: {{engine: llama.cpp, model: qwen2.5-7b-instruct-q4.gguf}}
  small: {{engine: llama.cpp, model: gemma-2-2b-it.gguf}}
nodes:
{lines}"""


@dataclass
class PaintedKeeper:
    """What the control loop would have seen."""

    fleet: FleetSpec
    now: dict[NodeName, NodeNow]
    doubted: list[NodeName] = field(default_factory=list)

    def seen(self) -> Mapping[NodeName, NodeNow]:
        return self.now

    def of(self, node: NodeName) -> Seen:
        now = self.now[node]
        return Seen(self.fleet.nodes[node], now, "http://10.0.0.1:8080" if now.phase is Phase.READY else None, 60.0)

    def doubt(self, node: NodeName) -> None:
        self.doubted.append(node)

    def switched(self, node: NodeName) -> None:
        """There is nothing to learn."""

    def progress(self, event: object) -> None:
        """There is nothing to learn."""


@dataclass
class PaintedActs:
    """Acts that are noted; `refuses` makes them fail."""

    done: list[tuple[object, ...]] = field(default_factory=list)
    held: dict[NodeName, tuple[Hold, ...]] = field(default_factory=dict)
    refuses: str = ""

    def sleep(self, node: NodeName, on_event: object, *, force: bool) -> Any:
        self._note("sleep", node, force)
        return _Report()

    def mode(self, node: NodeName, mode: str, on_event: object, *, force: bool) -> Any:
        self._note("mode", node, mode, force)
        return _Report()

    def hold(self, node: NodeName, *, by: str, seconds: float, why: str) -> Hold:
        self._note("hold", node, by, seconds, why)
        hold = Hold(node, by, 1_800_000_000.0, 1_800_000_000.0 + seconds, why)
        self.held[node] = (hold,)
        return hold

    def release(self, node: NodeName, *, by: str) -> tuple[Hold, ...]:
        self._note("release", node, by)
        self.held.pop(node, None)
        return ()

    def holds(self) -> dict[NodeName, tuple[Hold, ...]]:
        return self.held

    def _note(self, *what: object) -> None:
        if self.refuses:
            raise RefusedError(self.refuses, subject="a node", next_step="wait, or <b>force</b>")
        self.done.append(what)


class _Report:
    def as_dict(self) -> dict[str, object]:
        return {}


@dataclass
class PaintedWaker:
    """Wakes that are noted."""

    asked: list[NodeName] = field(default_factory=list)

    async def wake(self, node: NodeName, *, at_once: bool = False) -> None:
        self.asked.append(node)


@dataclass(frozen=True)
class Answer:
    """What a browser got."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def cookie(self) -> str:
        """The cookie that it sends from now on."""
        return self.headers["set-cookie"].partition(";")[0]


@dataclass
class _Earlier:
    """A clock that is behind another."""

    clock: Any
    behind: float = 0.0

    def now(self) -> float:
        return float(self.clock.now()) - self.behind

    def monotonic(self) -> float:
        return float(self.clock.monotonic())

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)


class Painted:
    """Pages, an API, and the door before both."""

    def __init__(self, folder: Path, nodes: int = 3, callers: Callers = CALLERS, clock: Any = None) -> None:
        self.clock = clock or FakeClock()
        self.log = MemoryEventLog()
        self.journal = Journal(self.log, self.clock)
        self.ledger = FakeLedger()
        self.acts = PaintedActs()
        self.waker = PaintedWaker()
        self.traffic = InFlight()
        self.gpus: dict[NodeName, Sequence[GpuReading]] = {}
        self.watts: dict[NodeName, float] = {}
        self.fleet = fleet_from(folder, fleet_text(nodes))
        start = {
            name: NodeNow(name, Phase.ASLEEP, "the VM is off", ModeName("ml"), self.clock.now())
            for name in self.fleet.nodes
        }
        self.keeper = PaintedKeeper(self.fleet, start)
        about = AboutUs("1.2.3", "fleet.yml", 1, self.clock.now())
        self.control = Control(
            self.fleet,
            cast(Keeper, self.keeper),
            self.journal,
            cast(Acts, self.acts),
            self.waker,
            {name: cast(Any, _Report()) for name in self.fleet.nodes},
            self.traffic,
            about,
            self.ledger,
        )
        self.power_clock = _Earlier(self.clock)
        self.power = PowerTrail(lambda: self.watts, self.power_clock)
        self.counted: dict[NodeName, CountedTime] = {}
        self.views = Views(
            self.fleet,
            self.control,
            DayHistory(self.journal, self.ledger, self.clock),
            ("qwen2.5-7b-instruct-q4.gguf", "gemma-2-2b-it.gguf"),
            savings=self._savings,
            readings=lambda node: self.gpus.get(node, ()),
            power=self.power,
        )
        self.page = Page(self.views, self.control, callers, self.clock.now, version="1.2.3", is_secure=False)
        self.api = Api(self.control, callers, "1.2.3")
        self.app = BrowserDoor(self._part, callers, self.clock.now, is_gateway=lambda path: path.startswith("/v1/"))
        self.seen_by_gateway: list[object] = []

    def _savings(self, days: int | None) -> Savings:
        now = self.clock.now()
        since = now - (days or 30) * 86400.0
        power = dict.fromkeys(self.names, NodePower(1, idle_watts=32.0))
        begins = since if self.counted else None
        price = Price(0.30, "EUR")
        shares = {node: _share(each, (days or 30) / 30) for node, each in self.counted.items()}
        return savings(shares, power, price, since=since, until=now, counted_since=begins)

    async def _part(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/v1/"):
            self.seen_by_gateway.append(scope.get("provisioner.caller"))
        await (self.page if Page.has(scope["path"]) else self.api)(scope, receive, send)

    @property
    def names(self) -> list[NodeName]:
        return list(self.fleet.nodes)

    def be(self, node: str, phase: Phase, reason: str = "", *, ago: float = 0.0, left: float | None = None) -> None:
        """Have a node seen in a state since some seconds, and told of."""
        name, at = NodeName(node), self.clock.now() - ago
        self.keeper.now[name] = NodeNow(name, phase, reason, ModeName("ml"), at, left)
        self.log.add(NewEntry(Kind.STATE, name, phase.value, reason), at)

    def tell(self, kind: Kind, node: str, phase: str, detail: str = "", *, ago: float = 0.0, by: str = "") -> None:
        """Add to the journal."""
        self.log.add(NewEntry(kind, NodeName(node), phase, detail, by), self.clock.now() - ago)

    def request(self, node: str, *, ago: float, seconds: float = 4.0, tokens: int = 180, ok: bool = True) -> None:
        """Add to the record of requests."""
        outcome = Outcome.ANSWERED if ok else Outcome.FAILED
        self.ledger.add(
            LedgerEntry(
                at=self.clock.now() - ago,
                caller="n8n",
                path="/v1/chat/completions",
                model="qwen",
                outcome=outcome,
                status=200 if ok else 502,
                seconds=seconds,
                node=node,
                first_byte_seconds=seconds / 12,
                tokens_out=tokens,
            )
        )

    def log_in(self, name: str) -> str:
        """Return the cookie of who has shown a token."""
        return self.post("/login", {"token": SECRETS[name]}).cookie

    def get(self, path: str, cookie: str = "", **headers: str) -> Answer:
        """Ask as a browser would."""
        return self.ask("GET", path, cookie=cookie, **headers)

    def post(self, path: str, form: Mapping[str, str], cookie: str = "", **headers: str) -> Answer:
        """Send a form as a browser would."""
        kind = {"content_type": "application/x-www-form-urlencoded", "origin": ORIGIN}
        return self.ask("POST", path, urlencode(form).encode(), cookie=cookie, **(kind | headers))

    def ask(self, method: str, path: str, body: bytes = b"", *, cookie: str = "", **headers: str) -> Answer:
        """Ask; a header that is empty is not sent."""
        return asyncio.run(self._ask(method, path, body, {"host": HOST, "cookie": cookie} | headers))

    async def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        sent: list[Any] = []
        arriving = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return arriving.pop(0) if arriving else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        where, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": where,
            "query_string": query.encode(),
            "headers": [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items() if v],
            "server": ("127.0.0.1", 8700),
            "scheme": "http",
        }
        await self.app(scope, receive, send)
        await self.control.finish(5)
        heads = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], heads, b"".join(each.get("body", b"") for each in sent[1:]).decode())


def _share(counted: CountedTime, share: float) -> CountedTime:
    return CountedTime(*(getattr(counted, each.name) * share for each in fields(CountedTime)))


def paint_a_day(site: Painted, seed: int = 7) -> None:
    """Give every node a day of sleeps, wakes and requests, and the first ones a present worth a look."""
    chance = random.Random(seed)
    names = site.names
    told: list[tuple[float, str, Phase, str]] = []
    for name in names:
        ago, entries = 86400.0 * 1.1, []
        while ago > 4000:
            entries.append((ago, Phase.ASLEEP, "the VM is off"))
            ago -= chance.uniform(1800, 16000)
            if ago < 4000:
                break
            entries.append((ago, Phase.QUEUED, "it is being woken"))
            ago -= chance.uniform(60, 260)
            entries.append((ago, Phase.READY, "its model has answered"))
            awake = chance.uniform(1500, 9000)
            at = ago
            while at > max(ago - awake, 0):
                site.request(name, ago=at, seconds=chance.uniform(1, 40), tokens=chance.randint(30, 1500))
                at -= chance.expovariate(1 / 400)
            ago -= awake
        told += [(when, name, phase, reason) for when, phase, reason in entries]
        told.append((3900.0, name, Phase.ASLEEP, "the VM is off"))
    one = names[0]
    told += [(1500, one, Phase.QUEUED, "it is being woken"), (1440, one, Phase.READY, "its model has answered")]
    if len(names) > 1:
        told.append((34, names[1], Phase.LOADING, "llama.cpp loads qwen2.5-7b-instruct-q4.gguf"))
        site.traffic.start_waiting(names[1], site.clock.now(), most=10)
    if len(names) > 3:
        told.append((2600, names[3], Phase.WITHHELD, 'its GPUs are given to VM 200 (mode "gaming")'))
    if len(names) > 4:
        told.append((120, names[4], Phase.UNKNOWN, "pve2 has not reported for a while"))
    for when, name, phase, reason in sorted(told, key=lambda each: -each[0]):
        if len(names) > 3 and when == 2600:
            site.tell(
                Kind.WAKE, names[3], "failed", "cannot start vm 5004: PCI device 0000:41:00.0 is in use", ago=2800
            )
        site.be(name, phase, reason, ago=when, left=21.0 if phase is Phase.LOADING else None)
    for ago in range(1400, 0, -25):
        site.request(one, ago=ago, seconds=chance.uniform(2, 20), tokens=chance.randint(50, 900), ok=ago % 350 > 30)
    site.traffic.enter(one, site.clock.now())
    site.traffic.enter(one, site.clock.now())
    site.gpus[one] = (
        GpuReading(
            name="NVIDIA GeForce RTX 3090",
            memory_bytes=24 * GIB,
            memory_used_bytes=int(18.4 * GIB),
            temperature_celsius=61.0,
            power_watts=287.0,
            utilization_percent=93.0,
        ),
    )
    for minute in range(24 * 60, -1, -1):
        site.power_clock.behind = minute * 60.0
        drawn = chance.uniform(240, 330) if minute < 24 else 28.0
        site.watts = {one: drawn} if minute < 60 or minute % 700 > 400 else {}
        site.power.turn()
    site.power_clock.behind = 0.0
    for name in names:
        awake = chance.uniform(20, 160) * 3600
        asleep = 30 * 86400 - awake
        site.counted[name] = CountedTime(awake, asleep, asleep, 0.0, awake, awake * 140, 7200.0, 7200.0 * 29)
    site.acts.held[names[-1]] = (
        Hold(names[-1], "anna", site.clock.now() - 600, site.clock.now() + 6600, "a model is being tried"),
    )
