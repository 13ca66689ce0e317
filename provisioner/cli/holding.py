"""hold, release."""

from __future__ import annotations

import time

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_result
from provisioner.domain.quantities import TIME_HELP, duration_text, parse_duration


def _time(context: click.Context, parameter: click.Parameter, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: {TIME_HELP}") from None


def _me() -> str:
    """Return the login name of whoever types; a container may not know one."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


_by = click.option("--by", metavar="NAME", default=_me, help="Whose hold it is [default: your login name].")


@click.command(
    short_help="Keep a node as it is for a while.",
    epilog='Example: provisioner hold llm-gpu-01 --for 2h --why "fine-tuning"',
)
@click.argument("node")
@click.option("--for", "seconds", metavar="TIME", required=True, callback=_time, help=f"How long; {TIME_HELP}.")
@_by
@click.option("--why", metavar="TEXT", default="", help="What others are told whom it stops.")
@json_option
@pass_session
def hold(session: Session, node: str, seconds: float, by: str, why: str) -> None:
    """Keep a node as it is for a while: it is not put to sleep, gives no GPU away, and is not destroyed.

    A node that sleeps is not woken. Holding it again replaces your last hold on it.
    """
    made = session.fleet().hold(node, seconds=seconds, by=by, why=why)
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(made.until))
    sentence = f"{node} is held by {made.by} for {duration_text(seconds)}, until {until}{f': {why}' if why else ''}"
    print_result(made.as_dict(), sentence, as_json=session.json)


@click.command(epilog="Example: provisioner release llm-gpu-01")
@click.argument("node")
@_by
@json_option
@pass_session
def release(session: Session, node: str, by: str) -> None:
    """End your hold on a node. Refuses, and says who holds it, if you do not."""
    others = session.fleet().release(node, by=by)
    still = f"; still held by {', '.join(hold.by for hold in others)}" if others else ""
    value = {"node": node, "by": by, "still_held_by": [hold.as_dict() for hold in others]}
    print_result(value, f"{node} is no longer held by {by}{still}", as_json=session.json)
