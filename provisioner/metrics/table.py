"""Every metric of ours: its name, kind, labels and meaning. What is not in this table is not exposed.

Only what Python, its garbage collector and the process itself are about comes from prometheus_client.

Units are base units, as Prometheus wants them: seconds, bytes, joules, watts, degrees Celsius, ratios of 0 to 1.
Label values come from the fleet file or from fixed words, so that their number is bounded: no prompt, no path, no name
that a client made up ever becomes one.
"""

from __future__ import annotations

from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; there is one of each. `labels` are its labels in the order in which they are written."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def _gauge(name: str, labels: str, words: str) -> Metric:
    return Metric(f"provisioner_{name}", GAUGE, tuple(labels.split()), words)


def _counter(name: str, labels: str, words: str) -> Metric:
    return Metric(f"provisioner_{name}_total", COUNTER, tuple(labels.split()), words)


def _histogram(name: str, labels: str, words: str) -> Metric:
    return Metric(f"provisioner_{name}", HISTOGRAM, tuple(labels.split()), words)


BUILD = _gauge("build_info", "version", "1; the version of the service.")
DRAINING = _gauge("draining", "", "1 while the service ends and lets requests finish, else 0.")

NODE = _gauge("node_info", "node vmid hypervisor engine mode role", "1; what a node is for now.")
PHASE = _gauge("node_phase", "node phase", "1 for the phase that a node is in; there is no series for the others.")
PHASE_SECONDS = _gauge("node_phase_seconds", "node", "How long it has been in it.")
READY = _gauge("node_ready", "node", "1 while its model answers, else 0.")
IDLE_AFTER = _gauge("node_idle_after_seconds", "node", "After how long without use it is to sleep.")
QUIET = _gauge("node_quiet_seconds", "node", "How long nobody has used it, by the last idle pass.")
VERDICT = _gauge("node_idle_verdict", "node verdict", "1 for what the last idle pass said of it.")
HELD = _gauge("node_holds", "node", "How many people keep it as it is.")
WAKES = _counter(
    "node_wakes", "node result", "Wakes that ended: done, failed, failed_gpu (its card), given_up; joined: awake."
)
WAKE_SECONDS = _gauge("node_wake_seconds", "node", "How long its last wake took.")
WAKE_USUAL = _gauge("node_wake_usual_seconds", "node", "The median of the wakes before that one.")
SLEEPS = _counter("node_sleeps", "node result", "Shutdowns that ended: done or failed.")
SWITCHES = _counter("node_mode_switches", "node result", "Changes of mode that ended: done or failed.")

RUNNING = _gauge("node_requests_running", "node", "Requests through us that its engine works on.")
WAITING = _gauge("node_requests_waiting", "node", "Requests that are held until it is ready.")
REQUESTS = _counter(
    "requests", "model node outcome", "Requests for models that ended; node is empty where none got it."
)
FALLBACKS = _counter("requests_fallback", "model node", "Of those, the ones that a stand-in answered.")
WOKEN = _counter("requests_held", "model", "Of those, the ones that waited for a wake.")
REQUEST_SECONDS = _histogram("request_seconds", "node", "From a request's coming to its answer's end.")
FIRST_BYTE_SECONDS = _histogram("request_first_byte_seconds", "node", "From its coming to its engine's first byte.")
HELD_SECONDS = _histogram("request_held_seconds", "", "How long requests waited for a wake; those that did.")
TOKENS = _counter("tokens", "node model direction", "Tokens of requests through us, in and out, where engines tell.")
HELD_BYTES = _gauge("gateway_held_bytes", "", "Memory of bodies that are read or kept for another try.")

GPU = _gauge("gpu_info", "node gpu uuid name driver", "1; a card as its driver names it, by its number in the guest.")
GPU_UTILIZATION = _gauge("gpu_utilization_ratio", "node gpu", "Share of the last sample in which anything ran.")
GPU_MEMORY_USED = _gauge("gpu_memory_used_bytes", "node gpu", "Its memory in use.")
GPU_MEMORY = _gauge("gpu_memory_bytes", "node gpu", "Its memory.")
GPU_POWER = _gauge("gpu_power_watts", "node gpu", "What it draws.")
GPU_POWER_LIMIT = _gauge("gpu_power_limit_watts", "node gpu", "What it may draw.")
GPU_TEMPERATURE = _gauge("gpu_temperature_celsius", "node gpu", "Its temperature.")
GPU_CHECK = _gauge("gpu_check", "node check severity", "1 for each check of card and driver that is not well.")
ON_CPU = _gauge("engine_on_cpu", "node", "1 where an engine computes on the CPU though its node has a GPU, else 0.")
ENGINE_RUNNING = _gauge("engine_requests_running", "node", "Requests in its engine, by its own word.")
ENGINE_WAITING = _gauge("engine_requests_waiting", "node", "Requests that its engine has queued.")
ENGINE_TOKENS = _counter("engine_tokens", "node", "Tokens that its engine has made since it started.")

