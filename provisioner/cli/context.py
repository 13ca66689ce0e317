"""What commands share: the fleet file they were given, and whether a person or a program reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from provisioner.errors import InputError

if TYPE_CHECKING:
    from provisioner.fleet import Fleet
    from provisioner.remote import Power

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """One run of the command."""

    fleet_file: Path | None
    debug: bool
    json: bool = False

    def fleet(self) -> Fleet:
        """Load the fleet file. Raises InputError."""
        from provisioner.fleet import Fleet

        return Fleet.load(self.fleet_file)

    def power(self) -> Power:
        """Load the fleet file; return who acts on the fleet: the service that runs for it, else the fleet itself."""
        from provisioner.remote import power_over

        return power_over(self.fleet())


pass_session = click.make_pass_decorator(Session)


@contextmanager
def lab_extra() -> Iterator[None]:
    """Say what to install when the lab's own packages are missing. Raises InputError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"cannot run the embedded Proxmox: the Python package {error.name} is missing",
            subject="provisioner lab",
            next_step="pip install 'provisioner[lab]'",
        ) from error


def json_option(command: _Command) -> _Command:
    """Give a command ``--json``."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
        context.ensure_object(Session).json = value
        return value

    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON for programs, line by line."
    )
    return option(command)
