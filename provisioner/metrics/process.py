"""What prometheus_client tells of a process: memory, processor time, open files, collected garbage, Python."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@cache
def _registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def process_figures() -> str:
    """Return them in Prometheus's text format."""
    from prometheus_client import generate_latest

    return generate_latest(_registry()).decode()
