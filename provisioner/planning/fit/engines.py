"""How each engine uses memory: what it splits, what it may take of a card, what it needs beside weights and cache.

Tables and small formulas with their sources; the judgement is next door.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from provisioner.domain.models.shape import ModelShape
from provisioner.domain.names import EngineName
from provisioner.domain.quantities import GIB, MIB
from provisioner.engines.versions import numbers
from provisioner.planning.fit.cache import Cells
from provisioner.planning.fit.weights import GGUF, SAFETENSORS

_CUDA_CONTEXT = 457 * MIB
"""What a card holds for a process before any model: Ollama's own reserve per GPU (ml/device.go, MinimumMemory)."""
_GUEST_SYSTEM = 1 * GIB
"""Ubuntu's server image and its services without an engine; a rule of thumb."""


@dataclass(frozen=True, slots=True)
class Load:
    """What overhead depends on: the model, the whole context, the GPUs that share each layer, and the smallest card."""

    shape: ModelShape
    context: int
    parallel: int
    tensor: int
    gpus: int
    card_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """One engine's habits.

    Attributes:
        name: the engine.
        reads_gguf: its weights are GGUF files, else Hugging Face's.
        quantizations: what it can serve, the largest first.
        cache_types: what its cache may be kept in; the first is its default.
        splits_layers: it deals out whole layers, so cards may differ; else each layer is split and cards are alike.
        runs_on_cpu: it serves without a GPU.
        cells: how it deals out the cache.
        batch: tokens that it computes at once.
        share: of a card's memory, what it takes at most by its own default.
        share_source: where that number stands, for the arithmetic that is shown.
        overhead: bytes per GPU beside weights and cache.
    """

    name: EngineName
    reads_gguf: bool
    quantizations: tuple[str, ...]
    cache_types: tuple[str, ...]
    splits_layers: bool
    runs_on_cpu: bool
    cells: Cells
    batch: int
    share: float
    share_source: str
    overhead: Callable[[Load], int]


def llama_cpp_overhead(load: Load) -> int:
    """Return what llama.cpp needs per GPU: the driver's context and the compute buffer.

    The buffer holds one batch's logits and hidden states at 32 bits, and its
    attention mask; flash attention, on by default, needs no more. Llama 3.1 8B:
    258 MiB, as its log says.
    """
    return _CUDA_CONTEXT + llama_cpp_buffer(load)


def llama_cpp_buffer(load: Load) -> int:
    """Return the compute buffer alone, which a CPU needs too."""
    batch = _LLAMA_BATCH
    return 4 * batch * (load.shape.vocabulary + load.shape.width) + 2 * batch * load.context * load.parallel


def cpu_overhead(load: Load) -> int:
    """Return what a node without GPU needs beside weights and cache: the compute buffer and its system."""
    return llama_cpp_buffer(load) + _GUEST_SYSTEM


# Profiling lines of vLLM put code of CUDA, cuBLAS and friends at 0.25 to 0.35 GiB (issues 10517, 13061); several cards
# keep NCCL's buffers as well, on big ones up to 1.8 GiB (PR 10511): between, and a rule of thumb.
_VLLM_LIBRARIES = 0.4
_VLLM_COMMUNICATION = 0.6
# "Estimated CUDA graph memory: 0.73 GiB" (PR 39559), counted against its share since 0.21.
_VLLM_GRAPHS = 0.75
_LLAMA_BATCH = 512
_VLLM_BATCH, _VLLM_BIG_BATCH = 2048, 8192
_VLLM_SEQUENCES, _VLLM_BIG_SEQUENCES = 256, 1024
_VLLM_BIG_CARD = 70 * GIB
"""From here on its server takes more at once (vllm/engine/arg_utils.py)."""
_TGI_BATCH = 4096


def vllm_overhead(load: Load) -> int:
    """Return what vLLM needs per GPU: libraries, CUDA graphs, and the peak of its profiling run.

    The peak holds one batch's activations (three vectors of the feed-forward's
    and three of the model's width per token, 16 bits) and the sampler's three
    copies of the logits. Llama 3.1 8B at 20000 and 29000 tokens in one batch:
    2.1 and 3.0 GiB, as its own profile says (issue 10517).
    """
    is_big = load.card_bytes >= _VLLM_BIG_CARD
    batch = _VLLM_BIG_BATCH if is_big else _VLLM_BATCH
    sequences = _VLLM_BIG_SEQUENCES if is_big else _VLLM_SEQUENCES
    communication = _VLLM_COMMUNICATION if load.gpus > 1 else 0.0
    fixed = round((_VLLM_LIBRARIES + _VLLM_GRAPHS + communication) * GIB)
    return fixed + activation_bytes(load, batch) + 3 * 4 * sequences * load.shape.vocabulary // load.tensor


