"""Why `up` does not lay down a mode: its model cannot fit the node. Pure.

Only what is known is judged: a model of the catalogue in a quantisation that
its name tells, or one whose file lies here, and GPUs whose memory the fleet file says. And only what is plain:
the overhead is an estimate, so a shortage within its error is let through, and
the engine has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from provisioner.domain.actions import Refusal
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ArgumentValue, ModeSpec
from provisioner.domain.models.catalogue import find_model
from provisioner.domain.models.model import Subject
from provisioner.domain.quantities import GIB
from provisioner.engines.arguments import flags_of, variables_of
from provisioner.planning.fit.engines import MemoryUse, default_context, memory_use
from provisioner.planning.fit.judge import FitReport, judge
from provisioner.planning.fit.request import FitRequest, gpu_of
from provisioner.planning.fit.subjects import default_quantization, from_catalogue
from provisioner.planning.fit.words import reason, size

Files = Mapping[str, Subject]
NO_FILES: Files = MappingProxyType({})
DOUBT = 0.05
"""Of the room: how far the estimate may be wrong. The published figures are met within 3 per cent."""
_OWN_CONTEXT = 4096
"""What our descriptions of llama.cpp and Ollama ask for when the mode says nothing."""
# With these a part of the model is elsewhere, or the mode was tuned by somebody who knows better.
_ELSEWHERE = frozenset(
    {"ctx-size", "c", "gpu-layers", "n-gpu-layers", "ngl", "tensor-split", "ts"}
    | {"cpu-offload-gb", "n-cpu-moe", "cpu-moe", "override-tensor", "tensor-parallel-size", "pipeline-parallel-size"}
    | {"num-shard", "sharded", "data-parallel-size", "kv-cache-memory-bytes", "hf-overrides", "load-format", "nnodes"}
)


def unfit_modes(fleet: FleetSpec, node: NodeSpec, files: Files = NO_FILES) -> Refusal | None:
    """Return why the first of a node's modes that cannot fit does not; None when none is known not to."""
    return next((found for mode in fleet.modes_of(node) if (found := fit_refusal(fleet, node, mode, files))), None)


def fit_refusal(fleet: FleetSpec, node: NodeSpec, mode: ModeSpec, files: Files = NO_FILES) -> Refusal | None:
    """Return why a mode's models do not fit a node, with the sum and the least change; None when they do.

    Args:
        fleet: what is wanted.
        node: whose mode it is.
        mode: which.
        files: what their own files tell of models, by the names that the mode has for them.

    None as well for what is not known: the model, its quantisation, the engine's
    habits, or how much memory one of the GPUs has.
    """
    software = fleet.engines.get(mode.engine)
    use = memory_use(mode.engine, software.version if software is not None else "")
    if use is None or not _ELSEWHERE.isdisjoint(flags_of(mode.arguments)):
        return None
    for model in mode.models:
        report = _judged(fleet, node, mode, _subject(mode, model, use, files), use)
        if report is not None and not report.fits and _is_plain(report):
            return _refusal(fleet, node, mode, model, report)
    return _too_many_pinned(fleet, node, mode, use, files)


def _too_many_pinned(fleet: FleetSpec, node: NodeSpec, mode: ModeSpec, use: MemoryUse, files: Files) -> Refusal | None:
    """Models that are always loaded have to fit beside each other."""
    reports = [_judged(fleet, node, mode, _subject(mode, model, use, files), use) for model in mode.pinned]
    known = [report for report in reports if report is not None]
    if len(known) < 2:
        return None
    need = sum(report.laid.weights_bytes + report.laid.cache_bytes for report in known)
    need += max(report.laid.overhead_bytes for report in known)
    room = known[0].laid.room_bytes * max(1, known[0].laid.gpus)
    if need <= room * (1 + DOUBT):
        return None
    each = ", ".join(
        f"{name} {size(report.laid.total_bytes)}" for name, report in zip(mode.pinned, reports, strict=True) if report
    )
    return Refusal(
        f'mode "{mode.name}": its pinned models need {size(need)} together ({each}); there is room for {size(room)}',
        "pin fewer of them: those that are not pinned are loaded when they are asked for",
    )