LOAD = _gauge("guest_load1", "node", "Load of the last minute.")
MEMORY_USED = _gauge("guest_memory_used_bytes", "node", "Memory in use.")
MEMORY = _gauge("guest_memory_bytes", "node", "Memory.")
DISK = _gauge("guest_disk_bytes", "node mounted_at", "Size of a filesystem that fills.")
DISK_FREE = _gauge("guest_disk_free_bytes", "node mounted_at", "What is free of it.")
BLIND = _gauge("guest_blind", "node", "1 where a node is awake and nobody could look inside, else 0.")
GAUGE_AGE = _gauge("guest_figures_age_seconds", "node", "How old the figures of guest, card and engine are.")

LEASE = _gauge("gpu_slot_lease", "hypervisor gpu holder phase", "1 for a GPU in use; holder is a node, or other.")
TAKEOVERS = _counter("gpu_slot_takeovers", "hypervisor gpu", "How often it was given to somebody.")
WAITERS = _gauge("gpu_slot_waiters", "hypervisor gpu", "Who waits for it.")

TURNS = _counter("loop_turns", "loop result", "Turns of the service's own loops: done or failed.")
TURN_SECONDS = _counter("loop_seconds", "loop result", "What they took.")
TURN_LAST = _gauge("loop_last_seconds", "loop", "What the last one took.")
CALLS = _counter("proxmox_calls", "cluster method result", "Requests to Proxmox: answered, refused or silent.")
CALL_SECONDS = _counter("proxmox_call_seconds", "cluster method result", "What they took.")

AWAKE = _counter("node_awake_seconds", "node", "Time awake, from the start of its VM to its end.")
ASLEEP = _counter("node_asleep_seconds", "node", "Time asleep.")
SPARED = _counter("node_spared_seconds", "node", "Of that, the time in which its GPUs were at rest because of it.")
UNKNOWN = _counter("node_unknown_seconds", "node", "Time of which nobody knows.")
MEASURED = _counter("node_measured_joules", "node", "Energy of its GPUs, as their driver measured it.")
USED = _gauge(
    "node_energy_used_joules", "node basis", "Energy of its GPUs since counting began; basis marks estimates."
)
SAVED = _gauge(
    "node_energy_saved_joules", "node basis", "Against always on; always an estimate, of which basis says how good."
)
MONEY = _gauge("money_saved", "currency", "That of all nodes at the configured price.")

FAILING = _gauge("orchestrator_failing", "orchestrator", "1 while it cannot be told of the nodes, else 0.")
RECORD_SENT = _counter("record_sent", "", "Requests whose record was taken by the time series database.")
RECORD_LOST = _counter("record_lost", "reason", "Records that were not: refused, or dropped because too many waited.")
RECORD_PENDING = _gauge("record_pending", "", "Records that wait to be sent.")

TABLE: tuple[Metric, ...] = tuple(each for each in list(globals().values()) if isinstance(each, Metric))


def documentation() -> str:
    """Return the table as Markdown."""
    rows = [f"| `{each.name}` | {each.kind} | {', '.join(each.labels) or '–'} | {each.help} |" for each in TABLE]
    return "\n".join([_PREFACE, "| name | kind | labels | meaning |", "|---|---|---|---|", *rows]) + "\n"


_PREFACE = """\
# The metrics of the control service

`GET /metrics` tells these, and what prometheus_client tells of a process (`process_*`, `python_*`). Units are base
units: seconds, bytes, joules, watts, degrees Celsius, ratios of 0 to 1. Every label's values come from the fleet file
or from a few fixed words. Figures of guests, cards and engines are of nodes that are awake, and are left out once they
are old. Counters begin at nought with the service, but for those of time and energy, which go on.
"""
