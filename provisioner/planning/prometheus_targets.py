"""Whom Prometheus scrapes beside the service itself: engines that tell their own figures. Pure.

Both ``http_sd`` and ``file_sd`` take what is returned here. An engine whose figures need a key is left out: Prometheus
has one credential for a whole job, and the service tells that engine's main figures anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import EngineName
from provisioner.engines.base import InferenceEngine

_IN_PROMETHEUS_TEXT = "/metrics"


def target_groups(
    fleet: FleetSpec, engines: Mapping[EngineName, InferenceEngine], nodes: Iterable[NodeSpec]
) -> list[dict[str, object]]:
    """Return a group for each node whose engine can be scraped, in the mode that the node is in.

    The labels are not those of the engines' own metrics: one called ``node`` would turn theirs into ``exported_node``.
    """
    found: list[dict[str, object]] = []
    for node in nodes:
        mode = fleet.mode_of(node)
        engine = engines[mode.engine]
        path = engine.activity_path
        has_lock = node.api_key is not None and bool(engine.key_variable) and engine.guards(path)
        if not path.endswith(_IN_PROMETHEUS_TEXT) or has_lock or fleet.release_of(node) is not None:
            continue
        if fleet.answering(node).name != node.name:
            # It computes for another node, which tells the figures of both.
            continue
        labels = {
            "__metrics_path__": path,
            "gpu_node": node.name,
            "vmid": str(node.vmid),
            "hypervisor": node.hypervisor,
            "engine": engine.name,
            "mode": mode.name,
        }
        found.append({"targets": [f"{node.reach.address}:{engine.port}"], "labels": labels})
    return found
