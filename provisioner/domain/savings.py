"""What sleeping saves: hours, energy and money of each node over a period, against the same nodes always on.

Energy is that of a node's GPUs: its hypervisor runs either way. What the driver measured is marked as measured; the
rest comes from watts that the fleet file gives, or from assumed ones, and is marked as that. Pure arithmetic, which
every result repeats in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import Enum

from provisioner.domain.names import NodeName
from provisioner.domain.quantities import duration_text

_HOUR = 3600.0
_JOULES_PER_KWH = 3.6e6
# Idle readings of consumer cards from captures of nvidia-smi lie between 26 and 39 W, with nothing loaded.
ASSUMED_IDLE_WATTS = 30.0
# Of a card that no driver holds nobody publishes figures: half of idle, until somebody reads a meter.
ASSUMED_ASLEEP_WATTS = 15.0
# A mean of less is that of a model being loaded.
_ENOUGH_IDLE_SECONDS = 600.0


# A boot before the first reading: whatever it is valued at, it changes no figure that is shown.
_UNMEASURED_SHARE = 0.05


class Basis(Enum):
    """Where a figure of energy comes from."""

    MEASURED = "measured"
    """The driver's own readings, for all but moments."""
    PROJECTED = "projected"
    """Partly or wholly from watts that the driver measured at other times."""
    GIVEN = "given"
    """Partly or wholly from watts in the fleet file."""
    ASSUMED = "assumed"
    """Partly or wholly from watts that nobody has measured here."""
    NONE = "none"
    """Nothing is known: it has no GPU, and the fleet file gives no watts."""

    @property
    def is_estimated(self) -> bool:
        """Something other than a measurement is in it."""
        return self is not Basis.MEASURED


_SURE = Basis.MEASURED
_WEAKEST_LAST = (Basis.MEASURED, Basis.PROJECTED, Basis.GIVEN, Basis.ASSUMED)


_MARKS = {
    Basis.MEASURED: "measured",
    Basis.PROJECTED: "estimated from measured watts",
    Basis.GIVEN: "estimated from given watts",
    Basis.ASSUMED: "estimated from assumed watts",
    Basis.NONE: "unknown",
}


@dataclass(frozen=True, slots=True)
class CountedTime:
    """What was counted of one node, in seconds and joules.

    `spared_seconds` is the part of `asleep_seconds` in which its GPUs were at rest because of it: none of them was
    with another VM, and none is counted for another node already. `measured_*` is the part of the time awake whose
    power was read; `idle_*` the part of that in which nobody used the node.
    """

    awake_seconds: float = 0.0
    asleep_seconds: float = 0.0
    spared_seconds: float = 0.0
    unknown_seconds: float = 0.0
    measured_seconds: float = 0.0
    measured_joules: float = 0.0
    idle_seconds: float = 0.0
    idle_joules: float = 0.0

    @property
    def unmeasured_seconds(self) -> float:
        """Time awake whose power was not read."""
        return max(self.awake_seconds - self.measured_seconds, 0.0)

    @property
    def all_seconds(self) -> float:
        """Time that was counted."""
        return self.awake_seconds + self.asleep_seconds + self.unknown_seconds

    def __add__(self, other: CountedTime) -> CountedTime:
        return CountedTime(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(CountedTime)))


@dataclass(frozen=True, slots=True)
class NodePower:
    """What the fleet file says of a node's power. None: it says nothing."""

    gpus: int
    idle_watts: float | None = None
    """Awake, with nothing to do."""
    asleep_watts: float | None = None
    """Its VM off."""


@dataclass(frozen=True, slots=True)
class Price:
    """What electricity costs."""

    per_kwh: float
    currency: str

    def __str__(self) -> str:
        return f"{self.per_kwh:g} {self.currency}/kWh"


_PRICE = re.compile(r"(\d{1,6}(?:\.\d+)?)\s?([A-Z]{3})\s?/\s?kWh")
PRICE_HELP = "a price with its currency, such as 0.30 EUR/kWh"


