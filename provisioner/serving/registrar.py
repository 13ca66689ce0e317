"""Keeps the orchestrators told: after each change of nodes or modes, after each failure, and now and then anyway."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.orchestrator import OrchestratorName
from provisioner.domain.serving import Phase
from provisioner.errors import ProvisionerError, RefusedError
from provisioner.planning.registration import is_due
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.registering import Registering
from provisioner.services.world import World

_LOGGER = logging.getLogger("provisioner.registrar")
_TICK_SECONDS = 1.0
Modes = dict[NodeName, ModeName | None]


class Registrar:
    """A thread that ends when it is told to. Without orchestrators there is none."""

    def __init__(self, fleet: FleetSpec, world: World, keeper: Keeper, journal: Journal) -> None:
        self._fleet = fleet
        self._world = world
        self._keeper = keeper
        self._journal = journal
        self._registering = Registering(fleet, world)
        self._stopping = threading.Event()
        # What is secret may have changed since the last service: nobody can read there what was told.
        self._untold = set(fleet.orchestrators)
        self._failing: dict[OrchestratorName, bool] = {}
        self._modes: dict[OrchestratorName, Modes] = {}

    def start(self) -> None:
        """Begin."""
        if self._fleet.orchestrators:
            threading.Thread(target=self._run, name="registrar", daemon=True).start()

    def stop(self) -> None:
        """End after what is under way; nobody waits for that."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_SECONDS):
            try:
                self.tick()
            except ProvisionerError as error:
                _LOGGER.error("%s; on: %s; next: %s", error.summary, error.subject, error.next_step)  # noqa: TRY400
            except Exception:
                _LOGGER.exception("a turn of the registrar broke; the next one comes")

    def tick(self) -> None:
        """Tell whom it is time to tell."""
        for name in self._fleet.orchestrators:
            known, now = self._world.registrations.of(name), self._world.clock.now()
            seen = self._seen(known.nodes)
            if seen is None or not (is_due(known, seen, now) or self._is_untold(name) or self._is_switched(name, seen)):
                continue
            # What was seen last may be older than what a command has done, and told, since.
            nodes = self._registering.present()
            for node in set(seen) ^ set(nodes):
                self._keeper.doubt(node)
            if not (is_due(known, nodes, now) or self._is_untold(name) or self._is_switched(name, nodes)):
                continue
            if name in self._untold:
                report = self._registering.register_at(name, nodes)
            else:
                report = self._registering.refresh_at(name, nodes)
            if isinstance(report.error, RefusedError):
                # Another process is at it.
                continue
            self._untold.discard(name)
            self._modes[name] = self._modes_of(nodes)
            self._tell(name, report.title, report.nodes)

    def _is_untold(self, name: OrchestratorName) -> bool:
        return name in self._untold and self._world.registrations.of(name).failing_since is None

    def _is_switched(self, name: OrchestratorName, nodes: Iterable[NodeName]) -> bool:
        """Say whether a node is in another mode than when this orchestrator was told last: another engine answers."""
        is_failing = self._world.registrations.of(name).failing_since is not None
        return not is_failing and name in self._modes and self._modes[name] != self._modes_of(nodes)

    def _modes_of(self, nodes: Iterable[NodeName]) -> Modes:
        seen = self._keeper.seen()
        return {node: seen[node].mode for node in nodes}

    def _seen(self, registered: tuple[str, ...]) -> tuple[NodeName, ...] | None:
        """Return the nodes that exist, as last seen; None before anybody has looked at all.

        Of those that nobody can tell of just now, the registered ones do.
        """
        seen = self._keeper.seen()
        if all(now.phase is Phase.UNKNOWN for now in seen.values()):
            return None
        return tuple(
            name
            for name, now in seen.items()
            if now.phase is not Phase.ABSENT and (now.phase is not Phase.UNKNOWN or name in registered)
        )

    def _tell(self, name: OrchestratorName, title: str, nodes: tuple[str, ...]) -> None:
        known = self._world.registrations.of(name)
        fails = known.failing_since is not None
        if self._failing.get(name) != fails:
            # Once when it begins and once when it ends: a try every few minutes would fill the journal.
            what = f"not registered at {title}: {known.reason}" if fails else f"{title} knows: {', '.join(nodes)}"
            phase = "unregistered" if fails else "registered"
            self._journal.add(NewEntry(Kind.SERVICE, phase=phase, detail=what, by="registrar"))
        self._failing[name] = fails
