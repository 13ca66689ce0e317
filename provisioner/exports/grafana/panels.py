"""What the dashboards show: panels as values, each with its queries. Building them is `exports.grafana`'s work.

``$node`` and ``$__rate_interval`` are Grafana's: the nodes that are chosen, and a span with enough samples in it.
"""

from __future__ import annotations

from dataclasses import dataclass

_NODE = 'node=~"$node"'


@dataclass(frozen=True, slots=True)
class Query:
    """One query, and what its lines are called."""

    expression: str
    legend: str = "{{node}}"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's id of it; `kind` is ``timeseries``, ``stat`` or ``state-timeline``."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    description: str = ""
    stacked: bool = False
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    rows: tuple[Row, ...]


def _one(title: str, unit: str, expression: str, legend: str = "{{node}}", **more: object) -> Panel:
    return Panel(title, unit, (Query(expression, legend),), **more)  # type: ignore[arg-type]


def _rise(counter: str) -> str:
    return f'sum by (node) (increase(provisioner_{counter}_total{{{_NODE},result="done"}}[$__rate_interval]))'


_FLEET = Row(
    "Fleet",
    (
        _one("Nodes ready", "short", "sum(provisioner_node_ready) or vector(0)", "ready", kind="stat"),
        _one(
            "Nodes asleep", "short", 'count(provisioner_node_phase{phase="asleep"}) or vector(0)', "asleep", kind="stat"
        ),
        _one("Requests waiting", "short", "sum(provisioner_node_requests_waiting)", "waiting", kind="stat"),
        _one("Energy saved", "joule", "sum(provisioner_node_energy_saved_joules)", "saved", kind="stat"),
        _one("Money saved", "short", "sum by (currency) (provisioner_money_saved)", "{{currency}}", kind="stat"),
        _one(
            "Wakes that failed, last day",
            "short",
            'sum(increase(provisioner_node_wakes_total{result=~"failed.*"}[1d]))',
            "failed",
            kind="stat",
        ),
        _one(
            "State of each node",
            "short",
            f"provisioner_node_phase{{{_NODE}}}",
            "{{node}}: {{phase}}",
            kind="state-timeline",
            description="One line for each phase that a node was in.",
        ),
        Panel(
            "Wakes and sleeps",
            "short",
            (
                Query(_rise("node_wakes"), "{{node}} woke"),
                Query(_rise("node_sleeps"), "{{node}} went to sleep"),
            ),
        ),
        _one(
            "How long wakes took",
            "s",
            f"provisioner_node_wake_seconds{{{_NODE}}}",
            description="Each node's last; compare with its own history in the alert WakeSlow.",
        ),
    ),
)

_REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Latency per node",
            "s",
            (
                Query(
                    "histogram_quantile(0.95, sum by (node, le) "
                    f"(rate(provisioner_request_seconds_bucket{{{_NODE}}}[$__rate_interval])))",
                    "{{node}} p95",
                ),
                Query(
                    "histogram_quantile(0.5, sum by (node, le) "
                    f"(rate(provisioner_request_seconds_bucket{{{_NODE}}}[$__rate_interval])))",
                    "{{node}} p50",
                ),
            ),
            description="From a request's coming to its answer's end, waits for wakes included.",
        ),
        _one(
            "First byte per node, p95",
            "s",
            "histogram_quantile(0.95, sum by (node, le) "
            f"(rate(provisioner_request_first_byte_seconds_bucket{{{_NODE}}}[$__rate_interval])))",
        ),
        _one(
            "Tokens per second",
            "short",
            f'sum by (node) (rate(provisioner_tokens_total{{{_NODE},direction="out"}}[$__rate_interval]))',
        ),
        Panel(
            "Queue depth",
            "short",
            (
                Query(f"provisioner_node_requests_waiting{{{_NODE}}}", "{{node}} held for a wake"),
                Query(f"provisioner_node_requests_running{{{_NODE}}}", "{{node}} running"),
                Query(f"provisioner_engine_requests_waiting{{{_NODE}}}", "{{node}} queued in its engine"),
            ),
        ),
        _one(
            "Requests per second",
            "reqps",
            "sum by (model) (rate(provisioner_requests_total[$__rate_interval]))",
            "{{model}}",
            stacked=True,
        ),
        _one(
            "Error rate",
            "percentunit",
            '(sum(rate(provisioner_requests_total{outcome="failed"}[$__rate_interval])) or vector(0)) '
            '/ (sum(rate(provisioner_requests_total{outcome!="left"}[$__rate_interval])) > 0) or vector(0)',
            "failed",
            description="Requests that no engine answered, of all whose client stayed.",
            most=1.0,
        ),
        _one(
            "Answered by a stand-in",
            "reqps",
            "sum by (model) (rate(provisioner_requests_fallback_total[$__rate_interval])) or vector(0)",
            "{{model}}",
        ),
    ),
)

