"""The judgement in words: the arithmetic line by line, and the reason in one sentence. Pure."""

from __future__ import annotations

from provisioner.domain.quantities import GIB, KIB, MIB
from provisioner.planning.fit.judge import FitReport, Verdict
from provisioner.planning.fit.split import cache_request


def size(count: float) -> str:
    """Write bytes for people: always binary, to a tenth of a GiB or better."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if count >= factor:
            digits = 1 if count >= 100 * factor else 2
            return f"{count / factor:.{digits}f} {unit}"
    return f"{count:.0f} bytes"


def reason(report: FitReport) -> str:
    """Say why it fits or not, with the numbers."""
    request, laid = report.request, report.laid
    asked = f"{request.context} tokens" + (f" for each of {request.parallel} requests" if request.parallel > 1 else "")
    need = f"{size(laid.total_bytes)} for {asked}"
    where = place(report)
    if report.verdict is Verdict.NOT_ASKED:
        return f"it needs {need} on one GPU of its own"
    if report.verdict is Verdict.FITS:
        spare = laid.room_bytes - laid.fullest_bytes
        each = " on each GPU" if laid.gpus > 1 else ""
        return f"it needs {need}, {size(laid.fullest_bytes)} of {size(laid.room_bytes)}{each}; {size(spare)} stay free"
    if laid.hindrance:
        return f"{laid.hindrance}, so it cannot be laid over {where}"
    if not request.gpus and not request.engine.runs_on_cpu:
        return f"{request.engine.name} serves on GPUs only"
    short = laid.fullest_bytes - laid.room_bytes
    each = " on each GPU" if laid.gpus > 1 else ""
    missing = f"{size(short)} short{each}" if short > 0 else "its layers cannot be dealt out evenly"
    text = f"it needs {need}; {where} has room for {size(laid.room_bytes)}{each}: {missing}"
    if report.verdict is Verdict.LESS_CONTEXT:
        text += f"; up to {report.largest_context} tokens fit"
    elif report.verdict is Verdict.MORE_GPUS and report.gpus_needed != laid.gpus:
        text += f"; {report.gpus_needed} such GPUs hold it"
    elif report.verdict is Verdict.CPU_ONLY and report.ram_needed_bytes is not None:
        text += f"; 16 such GPUs do not hold it, and on the CPU it needs {size(report.ram_needed_bytes)} of memory"
    return text


def place(report: FitReport) -> str:
    """Name where the model should go."""
    request = report.request
    if not request.gpus:
        return "the memory of the VM" if request.ram_bytes is not None else "no GPU"
    names = [gpu.name for gpu in request.gpus]
    if len(set(names)) == 1:
        return names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"
    return " + ".join(names)


def arithmetic(report: FitReport) -> tuple[tuple[str, int | None, str], ...]:
    """Return the sum as rows: what, how many bytes (None for a remark), how it comes about."""
    request, laid = report.request, report.laid
    subject, shape = request.subject, request.subject.shape
    rows: list[tuple[str, int | None, str]] = [
        ("weights", laid.weights_bytes, f"{subject.quantization}, {subject.origin}"),
        ("KV cache", laid.cache_bytes, _cache_words(report)),
    ]
    each = f" x {laid.gpus} GPUs" if laid.gpus > 1 else ""
    what = "the driver's context, buffers" if request.gpus or request.ram_bytes is None else "buffers, the system"
    rows.append(("overhead", laid.overhead_bytes, f"{size(laid.overhead_bytes / max(1, laid.gpus))}{each}: {what}"))
    rows.append(("total", laid.total_bytes, ""))
    if request.gpus:
        smallest = min(request.gpus, key=lambda gpu: gpu.usable_bytes)
        share = f" x {request.share:g} ({request.engine.share_source})" if request.share != 1 else ""
        rows.append(
            ("room per GPU", laid.room_bytes, f"{size(smallest.usable_bytes)} usable of {smallest.name}{share}")
        )
        if laid.gpus > 1:
            way = f"tensor parallel {laid.tensor}" if not request.engine.splits_layers else "by layers, on average"
            rows.append(("needed per GPU", laid.fullest_bytes, way))
    elif request.ram_bytes is not None:
        rows.append(("room", request.ram_bytes, "memory of the VM"))
    if shape.context and request.context > shape.context:
        rows.append(("note", None, f"the model was made for {shape.context} tokens; more needs rope scaling"))
    return tuple(rows)


def _cache_words(report: FitReport) -> str:
    request, shape = report.request, report.request.subject.shape
    kind = cache_request(request).dtype
    if shape.latent is not None:
        per = f"{shape.layers} layers x {shape.latent.cached_width} (MLA)"
    else:
        per = f"2 x {shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_width}"
    times = f" x {request.parallel} requests" if request.parallel > 1 else ""
    text = f"{size(report.kv_bytes_per_token)} per token ({per}, {kind}) x {request.context} tokens{times}"
    if shape.window is not None:
        text += f"; {shape.window.layers} layers keep {shape.window.tokens} tokens only"
    return text
