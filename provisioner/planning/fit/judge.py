"""Does it fit, and if not, what is the least that has to change? Pure.

Every way out is found by laying the model out again with one thing changed; so
a change that is named is one that works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from provisioner.domain.quantities import GIB
from provisioner.planning.fit.cache import bytes_per_token
from provisioner.planning.fit.request import FitRequest, Gpu
from provisioner.planning.fit.split import MOST_GPUS, Laid, cache_request, lay
from provisioner.planning.fit.weights import weight_bytes

LEAST_CONTEXT = 1024
"""A shorter context is no use to a chat."""
_STEP = 256
_EIGHT_BITS = {"llama.cpp": "q8_0", "ollama": "q8_0", "vllm": "fp8", "tgi": "fp8_e4m3fn"}


class Verdict(Enum):
    """The answer in one word."""

    FITS = "fits"
    LESS_CONTEXT = "fits with less context"
    MORE_GPUS = "needs more GPUs"
    CPU_ONLY = "fits on the CPU only"
    NOT_AT_ALL = "does not fit"
    NOT_ASKED = "no GPU named"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change, and how to say it: to a person, as an option of `fit`, and as a line of the fleet file."""

    text: str
    option: str
    fleet_line: str = ""


@dataclass(frozen=True, slots=True)
class FitReport:
    """The judgement, with what it rests on.

    Attributes:
        request: what was asked.
        laid: the model as laid over the cards asked for (over one thought-of card when none was named).
        kv_bytes_per_token: what one token of context takes in the whole cache, before any sliding window.
        verdict: the answer.
        gpus_needed: the least number of such cards that hold it as asked; None when 16 do not, or none was named.
        largest_context: the longest context that fits on the cards asked for; 0 when none does.
        changes: what would make it fit, the least first; empty when it fits.
        ram_needed_bytes: what the VM of a node without GPU would need; None when the engine cannot serve there.
    """

    request: FitRequest
    laid: Laid
    kv_bytes_per_token: int
    verdict: Verdict
    gpus_needed: int | None
    largest_context: int
    changes: tuple[Change, ...]
    ram_needed_bytes: int | None

    @property
    def fits(self) -> bool | None:
        """As asked; None when no place was named."""
        return None if self.verdict is Verdict.NOT_ASKED else self.verdict is Verdict.FITS


def judge(request: FitRequest) -> FitReport:
    """Judge one request."""
    laid = lay(request, request.gpus)
    per_token = bytes_per_token(request.subject.shape, cache_request(request).dtype)
    ram = lay(replace(request, gpus=()), ()).total_bytes if request.engine.runs_on_cpu else None
    needed = _gpus_needed(request) if request.gpus else None
    largest = largest_context(request) if request.gpus or request.ram_bytes is not None else 0
    fits = laid.fits and (bool(request.gpus) or request.engine.runs_on_cpu)
    changes = () if fits else tuple(_changes(request, largest, needed, ram))
    verdict = _verdict(request, fits, largest, needed, ram)
    return FitReport(request, laid, per_token, verdict, needed, largest, changes, ram)


def _verdict(request: FitRequest, fits: bool, largest: int, needed: int | None, ram: int | None) -> Verdict:
    if not request.gpus and request.ram_bytes is None:
        return Verdict.NOT_ASKED
    if fits:
        return Verdict.FITS
    if LEAST_CONTEXT <= largest < request.context:
        return Verdict.LESS_CONTEXT
    if needed is not None:
        return Verdict.MORE_GPUS
    if request.gpus and ram is not None and (request.ram_bytes is None or ram <= request.ram_bytes):
        return Verdict.CPU_ONLY
    return Verdict.NOT_AT_ALL


def largest_context(request: FitRequest, gpus: Sequence[Gpu] | None = None) -> int:
    """Return the longest context that fits, in steps of 256 tokens, up to what the model was made for; or 0."""
    where = request.gpus if gpus is None else gpus
    top = max(request.context, request.subject.shape.context) // _STEP

    def holds(steps: int) -> bool:
        return lay(replace(request, context=steps * _STEP), where).fits

    if request.gpus and not where:
        return 0
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    found = low * _STEP
    return max(found, request.context) if lay(request, where).fits else found


