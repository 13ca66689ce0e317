"""Tables and progress for people, JSON lines for programs."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from provisioner.errors import ProvisionerError

if TYPE_CHECKING:
    from provisioner.services.events import Event


def print_json(value: object) -> None:
    """Print one object on one line, at once."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))
    sys.stdout.flush()


def print_error(error: ProvisionerError, *, as_json: bool, node: str | None = None) -> None:
    """Say what happened, on what, and what to do next: on stderr, and for programs on stdout too.

    Args:
        error: what happened; it may speak of a cluster that many nodes share.
        as_json: a program reads.
        node: whose failure it is, where a command works on several.
    """
    if as_json:
        print_json(({"node": node} if node else {}) | error.as_dict())
    click.echo(click.style("error: ", fg="red", bold=True) + error.summary, err=True)
    whose = f'node "{node}", ' if node and node not in error.subject else ""
    click.echo(f"   on: {whose}{error.subject}", err=True)
    click.echo(click.style(" next: ", fg="cyan") + error.next_step, err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that fits the terminal; without a terminal, nothing is cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


class Progress:
    """Shows events as they come: a live line per node on a terminal, plain lines elsewhere, JSON on request."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._live = not as_json and sys.stdout.isatty()
        self._lock = threading.Lock()
        self._status: Any = None
        self._running: dict[str, tuple[str, str, float]] = {}

    def __enter__(self) -> Progress:
        if self._live:
            from rich.console import Console
            from rich.live import Live

            self._status = Live(console=Console(), refresh_per_second=8, transient=True, get_renderable=self._picture)
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: Event) -> None:
        """Show one event. Nodes may report from several threads."""
        with self._lock:
            try:
                if self._as_json:
                    print_json({"event": event.as_dict()})
                elif self._live:
                    self._show_live(event)
                elif event.phase.value != "started":
                    click.echo(_line(event))
                    sys.stdout.flush()
            except BrokenPipeError:
                _go_on_unread()

    def _show_live(self, event: Event) -> None:
        if event.phase.value in ("started", "progress"):
            started = time.monotonic() - event.seconds
            self._running[event.node] = (event.step, event.detail, started)
        else:
            self._running.pop(event.node, None)
            self._status.console.print(_line(event), markup=False, highlight=False)

    def _picture(self) -> Any:
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        for node, (step, detail, started) in dict(self._running).items():
            grid.add_row("…", node, step, f"{time.monotonic() - started:5.1f} s", detail)
        return grid


def _go_on_unread() -> None:
    """Let all further output go nowhere: a reader that has gone (| head) does not mean that the work should stop."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    click.echo("nobody reads the output any more; the work goes on", err=True)


def _line(event: Event) -> str:
    marks = {"done": "✔" if event.changed else "=", "failed": "✘", "progress": "·", "started": "·"}
    seconds = f" ({event.seconds:.1f} s)" if event.phase.value in ("done", "failed") else ""
    detail = f": {event.detail.splitlines()[0]}" if event.detail else ""
    return f"{marks[event.phase.value]} {event.node} {event.step}{seconds}{detail}"


def print_result(value: Mapping[str, object], sentence: str, *, as_json: bool) -> None:
    """Print a command's result: an object for programs, a sentence for people."""
    if as_json:
        print_json({"result": value})
    else:
        click.echo(sentence)