def _subject(mode: ModeSpec, model: str, use: MemoryUse, files: Files) -> Subject | None:
    """Return what is to be judged; None for a model of which too little is known."""
    read = files.get(model)
    if read is not None:
        return read if read.quantization in use.quantizations else None
    named = find_model(model)
    if named is None or (named.is_file and not named.quantization):
        return None
    given = flags_of(mode.arguments).get("quantization")
    kind = str(given or named.quantization or default_quantization(named.model, use))
    return from_catalogue(named.model, model, kind, use) if kind in use.quantizations else None


def _judged(
    fleet: FleetSpec, node: NodeSpec, mode: ModeSpec, subject: Subject | None, use: MemoryUse
) -> FitReport | None:
    if subject is None:
        return None
    # A part of the layers on the CPU is a choice of its own.
    if mode.gpu_layers not in (None, "all") and node.gpus:
        return None
    together = fleet.span_of(node, mode) or (node,)
    slots = tuple(slot for each in together for slot in fleet.gpus_of(each))
    if any(slot.vram_bytes is None for slot in slots) or (not slots and not use.runs_on_cpu):
        return None
    given = mode.context or _number(mode, "max-model-len", "max-total-tokens", "OLLAMA_CONTEXT_LENGTH")
    given = given or (_OWN_CONTEXT if use.reads_gguf else None)
    return judge(
        FitRequest(
            subject=subject,
            engine=use,
            context=given or default_context(use.name, subject.shape, None),
            # vLLM and TGI start when one request fits; how many more do is their own business.
            parallel=(mode.parallel or 1) if use.reads_gguf else 1,
            cache_type=_cache_type(mode.arguments, use),
            gpus=tuple(gpu_of(slot.name, slot.vram_bytes or 0) for slot in slots),
            share=_share(mode, use),
            ram_bytes=_memory(node, mode),
            context_is_given=bool(given),
            nodes=len(together),
        )
    )


def _is_plain(report: FitReport) -> bool:
    laid = report.laid
    if laid.hindrance:
        return not report.request.engine.splits_layers
    return laid.fullest_bytes > laid.room_bytes * (1 + DOUBT)


def _refusal(fleet: FleetSpec, node: NodeSpec, mode: ModeSpec, model: str, report: FitReport) -> Refusal:
    where = "its GPUs" if node.gpus else "its memory"
    ways = [f"{change.text} ({change.fleet_line})" if change.fleet_line else change.text for change in report.changes]
    path = fleet.models[model].local_path if report.request.subject.is_measured and model in fleet.models else None
    least = "; or ".join(ways[:3]) or "take a smaller model, or a node with more memory"
    # `fit` knows of one node only.
    more = f". The whole sum: provisioner fit {path or model} {_options(report)}" if report.request.nodes == 1 else ""
    return Refusal(f'mode "{mode.name}": {model} does not fit {where}: {reason(report)}', f"{least}{more}")


def _options(report: FitReport) -> str:
    request = report.request
    gpus = " ".join(f"--gpu {gpu.name}" for gpu in request.gpus)
    place = gpus or f"--ram {(request.ram_bytes or 0) // GIB}GiB"
    many = f" --parallel {request.parallel}" if request.parallel > 1 else ""
    return f"--engine {request.engine.name} {place} --context {request.context}{many}"


def _memory(node: NodeSpec, mode: ModeSpec) -> int:
    limit = mode.memory_limit_bytes
    # The limit is the engine's own; the sum counts the system beside it.
    return node.memory_bytes if limit is None else min(node.memory_bytes, limit + GIB)


def _number(mode: ModeSpec, *names: str) -> int | None:
    given = {**flags_of(mode.arguments), **variables_of(mode.arguments)}
    texts = (str(given.get(name, "")) for name in names)
    return next((int(text) for text in texts if text.isdigit() and int(text) > 0), None)


def _share(mode: ModeSpec, use: MemoryUse) -> float:
    for name in ("gpu-memory-utilization", "cuda-memory-fraction"):
        value = flags_of(mode.arguments).get(name)
        if isinstance(value, (int, float)) and 0 < value <= 1:
            return use.share * float(value) if name.startswith("cuda") else float(value)
    return use.share


def _cache_type(arguments: Mapping[str, ArgumentValue], use: MemoryUse) -> str:
    given = {**flags_of(arguments), **variables_of(arguments)}
    for name in ("kv-cache-dtype", "cache-type-k", "OLLAMA_KV_CACHE_TYPE"):
        value = str(given.get(name, ""))
        if value in use.cache_types:
            return value
    return use.cache_types[0]