def _gpus_needed(request: FitRequest) -> int | None:
    smallest = min(request.gpus, key=lambda gpu: gpu.usable_bytes)
    return next((n for n in range(1, MOST_GPUS + 1) if lay(request, (smallest,) * n).fits), None)


def _changes(request: FitRequest, largest: int, needed: int | None, ram: int | None) -> Iterator[Change]:
    """Yield what makes it fit, the least first: what costs nothing but patience, then quality, then money."""
    if not request.gpus and request.ram_bytes is None:
        return
    if request.gpus or request.engine.runs_on_cpu:
        yield from _smaller_cache(request, largest)
        yield from _smaller_weights(request)
        if LEAST_CONTEXT <= largest < request.context // 2:
            yield _less_context(largest)
    if needed is not None and needed > len(request.gpus):
        card = min(request.gpus, key=lambda gpu: gpu.usable_bytes).name
        yield Change(f"{needed} GPUs like {card}", f"--gpu {needed}x{card.replace(' ', '')}", "gpus: with more of them")
    elif needed is not None and needed < len(request.gpus):
        yield Change(f"only {needed} of the GPUs", f"--gpu {needed}x...", "gpus: with fewer of them")
    if ram is not None:
        size = -(-ram // GIB)
        if request.gpus:
            yield Change(
                f"the CPU, in a VM with {size}GiB of memory", f"--ram {size}GiB", f"no gpus, memory: {size}GiB"
            )
        elif request.ram_bytes is not None and ram > request.ram_bytes:
            yield Change(f"{size}GiB of memory for the VM", f"--ram {size}GiB", f"memory: {size}GiB")


def _smaller_cache(request: FitRequest, largest: int) -> Iterator[Change]:
    for fewer in range(request.parallel - 1, 0, -1):
        if lay(replace(request, parallel=fewer), request.gpus).fits:
            yield Change(_requests(fewer), f"--parallel {fewer}", f"parallel: {fewer}")
            break
    if request.context // 2 <= largest < request.context and largest >= LEAST_CONTEXT:
        yield _less_context(largest)
    eight = _EIGHT_BITS.get(request.engine.name, "")
    is_wide = request.cache_type in ("auto", "f16", "bf16", "f32")
    if eight and is_wide and lay(replace(request, cache_type=eight), request.gpus).fits:
        yield Change(f"a cache of 8 bits ({eight})", f"--kv-dtype {eight}", _cache_line(request.engine.name, eight))


def _requests(count: int) -> str:
    return "one request at a time" if count == 1 else f"{count} requests at a time"


def _less_context(tokens: int) -> Change:
    return Change(f"a context of {tokens} tokens", f"--context {tokens}", f"context: {tokens}")


def _cache_line(engine: str, kind: str) -> str:
    if engine == "llama.cpp":
        return f"arguments: {{cache-type-k: {kind}, cache-type-v: {kind}}}"
    return f"arguments: {{kv-cache-dtype: {kind}}}" if engine in ("vllm", "tgi") else f"OLLAMA_KV_CACHE_TYPE={kind}"


def _smaller_weights(request: FitRequest) -> Iterator[Change]:
    """The largest quantisation below the present one that fits."""
    subject, engine = request.subject, request.engine
    sizes = {
        name: weight_bytes(subject.shape, name, in_gguf=engine.reads_gguf).total
        for name in engine.quantizations
        if name != "mxfp4"
    }
    ready = subject.entry.quantized if subject.entry is not None else {}
    # Of Hugging Face's only those that somebody made, or that the engine makes while it loads.
    usable = [name for name in sizes if engine.reads_gguf or name in ready or name == "fp8"]
    for name in sorted(usable, key=lambda each: -sizes[each]):
        if sizes[name] >= subject.weights_bytes:
            continue
        smaller = replace(request, subject=replace(subject, weights_bytes=sizes[name], quantization=name))
        if lay(smaller, request.gpus).fits:
            at = f" ({ready[name]})" if name in ready else ""
            yield Change(f"weights in {name}{at}", f"--quantization {name}", f"model: {ready.get(name, name)}")
            break
