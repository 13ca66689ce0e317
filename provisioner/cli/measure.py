"""test, bench."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import Progress, print_json, print_result, print_table
from provisioner.domain.quantities import TIME_HELP, duration_text, parse_duration

if TYPE_CHECKING:
    from provisioner.domain.measurement import LevelFigures, Measurement

_MOST_STREAMS = 256


def _streams(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(each) for each in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= number <= _MOST_STREAMS for number in numbers):
        raise click.BadParameter(f"numbers from 1 to {_MOST_STREAMS} with commas between them, such as 1,4,16")
    return numbers


def duration(context: click.Context, parameter: click.Parameter, text: str) -> float:
    """Read a time with a unit; a bare number is seconds."""
    try:
        return parse_duration(text if text[-1:].isalpha() else f"{text}s")
    except ValueError:
        raise click.BadParameter(TIME_HELP) from None


@click.command(
    short_help="Check a node that is awake: card, driver, engine, speed.",
    epilog="Example: provisioner test llm-gpu-01 --survives-stop --write",
)
@click.argument("node")
@click.option("--smoke", is_flag=True, help="Only whether card, driver and engine work at all.")
@click.option("--mode", help="In this one of its modes (a tiny model's, say); the one before is brought back.")
@click.option("--survives-stop", is_flag=True, help="Stop and start the VM: does the card come back?")
@click.option("--write", is_flag=True, help="Write that verdict into the fleet file.")
@json_option
@pass_session
def test(session: Session, node: str, smoke: bool, mode: str | None, survives_stop: bool, write: bool) -> None:
    """Check a node that is awake: card, driver, engine on the GPU, first token, speed. Exit code 1 when one fails."""
    if write and not survives_stop:
        raise click.UsageError("--write goes with --survives-stop")
    fleet = session.fleet()
    if survives_stop or mode is not None:
        from provisioner.remote import require_no_service

        # Here a request cannot be kept waiting at the gate that the service has.
        require_no_service(fleet, "stop its VM" if survives_stop else "test it in a mode")
    if survives_stop:
        with Progress(as_json=session.json) as progress:
            verdict = fleet.survives_stop(node, on_event=progress)
        if write:
            fleet.write_survival(verdict)
        written = "written into the fleet file" if write else "--write puts that into the fleet file"
        sentence = "\n".join((verdict.reason, *verdict.lines, written))
        print_result(verdict.as_dict() | {"written": write}, sentence, as_json=session.json)
        if not verdict.survived:
            click.echo(f"next: restart {verdict.hypervisor}, then provisioner wake {node}", err=True)
            sys.exit(1)
    with Progress(as_json=session.json) as progress:
        report = fleet.test(node, smoke=smoke, mode=mode, on_event=progress)
    if session.json:
        print_json({"result": report.as_dict()})
    else:
        for check in report.checks:
            click.echo(str(check))
        click.echo(f"{report.node} in mode {report.mode}: {'failed' if report.has_failed else 'passed'}")
    if report.has_failed:
        sys.exit(1)


@click.command(
    short_help="Measure time to first token and tokens per second.",
    epilog="Example: provisioner bench llm-gpu-01 --streams 1,8,32 --seconds 30",
)
@click.argument("node")
@click.option(
    "--streams", default="1,4,16", show_default=True, callback=_streams, help="Clients at once, level by level."
)
@click.option("--seconds", default="10", show_default=True, callback=duration, help="How long each level lasts.")
@json_option
@pass_session
def bench(session: Session, node: str, streams: tuple[int, ...], seconds: float) -> None:
    """Measure time to first token and tokens per second; the figures are kept, and `test` compares with them."""
    fleet = session.fleet()
    with Progress(as_json=session.json) as progress:
        report = fleet.bench(node, streams=streams, seconds=seconds, on_event=progress)
    if session.json:
        print_json({"result": report.as_dict()})
        return
    click.echo(f"{report.node} in mode {report.mode}: {report.model}")
    columns = ("streams", "first token p50", "p95", "tokens/s each p50", "p5", "tokens/s in all", "replies", "before")
    rows = [_row(level, before) for level, before in zip(report.levels, report.earlier, strict=True)]
    print_table(columns, rows)


def _row(level: LevelFigures, before: Measurement | None) -> tuple[str, ...]:
    return (
        str(level.streams),
        duration_text(level.first_token_p50),
        duration_text(level.first_token_p95),
        f"{level.rate_p50:.1f}",
        f"{level.rate_p5:.1f}",
        f"{level.total_rate:.1f}",
        str(level.replies),
        f"{before.figures['tokens_per_second_total']:.1f}" if before is not None else "–",
    )