def tgi_overhead(load: Load) -> int:
    """Return what TGI needs per GPU: the same kinds of things with its own batch; nobody has measured it for us."""
    fixed = round((_VLLM_LIBRARIES + _VLLM_GRAPHS + (_VLLM_COMMUNICATION if load.gpus > 1 else 0.0)) * GIB)
    return fixed + activation_bytes(load, _TGI_BATCH)


def activation_bytes(load: Load, batch: int) -> int:
    """Return what one batch holds between two layers, at its peak."""
    shape, experts = load.shape, load.shape.experts
    inner = shape.feed_forward if experts is None else experts.active * experts.feed_forward
    return batch * 2 * (3 * inner // load.tensor + 3 * shape.width)


_LLAMA_CACHE = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "iq4_nl", "q4_0")
_GGUF_NAMES = (*GGUF, "mxfp4")


def _llama_cpp(name: str) -> MemoryUse:
    return MemoryUse(
        name=EngineName(name),
        reads_gguf=True,
        quantizations=_GGUF_NAMES,
        cache_types=_LLAMA_CACHE if name == "llama.cpp" else ("f16", "q8_0", "q4_0"),
        splits_layers=True,
        runs_on_cpu=True,
        cells=Cells.UNIFORM,
        batch=_LLAMA_BATCH,
        share=1.0,
        share_source="all of it",
        overhead=llama_cpp_overhead,
    )


def _paged(
    name: str,
    *,
    cache_types: tuple[str, ...],
    batch: int,
    share: float,
    share_source: str,
    overhead: Callable[[Load], int],
) -> MemoryUse:
    """Return the habits of those that serve checkpoints of Hugging Face from GPUs alone, with a paged cache."""
    return MemoryUse(
        name=EngineName(name),
        reads_gguf=False,
        quantizations=tuple(SAFETENSORS),
        cache_types=cache_types,
        splits_layers=False,
        runs_on_cpu=False,
        cells=Cells.PAGED,
        batch=batch,
        share=share,
        share_source=share_source,
        overhead=overhead,
    )


def _vllm(share: float, since: str) -> MemoryUse:
    return _paged(
        "vllm",
        cache_types=("auto", "bf16", "f16", "fp8", "fp8_e4m3", "fp8_e5m2"),
        batch=_VLLM_BATCH,
        share=share,
        share_source=f"vLLM's --gpu-memory-utilization {since}",
        overhead=vllm_overhead,
    )


_TGI = _paged(
    "tgi",
    cache_types=("auto", "fp8_e4m3fn", "fp8_e5m2"),
    batch=_TGI_BATCH,
    # TGI_WIGGLE_ROOM in server/text_generation_server/models/globals.py.
    share=0.9,
    share_source="TGI's TGI_WIGGLE_ROOM",
    overhead=tgi_overhead,
)

_VLLM_NEW = (0, 20)


def memory_use(engine: str, version: str = "") -> MemoryUse | None:
    """Return an engine's habits, or None for one whose habits nobody has described (exo, Open WebUI)."""
    if engine == "vllm":
        # Read out of the wheels: 0.9 up to 0.19.1, 0.92 from 0.20.2.
        is_old = bool(version) and numbers(version)[:2] < _VLLM_NEW
        return _vllm(0.90, "before 0.20") if is_old else _vllm(0.92, "from 0.20 on")
    return ENGINES.get(engine)


ENGINES: Mapping[str, MemoryUse] = {
    "ollama": _llama_cpp("ollama"),
    "llama.cpp": _llama_cpp("llama.cpp"),
    "vllm": _vllm(0.92, "from 0.20 on"),
    "tgi": _TGI,
}
"""The engines that `fit` knows, at their newest."""

_OLLAMA_TIERS = ((47 * GIB, 262144), (23 * GIB, 32768))
_SMALL_CONTEXT = 4096
"""What llama.cpp and Ollama are given here, and what Ollama takes by itself below 23 GiB."""


def default_context(engine: str, shape: ModelShape, vram_bytes: int | None) -> int:
    """Return the context that an engine takes when nobody names one.

    vLLM and TGI take all that the model was made for. Ollama goes by the GPU
    memory of all cards together (server/routes.go, since 0.15.5).
    """
    made_for = shape.context or _SMALL_CONTEXT
    if engine in ("vllm", "tgi"):
        return made_for
    wanted = _SMALL_CONTEXT
    if engine == "ollama":
        wanted = next((tokens for least, tokens in _OLLAMA_TIERS if (vram_bytes or 0) >= least), _SMALL_CONTEXT)
    return min(made_for, wanted)
