"""status --watch: the fleet on a terminal, drawn anew; with a running service's eyes where there is one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from provisioner.cli.output import print_json
from provisioner.page.words import span_words

if TYPE_CHECKING:
    from provisioner.adapters.web.private_socket import PrivateService
    from provisioner.domain.day import NodeDay
    from provisioner.domain.events import Entry
    from provisioner.domain.names import NodeName
    from provisioner.domain.savings import Savings
    from provisioner.fleet import Fleet

_HOURS = 24
_RECENT = 6
_COLOURS = {
    "ready": "green",
    "serving": "green",
    "asleep": "bright_black",
    "unknown": "yellow",
    "withheld": "magenta",
    "absent": "bright_black",
}
_WAKING = frozenset({"queued", "starting", "booting", "loading"})
# One sign for each hour, by what there was of it: the rarest is what one looks for.
_SIGNS = {
    "failed": ("✗", "red"),
    "serving": ("█", "green"),
    "waking": ("▅", "yellow"),
    "awake": ("▅", "green"),
    "withheld": ("▂", "magenta"),
    "asleep": ("▁", "bright_black"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A node at one look, whoever looked."""

    node: str
    state: str
    since_seconds: float | None
    model: str
    gpus: str
    running: int | None
    waiting: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Screen:
    """Everything at one look."""

    rows: tuple[Row, ...]
    days: dict[NodeName, NodeDay]
    events: tuple[Entry, ...]
    savings: Savings | None
    through: str
    """Who looked."""


def watch(fleet: Fleet, nodes: Sequence[str], interval: float, *, as_json: bool) -> None:
    """Show the fleet until Ctrl-C. Raises UnknownNameError."""
    chosen = [fleet.spec.node(name).name for name in nodes] or list(fleet.spec.nodes)
    is_live = not as_json and sys.stdout.isatty()
    with closing(Looks(fleet, chosen)) as looks:
        try:
            if is_live:
                _live(looks, interval)
            else:
                _lines(looks, interval, as_json=as_json)
        except KeyboardInterrupt:
            # That is how it is meant to end.
            return


def _live(looks: Looks, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False, screen=True) as live:
        while True:
            live.update(picture(looks.look()), refresh=True)
            looks.wait(interval)


def _lines(looks: Looks, interval: float, *, as_json: bool) -> None:
    """Print what changed: a log of states, for a pipe or a file."""
    before: dict[str, tuple[str, str]] = {}
    while True:
        screen = looks.look()
        if as_json:
            print_json({"nodes": [_plain(row) for row in screen.rows]})
        for row in () if as_json else screen.rows:
            if before.get(row.node) != (row.state, row.why):
                before[row.node] = (row.state, row.why)
                click.echo(f"{time.strftime('%H:%M:%S')} {row.node} {row.state}{f': {row.why}' if row.why else ''}")
        sys.stdout.flush()
        looks.wait(interval)


class Looks:
    """Looks at the fleet again and again."""

    def __init__(self, fleet: Fleet, nodes: Sequence[NodeName]) -> None:
        from provisioner.adapters.storage.ledger import SqliteLedger
        from provisioner.remote import service_of
        from provisioner.services.day_history import DayHistory
        from provisioner.services.journaling import Journal

        self._fleet = fleet
        self._nodes = nodes
        self._service_of = service_of
        self._journal = Journal(fleet.world.events, fleet.world.clock)
        self._ledger = SqliteLedger(fleet.settings.state_folder / "provisioner.sqlite")
        self._history = DayHistory(self._journal, self._ledger, fleet.world.clock)
        self._news = threading.Event()
        self._listener: _Listener | None = None

    def close(self) -> None:
        """End it."""
        self._ledger.close()

    def look(self) -> Screen:
        """Look once."""
        from provisioner.errors import NotReadyError

        self._news.clear()
        try:
            found, alone = self._service_of(self._fleet), "no control service runs"
        except NotReadyError as error:
            # Looking does no harm beside it; a watch outlives the restart of a service.
            found, alone = None, error.summary.removeprefix("cannot go through ")
        if found is not None:
            service, pid = found
            # What happens while we look is told once more rather than never.
            last = self._journal.last_number()
            rows, through = self._asked(service), f"the control service (process {pid})"
            if self._listener is None or not self._listener.is_alive():
                self._listener = _Listener(service, last, self._news)
                self._listener.start()
        else:
            rows, through = self._seen(), f"this command; {alone}"
        events = self._journal.latest(limit=_RECENT)
        return Screen(rows, dict(self._history.days(self._nodes)), events, self._savings(), through)

    def wait(self, seconds: float) -> None:
        """Wait, or until the service tells of something."""
        self._news.wait(seconds)

    def _asked(self, service: PrivateService) -> tuple[Row, ...]:
        from provisioner.adapters.web.private_socket import ServiceGone

        try:
            found: Any = service.ask("GET", "/api/nodes").value.get("nodes", ())
        except ServiceGone:
            # It is ending; the next look finds out who there is to ask.
            return self._seen()
        now = self._fleet.world.clock.now()
        return tuple(row_of(each, now) for each in found if each["node"] in self._nodes)

    def _seen(self) -> tuple[Row, ...]:
        return tuple(
            Row(
                each.node.name,
                each.state.value,
                each.uptime_seconds or None,
                each.model,
                ", ".join(each.node.gpus),
                None,
                None,
                "; ".join(words for words in (each.url or each.reason, each.claims) if words),
            )
            for each in self._fleet.status(self._nodes)
        )

    def _savings(self) -> Savings | None:
        from provisioner.errors import InputError
        from provisioner.services.savings import fleet_savings

        world = self._fleet.world
        try:
            found = fleet_savings(self._fleet.spec, world.times, now=world.clock.now(), days=7)
        except InputError:
            return None
        return found if found.counted_since is not None else None


