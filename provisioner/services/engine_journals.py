"""Reads what an engine says of itself: its unit's journal, once or as it goes on."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.journal import JournalLine, read_journal_line
from provisioner.domain.quantities import parse_duration
from provisioner.errors import GuestError, InputError
from provisioner.ports.guest_shell import GuestShell
from provisioner.services.deployments import unit_of
from provisioner.services.entering import Entering
from provisioner.services.world import World

# A journal of gigabytes on a slow disk.
_READ_SECONDS = 60.0


class EngineJournals:
    """`logs`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._entering = Entering(fleet, world)

    def lines(
        self, node: NodeSpec, *, count: int = 50, since: str | None = None, follow: bool = False
    ) -> Generator[JournalLine, None, None]:
        """Yield the last lines, oldest first, over one SSH connection.

        Args:
            node: whose engine.
            count: how many of those that are there.
            since: only later ones: a time back such as ``20m``, or what journalctl understands.
            follow: then go on with new ones, until the caller stops or the guest goes away.

        Raises:
            InputError: `since` is no time.
            NotReadyError: the node is off.
            GuestError: the guest does not let us read.
        """
        unit = unit_of(self._fleet, self._world, node)
        base = ["journalctl", "--unit", unit, "--no-pager", "--output", "json"]
        with self._entering.shell(node) as shell:
            cursor = ""
            for line in self._there(shell, node, [*base, f"--lines={count}", *_since(since)]):
                cursor = line.cursor or cursor
                yield line
            if follow:
                after = [f"--after-cursor={cursor}", "--lines=all"] if cursor else ["--lines=0"]
                for text in shell.lines([*base, "--follow", *after], privileged=True):
                    later = read_journal_line(text)
                    if later is not None:
                        yield later

    @staticmethod
    def _there(shell: GuestShell, node: NodeSpec, command: list[str]) -> Iterator[JournalLine]:
        result = shell.run(command, seconds=_READ_SECONDS, privileged=True)
        if result.exit_code != 0:
            words = result.err.strip() or result.out.strip() or f"exit code {result.exit_code}"
            if "parse timestamp" in words:
                raise InputError(
                    f"cannot read the time: {words}",
                    subject="--since",
                    next_step='give a time back such as 20m or 2h, or a moment such as "2026-11-21 09:30"',
                )
            raise GuestError(
                f"cannot read the engine's journal: {words}",
                subject=node.subject,
                next_step=f"provisioner ssh {node.name} -- {' '.join(command[:3])}",
            )
        for text in result.out.splitlines():
            line = read_journal_line(text)
            if line is not None:
                yield line


def _since(text: str | None) -> list[str]:
    if text is None:
        return []
    try:
        return [f"--since=-{parse_duration(text):.0f}s"]
    except ValueError:
        return [f"--since={text}"]