def parse_price(text: str) -> Price:
    """Read ``0.30 EUR/kWh``. Raises ValueError that says what is allowed."""
    match = _PRICE.fullmatch(text.strip())
    if match is None:
        raise ValueError(PRICE_HELP)
    return Price(float(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class Energy:
    """Some energy, and where its figure comes from."""

    kwh: float
    basis: Basis

    def __str__(self) -> str:
        return f"{self.kwh:.2f} kWh ({_MARKS[self.basis]})"

    @property
    def joules(self) -> float:
        """The same in base units."""
        return self.kwh * _JOULES_PER_KWH

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json`` and the API."""
        return {"kwh": round(self.kwh, 6), "basis": self.basis.value, "estimated": self.basis.is_estimated}


@dataclass(frozen=True, slots=True)
class Watts:
    """A power, and where its figure comes from."""

    watts: float
    basis: Basis
    words: str

    def __str__(self) -> str:
        return f"{self.watts:.0f} W {self.words}"


@dataclass(frozen=True, slots=True)
class NodeSavings:
    """One node over the period. `idle` and `asleep` is what it draws then; `price` is None where none is configured."""

    node: NodeName
    counted: CountedTime
    idle: Watts
    asleep: Watts
    used: Energy
    always_on: Energy
    saved: Energy
    price: Price | None

    @property
    def money(self) -> float | None:
        """What was saved, in the price's currency; None without a price."""
        return None if self.price is None else self.saved.kwh * self.price.per_kwh

    @property
    def words(self) -> tuple[str, ...]:
        """The arithmetic."""
        counted, saved = self.counted, self.saved
        if self.idle.basis is Basis.NONE:
            return _hours_words(counted), "no energy: it has no GPU, and the fleet file gives no idle_power"
        words = [
            _hours_words(counted),
            f"awake: {counted.measured_joules / _JOULES_PER_KWH:.2f} kWh measured over "
            f"{duration_text(counted.measured_seconds)}, {duration_text(counted.unmeasured_seconds)} at {self.idle}",
            f"asleep with its GPUs at rest: {counted.spared_seconds / _HOUR:.1f} h x ({self.idle} - {self.asleep}) "
            f"= {saved.kwh:.2f} kWh saved",
        ]
        if self.price is not None and self.money is not None:
            words.append(f"{saved.kwh:.2f} kWh x {self.price} = {self.money:.2f} {self.price.currency}")
        return tuple(words)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json`` and the API."""
        return {
            "node": self.node,
            "awake_seconds": round(self.counted.awake_seconds, 1),
            "asleep_seconds": round(self.counted.asleep_seconds, 1),
            "spared_seconds": round(self.counted.spared_seconds, 1),
            "unknown_seconds": round(self.counted.unknown_seconds, 1),
            "used": self.used.as_dict(),
            "always_on": self.always_on.as_dict(),
            "saved": self.saved.as_dict(),
            "money": None if self.money is None else round(self.money, 4),
            "words": list(self.words),
        }


@dataclass(frozen=True, slots=True)
class Savings:
    """The fleet over a period (UNIX seconds). `counted_since` is when counting began, if that is within it."""

    since: float
    until: float
    nodes: tuple[NodeSavings, ...]
    price: Price | None
    counted_since: float | None = None

    @property
    def used(self) -> Energy:
        """What the nodes used."""
        return _sum(each.used for each in self.nodes)

    @property
    def always_on(self) -> Energy:
        """What they would have used without sleep."""
        return _sum(each.always_on for each in self.nodes)

    @property
    def saved(self) -> Energy:
        """The difference."""
        return _sum(each.saved for each in self.nodes)

    @property
    def money(self) -> float | None:
        """What was saved, in the price's currency; None without a price."""
        return None if self.price is None else self.saved.kwh * self.price.per_kwh

    @property
    def counted_seconds(self) -> float:
        """For how much of the period anybody has counted: while no control service runs, nobody does."""
        return max((each.counted.all_seconds for each in self.nodes), default=0.0)

    @property
    def words(self) -> tuple[str, ...]:
        """The arithmetic of the whole fleet."""
        began = self.since if self.counted_since is None else max(self.since, self.counted_since)
        hours = self.counted_seconds / _HOUR
        lines = [
            f"from {_moment(began)} to {_moment(self.until)}, of which {hours:.1f} h are counted",
            f"always on: {self.always_on}",
            f"as it was: {self.used}",
            f"saved: {self.saved}",
        ]
        if self.price is not None:
            lines.append(f"{self.saved.kwh:.2f} kWh x {self.price} = {self.money:.2f} {self.price.currency}")
        else:
            lines.append("no money without a price: electricity: {price: 0.30 EUR/kWh} in the fleet file")
        lines.append("energy is that of the GPUs: the hypervisor runs either way")
        return tuple(lines)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json`` and the API."""
        return {
            "since": self.since,
            "until": self.until,
            "counted_since": self.counted_since,
            "counted_seconds": round(self.counted_seconds, 1),
            "price_per_kwh": self.price.per_kwh if self.price else None,
            "currency": self.price.currency if self.price else None,
            "used": self.used.as_dict(),
            "always_on": self.always_on.as_dict(),
            "saved": self.saved.as_dict(),
            "money": None if self.money is None else round(self.money, 4),
            "words": list(self.words),
            "nodes": [each.as_dict() for each in self.nodes],
        }


def savings(
    counted: Mapping[NodeName, CountedTime],
    power: Mapping[NodeName, NodePower],
    price: Price | None,
    *,
    since: float,
    until: float,
    counted_since: float | None = None,
) -> Savings:
    """Return what sleeping saved.

    Args:
        counted: what was counted in the period; a node that is missing was never looked at.
        power: every node of the fleet.
        price: of electricity.
        since: the beginning of the period, in UNIX seconds.
        until: its end.
        counted_since: when counting began, UNIX seconds; None for never.
    """
    nodes = tuple(node_savings(name, counted.get(name, CountedTime()), each, price) for name, each in power.items())
    return Savings(since, until, nodes, price, counted_since)


def node_savings(node: NodeName, counted: CountedTime, power: NodePower, price: Price | None) -> NodeSavings:
    """Return what one node's sleep saved."""
    idle, asleep = _idle(counted, power), _asleep(power)
    if idle.basis is Basis.NONE:
        nothing = Energy(0.0, Basis.NONE)
        return NodeSavings(node, counted, idle, asleep, nothing, nothing, nothing, price)
    spared, unmeasured = counted.spared_seconds, counted.unmeasured_seconds
    awake = counted.measured_joules + unmeasured * idle.watts
    awake_basis = idle.basis if unmeasured > _UNMEASURED_SHARE * counted.awake_seconds else Basis.MEASURED
    asleep_basis, idle_basis = (asleep.basis, idle.basis) if spared else (None, None)
    return NodeSavings(
        node,
        counted,
        idle,
        asleep,
        Energy((awake + spared * asleep.watts) / _JOULES_PER_KWH, _weakest(awake_basis, asleep_basis)),
        Energy((awake + spared * idle.watts) / _JOULES_PER_KWH, _weakest(awake_basis, idle_basis)),
        Energy(spared * (idle.watts - asleep.watts) / _JOULES_PER_KWH, _weakest(idle_basis, asleep_basis, _SURE)),
        price,
    )


def _idle(counted: CountedTime, power: NodePower) -> Watts:
    if counted.idle_seconds >= _ENOUGH_IDLE_SECONDS:
        return Watts(counted.idle_joules / counted.idle_seconds, Basis.PROJECTED, "measured idle")
    if power.idle_watts is not None:
        return Watts(power.idle_watts, Basis.GIVEN, "given for idle")
    if not power.gpus:
        return Watts(0.0, Basis.NONE, "")
    return Watts(ASSUMED_IDLE_WATTS * power.gpus, Basis.ASSUMED, "assumed for idle")


def _asleep(power: NodePower) -> Watts:
    if power.asleep_watts is not None:
        return Watts(power.asleep_watts, Basis.GIVEN, "given for asleep")
    return Watts(ASSUMED_ASLEEP_WATTS * power.gpus, Basis.ASSUMED, "assumed for asleep")


def _weakest(*found: Basis | None) -> Basis:
    known = [each for each in found if each is not None and each is not Basis.NONE]
    return max(known, key=_WEAKEST_LAST.index) if known else Basis.NONE


def _sum(energies: Iterable[Energy]) -> Energy:
    found = tuple(energies)
    telling = (each.basis for each in found if each.kwh)
    return Energy(sum(each.kwh for each in found), _weakest(*(telling if any(each.kwh for each in found) else ())))


def _hours_words(counted: CountedTime) -> str:
    parts = [f"awake {counted.awake_seconds / _HOUR:.1f} h", f"asleep {counted.asleep_seconds / _HOUR:.1f} h"]
    taken = counted.asleep_seconds - counted.spared_seconds
    if taken > 1.0:
        parts.append(f"{taken / _HOUR:.1f} h of it while another used its GPUs, or was counted for them")
    if counted.unknown_seconds > 1.0:
        parts.append(f"unknown {counted.unknown_seconds / _HOUR:.1f} h")
    return ", ".join(parts)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