class _Listener(threading.Thread):
    """Rings when the service tells of anything, so that nobody waits for the next look."""

    def __init__(self, service: PrivateService, after: int, news: threading.Event) -> None:
        super().__init__(name="news", daemon=True)
        self._service = service
        self._after = after
        self._news = news

    def run(self) -> None:
        """Listen until the service ends."""
        from provisioner.adapters.web.private_socket import ServiceGone

        try:
            for _ in self._service.events(self._after, None):
                self._news.set()
        except ServiceGone:
            return


def row_of(seen: Mapping[str, Any], now: float) -> Row:
    """Return a node as the API tells of it; `now` is in UNIX seconds."""
    state = str(seen["phase"])
    why = str(seen["reason"])
    if seen["seconds_left"] is not None:
        why = f"{why}; about {span_words(seen['seconds_left'])} left"
    holds = "; ".join(f"held by {hold['by']} for {span_words(hold['until'] - now)}" for hold in seen["holds"])
    traffic = seen["traffic"]
    return Row(
        str(seen["node"]),
        "serving" if state == "ready" and traffic["running"] else state,
        max(now - float(seen["since"]), 0.0),
        str(next(iter(seen["models"]), "")),
        ", ".join(seen["gpus"]),
        traffic["running"],
        traffic["waiting"],
        "; ".join(words for words in (why, holds) if words),
    )


def _plain(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in Row.__slots__}


def picture(screen: Screen) -> Any:
    """Return what is drawn of a look."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for column in ("node", "state", "for", "model", "GPU", "requests", "last day", "why"):
        table.add_column(column, overflow="fold", no_wrap=column in ("state", "for", "last day"))
    for row in screen.rows:
        colour = "yellow" if row.state in _WAKING else _COLOURS.get(row.state, "default")
        requests = "" if row.running is None else str(row.running)
        if row.waiting:
            requests += f" + {row.waiting} waiting"
        table.add_row(
            Text(row.node, style="bold"),
            Text(f"● {row.state}", style=colour),
            span_words(row.since_seconds) if row.since_seconds is not None else "",
            Text(row.model),
            Text(row.gpus),
            requests,
            _strip(screen.days.get(_name(row.node))),
            Text(row.why),
        )
    lines: list[Any] = [table]
    if screen.savings is not None:
        saved = screen.savings
        money = f" = {saved.money:.2f} {saved.price.currency}" if saved.money is not None and saved.price else ""
        lines.append(Text(f"saved in 7 days: {saved.saved}{money}", style="green"))
    for entry in screen.events:
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at))
        step = f"{entry.facts['step']} " if entry.facts.get("step") else ""
        words = f"{clock}  {entry.kind.value:7} {entry.node or ''} {step}{entry.phase} {entry.detail}".rstrip()
        lines.append(Text(words, style="red" if entry.phase == "failed" else "bright_black", overflow="ellipsis"))
    lines.append(Text(f"seen by {screen.through}; Ctrl-C ends this", style="bright_black"))
    return Group(*lines)


def _name(text: str) -> NodeName:
    from provisioner.domain.names import NodeName

    return NodeName(text)


def _strip(day: NodeDay | None) -> Any:
    """Draw a day in as many signs as it has hours."""
    from rich.text import Text

    found = Text()
    for kind in day_signs(day) if day is not None else ():
        sign, colour = _SIGNS.get(kind, ("·", "bright_black"))
        found.append(sign, style=colour)
    return found


def day_signs(day: NodeDay) -> tuple[str, ...]:
    """Return what each hour of a day is shown as, the oldest first: what was most of it, and what is rare anyway."""
    from provisioner.domain.day import Stretch

    begins, ends = day.spans[0].begins, day.spans[-1].ends
    hour = (ends - begins) / _HOURS
    signs = []
    for number in range(_HOURS):
        left, right = begins + number * hour, begins + (number + 1) * hour
        shares = dict.fromkeys(Stretch, 0.0)
        for span in day.spans:
            shares[span.what] += max(min(span.ends, right) - max(span.begins, left), 0.0)
        if any(left <= failure.at < right for failure in day.failures):
            signs.append("failed")
        elif shares[Stretch.SERVING]:
            signs.append(Stretch.SERVING.value)
        else:
            signs.append(max(Stretch, key=lambda what: shares[what]).value)
    return tuple(signs)
