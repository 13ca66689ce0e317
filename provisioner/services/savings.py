"""What the fleet's sleep saved, as `status`, the page and the API tell it; and the counting of it."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import NodeName
from provisioner.domain.savings import NodePower, Savings, savings
from provisioner.ports.time_book import TimeBook

DAY_SECONDS = 86400.0


def fleet_savings(fleet: FleetSpec, book: TimeBook, *, now: float, days: int | None = None) -> Savings:
    """Return what was saved.

    Args:
        fleet: whose nodes, watts and price.
        book: what was counted (`World.times`).
        now: UNIX seconds.
        days: how many days (UTC), today among them; None for as long as anybody has counted.

    Raises:
        InputError: what was counted cannot be read.
    """
    begins = book.begins()
    today = now - now % DAY_SECONDS
    since = begins if days is None else today - (days - 1) * DAY_SECONDS
    since = now if since is None else min(since, now)
    return savings(
        book.total(since), node_powers(fleet), fleet.electricity, since=since, until=now, counted_since=begins
    )


def node_powers(fleet: FleetSpec) -> dict[NodeName, NodePower]:
    """Return what the fleet file says of each node's power."""
    return {name: NodePower(len(node.gpus), node.idle_watts, node.asleep_watts) for name, node in fleet.nodes.items()}
