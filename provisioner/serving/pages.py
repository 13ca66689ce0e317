"""Wires the fleet page to what this process knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provisioner.api.control import Control
from provisioner.domain.callers import Callers
from provisioner.domain.gpu_reading import GpuReading
from provisioner.domain.names import NodeName
from provisioner.domain.savings import Savings
from provisioner.fleet import Fleet
from provisioner.page.app import Page
from provisioner.page.views import Views
from provisioner.services.day_history import DayHistory, RequestTimes
from provisioner.services.gauging import Gauging
from provisioner.services.power_trail import PowerTrail
from provisioner.services.savings import fleet_savings


class Pages:
    """The page, and what it remembers of power: `turn` takes that down."""

    def __init__(
        self,
        fleet: Fleet,
        control: Control,
        callers: Callers,
        ledger: RequestTimes,
        gauging: Gauging,
        *,
        models: Sequence[str],
        version: str,
    ) -> None:
        """Wire it.

        Args:
            fleet: whose page it is.
            control: what the API knows and does.
            callers: the tokens.
            ledger: the record of requests.
            gauging: what the GPUs say.
            models: what can be asked for.
            version: our own.
        """
        self._fleet = fleet
        self._gauging = gauging
        clock = fleet.world.clock
        self._power = PowerTrail(self._watts, clock)
        views = Views(
            fleet.spec,
            control,
            DayHistory(control.journal, ledger, clock),
            models,
            savings=self._savings,
            readings=self._readings,
            power=self._power,
        )
        is_secure = fleet.spec.service.tls is not None
        self.page = Page(views, control, callers, clock.now, version=version, is_secure=is_secure)

    def turn(self) -> None:
        """Take down what the GPUs draw."""
        self._power.turn()

    def _watts(self) -> Mapping[NodeName, float]:
        return {name: gauge.watts for name, gauge in self._gauging.fresh().items() if gauge.watts is not None}

    def _readings(self, node: NodeName) -> Sequence[GpuReading]:
        gauge = self._gauging.fresh().get(node)
        return gauge.gpus if gauge is not None else ()

    def _savings(self, days: int | None) -> Savings:
        world = self._fleet.world
        return fleet_savings(self._fleet.spec, world.times, now=world.clock.now(), days=days)
