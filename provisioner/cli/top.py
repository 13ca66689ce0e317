"""top."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.measure import duration
from provisioner.cli.output import print_json
from provisioner.domain.quantities import GIB

if TYPE_CHECKING:
    from provisioner.domain.gpu_reading import GpuReading
    from provisioner.domain.node_sample import NodeSample

_COLUMNS = ("node", "state", "requests", "tokens/s", "load", "memory", "GPU", "busy", "GPU memory", "heat", "power")
_NOTHING = "–"


@click.command(epilog="Example: provisioner top llm-gpu-01 --interval 5s --csv gpu.csv")
@click.argument("nodes", nargs=-1)
@click.option("--interval", default="2s", show_default=True, callback=duration, help="From one look to the next.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), help="Append every sample there.")
@click.option("--once", is_flag=True, help="One look only.")
@json_option
@pass_session
def top(session: Session, nodes: tuple[str, ...], interval: float, csv_file: Path | None, once: bool) -> None:
    """Watch GPUs and engines, of all nodes or of some, until Ctrl-C. A node that is off is shown so, and not woken."""
    from provisioner.adapters.files.csv_log import CsvLog
    from provisioner.domain.node_sample import COLUMNS

    fleet = session.fleet()
    with ExitStack() as stack:
        rows = stack.enter_context(CsvLog(csv_file, COLUMNS)) if csv_file is not None else None
        show = stack.enter_context(_Screen(as_json=session.json, is_live=not once))
        samples = stack.enter_context(closing(fleet.watch(nodes, interval=interval, rounds=1 if once else None)))
        try:
            for each in samples:
                show(each)
                if rows is not None:
                    rows.write(row for sample in each for row in sample.rows())
        except KeyboardInterrupt:
            # That is how it is meant to end.
            return


class _Screen:
    """A table that is drawn anew on a terminal, plain lines elsewhere, JSON on request."""

    def __init__(self, *, as_json: bool, is_live: bool) -> None:
        self._as_json = as_json
        self._is_live = is_live and not as_json and sys.stdout.isatty()
        self._is_table = not as_json and sys.stdout.isatty()
        self._live: Any = None

    def __enter__(self) -> _Screen:
        if self._is_live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, samples: tuple[NodeSample, ...]) -> None:
        """Show one look."""
        if self._as_json:
            for sample in samples:
                print_json({"sample": sample.as_dict()})
        elif self._live is not None:
            self._live.update(_table(samples), refresh=True)
        elif self._is_table:
            from rich.console import Console

            Console().print(_table(samples))
        else:
            for sample in samples:
                for row in _cells(sample):
                    click.echo("  ".join(each for each in (str(next(sample.rows())[0]), *row) if each != _NOTHING))


def _table(samples: tuple[NodeSample, ...]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for sample in samples:
        for row in _cells(sample):
            table.add_row(*row)
    return table


def _cells(sample: NodeSample) -> list[tuple[str, ...]]:
    """Return a line for every GPU; what is the node's stands on its first."""
    numbers = sample.numbers
    requests = _NOTHING
    if sample.running is not None:
        requests = f"{sample.running} + {sample.waiting} waiting" if sample.waiting else str(sample.running)
    own = (
        sample.node,
        f"{sample.state}: {sample.reason}" if sample.reason else sample.state,
        requests,
        _NOTHING if sample.tokens_per_second is None else f"{sample.tokens_per_second:.1f}",
        _NOTHING if numbers.load is None else f"{numbers.load:.2f}",
        _share(numbers.memory_used_bytes, numbers.memory_bytes),
    )
    if not sample.gpus:
        return [(*own, *([_NOTHING] * 5))]
    blank = ("",) * len(own)
    return [(*(blank if at else own), *_card(gpu)) for at, gpu in enumerate(sample.gpus)]


def _card(gpu: GpuReading) -> tuple[str, ...]:
    name = (gpu.name or "?").removeprefix("NVIDIA ")
    return (
        f"{'' if gpu.index is None else gpu.index} {name}".strip(),
        _NOTHING if gpu.utilization_percent is None else f"{gpu.utilization_percent:.0f} %",
        _share(gpu.memory_used_bytes, gpu.memory_bytes),
        _NOTHING if gpu.temperature_celsius is None else f"{gpu.temperature_celsius:.0f} °C",
        _NOTHING if gpu.power_watts is None else f"{gpu.power_watts:.0f} W",
    )


def _share(used: int | None, total: int | None) -> str:
    if used is None or total is None:
        return _NOTHING
    return f"{used / GIB:.1f} of {total / GIB:.1f} GiB"
