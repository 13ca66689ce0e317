"""What the engine of a simulated guest has written into its journal, and ``journalctl`` enough to read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENGINE_DEATHS: Mapping[str, tuple[str, ...]] = {
    "engine_crashes": (),
    "engine_out_of_gpu_memory": (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9108 MiB on device 0: cudaMalloc failed: out of memory",
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    ),
    "engine_model_missing": (
        "gguf_init_from_file: failed to open GGUF file '/var/lib/llm/models/0.gguf' (No such file or directory)",
        "llama_model_load: error loading model: llama_model_loader: failed to load model from 0.gguf",
    ),
    "engine_model_gated": (
        "OSError: You are trying to access a gated repo.",
        "Cannot access gated repo for url https://huggingface.co/meta-llama/Llama-2-7b-hf/resolve/main/config.json.",
    ),
    "engine_port_taken": ("start: couldn't bind HTTP server socket, hostname: 0.0.0.0, port: 8080",),
    "engine_disk_full": ("OSError: [Errno 28] No space left on device: '/var/lib/llm/huggingface/hub/tmp'",),
    "engine_no_network": (
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them cached.",
    ),
    "engine_driver_mismatch": ("Failed to initialize NVML: Driver/library version mismatch",),
    "engine_card_lost": (
        "NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    ),
    "engine_gpu_too_old": ("RuntimeError: CUDA error: no kernel image is available for execution on the device",),
    "engine_model_unknown": (
        "OSError: it is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'",
    ),
    "engine_unknown_argument": ("error: invalid argument: --mlock",),
}
"""Guest fault -> the last words of an engine that starts and then dies, again and again."""

_START_SECONDS = 2.0
_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: when (UNIX seconds), from whom, what."""

    at: float
    source: str
    text: str


def engine_journal(unit: str, port: int, death: str | None, since: float) -> list[Entry]:
    """Return what a unit has written since it could start at `since`.

    Args:
        unit: its name.
        port: where it listens.
        death: the fault that it dies of, one of `ENGINE_DEATHS`.
        since: UNIX seconds.
    """
    at = since + _START_SECONDS
    started = Entry(at, "systemd", f"Started {unit} - an engine that knows nothing.")
    if death is None:
        ready = f"main: server is listening on http://0.0.0.0:{port} - starting the main loop"
        return [started, Entry(at + 0.5, "llama-server", ready)]
    entries = []
    for attempt in range(_RESTARTS):
        at += 3.0
        entries.append(Entry(at, "systemd", started.text))
        entries += [Entry(at + 0.1, "llama-server", line) for line in ENGINE_DEATHS[death]]
        entries.append(Entry(at + 0.2, "systemd", f"{unit}: Main process exited, code=exited, status=1/FAILURE"))
        entries.append(Entry(at + 0.2, "systemd", f"{unit}: Failed with result 'exit-code'."))
        entries.append(
            Entry(at + 0.3, "systemd", f"{unit}: Scheduled restart job, restart counter is at {attempt + 1}.")
        )
    return entries


def journalctl(words: Sequence[str], entries: Sequence[Entry]) -> str:
    """Return what ``journalctl`` prints of the entries; it understands the options that choose lines and their form."""
    options = _options(words)
    shown = list(entries)
    if "after-cursor" in options:
        shown = shown[int(options["after-cursor"].removeprefix("s=")) + 1 :]
    if options.get("lines", "all") != "all":
        count = int(options["lines"])
        shown = shown[-count:] if count else []
    if not shown:
        return "" if options.get("output") in ("json", "cat") else "-- No entries --\n"
    return "".join(f"{_line(entry, entries.index(entry), options.get('output', 'short'))}\n" for entry in shown)


def _line(entry: Entry, number: int, form: str) -> str:
    if form == "json":
        fields = {
            "__CURSOR": f"s={number}",
            "__REALTIME_TIMESTAMP": str(round(entry.at * 1e6)),
            "SYSLOG_IDENTIFIER": entry.source,
            "MESSAGE": entry.text,
        }
        return json.dumps(fields)
    return entry.text if form == "cat" else f"{entry.source}: {entry.text}"


def _options(words: Sequence[str]) -> dict[str, str]:
    """Return the options that have a value, by their long names."""
    names = {"-n": "lines", "-o": "output", "-u": "unit", "--lines": "lines", "--output": "output", "--unit": "unit"}
    found = {}
    rest = iter(words)
    for word in rest:
        name, sign, value = word.partition("=")
        if sign:
            found[name.removeprefix("--")] = value
        elif name in names:
            found[names[name]] = next(rest, "")
    return found