_GPUS = Row(
    "GPUs",
    (
        _one(
            "Utilisation", "percentunit", f"provisioner_gpu_utilization_ratio{{{_NODE}}}", "{{node}} {{gpu}}", most=1.0
        ),
        _one("Power", "watt", f"provisioner_gpu_power_watts{{{_NODE}}}", "{{node}} {{gpu}}", stacked=True),
        _one(
            "Memory",
            "percentunit",
            f"provisioner_gpu_memory_used_bytes{{{_NODE}}} / provisioner_gpu_memory_bytes{{{_NODE}}}",
            "{{node}} {{gpu}}",
            most=1.0,
        ),
        _one("Temperature", "celsius", f"provisioner_gpu_temperature_celsius{{{_NODE}}}", "{{node}} {{gpu}}"),
        _one(
            "Disk free",
            "percentunit",
            f"provisioner_guest_disk_free_bytes{{{_NODE}}} / provisioner_guest_disk_bytes{{{_NODE}}}",
            "{{node}} {{mounted_at}}",
            most=1.0,
        ),
    ),
)

_SAVINGS = Row(
    "Energy and money",
    (
        Panel(
            "Time awake and asleep",
            "percentunit",
            (
                Query(f"rate(provisioner_node_awake_seconds_total{{{_NODE}}}[$__rate_interval])", "{{node}} awake"),
                Query(f"rate(provisioner_node_asleep_seconds_total{{{_NODE}}}[$__rate_interval])", "{{node}} asleep"),
            ),
            stacked=True,
        ),
        _one(
            "Energy used",
            "joule",
            f"provisioner_node_energy_used_joules{{{_NODE}}}",
            "{{node}} ({{basis}})",
            description="Of the GPUs, since counting began. Anything but measured is an estimate.",
        ),
        _one(
            "Energy saved against always on",
            "joule",
            f"provisioner_node_energy_saved_joules{{{_NODE}}}",
            "{{node}} ({{basis}})",
        ),
        _one("Money saved, so far", "short", "provisioner_money_saved", "{{currency}}"),
    ),
)

_SERVICE = Row(
    "The control service",
    (
        _one("Turns of its loops", "s", "provisioner_loop_last_seconds", "{{loop}}"),
        _one(
            "Turns that failed",
            "short",
            'sum by (loop) (increase(provisioner_loop_turns_total{result="failed"}[$__rate_interval])) or vector(0)',
            "{{loop}}",
        ),
        _one(
            "Requests to Proxmox",
            "reqps",
            "sum by (cluster, result) (rate(provisioner_proxmox_calls_total[$__rate_interval]))",
            "{{cluster}} {{result}}",
        ),
        _one(
            "Time of a request to Proxmox",
            "s",
            "sum by (cluster) (rate(provisioner_proxmox_call_seconds_total[$__rate_interval])) "
            "/ (sum by (cluster) (rate(provisioner_proxmox_calls_total[$__rate_interval])) > 0)",
            "{{cluster}}",
        ),
        _one("GPU slots in use", "short", "sum by (holder) (provisioner_gpu_slot_lease) or vector(0)", "{{holder}}"),
        _one("Waiting for a GPU", "short", "provisioner_gpu_slot_waiters", "{{gpu}} on {{hypervisor}}"),
        _one("Memory of the service", "bytes", 'process_resident_memory_bytes{job="provisioner"}', "resident"),
        _one(
            "Processor of the service",
            "percentunit",
            'rate(process_cpu_seconds_total{job="provisioner"}[$__rate_interval])',
            "cores",
        ),
    ),
)

BOARDS = (
    Board("gpu-nodes", "GPU nodes", (_FLEET, _REQUESTS, _GPUS, _SAVINGS)),
    Board("gpu-nodes-service", "GPU nodes: the control service", (_SERVICE,)),
)
