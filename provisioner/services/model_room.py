"""Fetches models into an engine's store, after a look at the room that their disk has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from provisioner.errors import ProvisionerError
from provisioner.ports.guest_shell import GuestAway, GuestShell
from provisioner.services.outcomes import Outcome
from provisioner.services.proving import EngineProbe

MODEL_CACHE = "/var/lib/llm"
"""Where the guest keeps models; a disk of its own, where it has one."""
_SECONDS = 10.0


def fetch_models(
    probe: EngineProbe,
    models: tuple[str, ...],
    open_shell: Callable[[], AbstractContextManager[GuestShell]],
    say: Callable[[str], None],
) -> Outcome:
    """Fetch the models that are not there. Raises EngineError.

    Args:
        probe: looks at the engine, which takes requests.
        models: their names.
        open_shell: a way into the guest, to ask how much room there is; without it nobody asks.
        say: told how far it is.
    """
    fetched = probe.store(lambda: _free_bytes(open_shell)).ensure(models, say)
    return Outcome(bool(fetched), f"fetched {', '.join(fetched)}" if fetched else "they are there")


def _free_bytes(open_shell: Callable[[], AbstractContextManager[GuestShell]]) -> int | None:
    try:
        with open_shell() as shell:
            result = shell.run(["df", "--output=avail", "--block-size=1", MODEL_CACHE], seconds=_SECONDS)
    except (ProvisionerError, GuestAway):
        return None
    last = result.out.split()[-1:]
    return int(last[0]) if result.exit_code == 0 and last and last[0].isdigit() else None
