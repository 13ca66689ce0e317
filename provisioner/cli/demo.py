"""demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.context import Session, json_option, lab_extra, pass_session
from provisioner.cli.output import print_json, print_table
from provisioner.domain.quantities import duration_text

if TYPE_CHECKING:
    from provisioner.demo.report import Report, Stage


class ScreenNarrator:
    """Tells the demonstration on a screen: stdout for people, stderr when stdout is for programs."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr = to_stderr

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self._print(click.style(f"▶ {stage}", bold=True))

    def say(self, sentence: str) -> None:
        """Something happened inside a stage."""
        self._print(f"    {sentence.splitlines()[0] if sentence else ''}")

    def end(self, stage: Stage) -> None:
        """A stage is over."""
        detail = f": {stage.detail}" if stage.detail else ""
        self._print(click.style(f"  {duration_text(stage.seconds)}{detail}", fg="green"))

    def _print(self, text: str) -> None:
        click.echo(text, err=self._to_stderr)
        (sys.stderr if self._to_stderr else sys.stdout).flush()


@click.command(
    short_help="Walk the whole path on this machine; nothing is left running.",
    epilog="Example: provisioner demo --backend simulated",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "qemu", "simulated"]),
    default="auto",
    help="Real QEMU guests or simulated ones; auto takes real ones where QEMU is installed.",
)
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Where built images are kept.")
@json_option
@pass_session
def demo(session: Session, backend: str, cache: Path | None) -> None:
    """Walk the whole path on this machine: fleet file, VM, chat, sleep, wake, chat, nothing left running."""
    from provisioner.adapters.system_clock import SystemClock

    with lab_extra():
        import aiohttp  # noqa: F401 - the lab runs in a process of its own; what it lacks is better said here
        import gguf  # noqa: F401

        from provisioner.demo.run import run_demo
        from provisioner.lab import host_packages
        from provisioner.lab.images.store import default_cache_dir

    narrator = ScreenNarrator(to_stderr=session.json)
    if backend == "auto":
        missing = [package.name for package in host_packages.missing()]
        backend = "simulated" if missing else "qemu"
        if missing:
            narrator.say(f"missing for real guests: {', '.join(missing)}")
            narrator.say("going on with simulated guests, which run no software; for real ones: make lab-packages")
    report = run_demo(backend, cache or default_cache_dir(), SystemClock(), narrator)
    if session.json:
        print_json(report.as_dict())
    else:
        _print_report(report)
    if report.left_running:
        sys.exit(1)


def _print_report(report: Report) -> None:
    click.echo()
    rows = [(stage.name, f"{stage.seconds:.1f}", stage.detail) for stage in report.stages]
    print_table(("stage", "seconds", ""), [*rows, ("all", f"{report.seconds:.1f}", "")])
    click.echo(f"model's reply:   {report.reply}")
    click.echo(f"after the wake:  {report.reply_after_wake}")
    click.echo(
        f"wake:            {duration_text(report.wake_seconds)}, of which {report.wake_added_seconds * 1000:.0f} ms "
        f"after the engine was ready; {report.wake_calls} API calls"
    )
    left = "; ".join(report.left_running) or "nothing"
    click.echo(f"left running:    {left}")
