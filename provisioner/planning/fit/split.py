"""How a model is laid over several cards, and what each then has to hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provisioner.domain.models.shape import ModelShape, parameters, weight_counts
from provisioner.engines.parallelism import shape_of
from provisioner.planning.fit.cache import CacheRequest, cache_bytes
from provisioner.planning.fit.engines import Load, cpu_overhead
from provisioner.planning.fit.request import FitRequest, Gpu

MOST_GPUS = 16
"""More cards than that in one node are no homelab."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A model laid over cards: the sums over all of them, and the card that is the tightest.

    Attributes:
        gpus: how many cards it is laid over.
        tensor: how many share each layer.
        weights_bytes: all weights together.
        cache_bytes: the cache on all cards together; heads that are kept twice count twice.
        overhead_bytes: the rest, on all cards together.
        fullest_bytes: what the tightest card has to hold.
        room_bytes: what may be used of that card.
        fits: every card holds its share.
        hindrance: why it cannot be laid over that many cards at all; empty when it can.
    """

    gpus: int
    tensor: int
    weights_bytes: int
    cache_bytes: int
    overhead_bytes: int
    fullest_bytes: int
    room_bytes: int
    fits: bool
    hindrance: str = ""

    @property
    def total_bytes(self) -> int:
        """Everything together."""
        return self.weights_bytes + self.cache_bytes + self.overhead_bytes


def cache_request(request: FitRequest) -> CacheRequest:
    """Return what is to be cached."""
    dtype = "bf16" if request.cache_type == "auto" else request.cache_type
    return CacheRequest(request.context, request.parallel, dtype, request.engine.cells, request.engine.batch)


def lay(request: FitRequest, gpus: Sequence[Gpu]) -> Laid:
    """Lay a model over cards the way its engine does; over none, into the memory of the VM."""
    if not gpus:
        return _in_ram(request)
    return _by_layers(request, gpus) if request.engine.splits_layers else _by_tensors(request, gpus)


def tensor_hindrance(shape: ModelShape, tensor: int) -> str:
    """Say why a model's heads cannot be dealt out to that many cards; empty when they can."""
    if shape.heads % tensor:
        return f"its {shape.heads} attention heads cannot be dealt out to {tensor} GPUs"
    if shape.latent is None and shape.kv_heads % tensor and tensor % shape.kv_heads:
        return f"its {shape.kv_heads} key-value heads cannot be dealt out to {tensor} GPUs"
    return ""


def load_of(request: FitRequest, gpus: Sequence[Gpu], tensor: int) -> Load:
    """Return what the engine's overhead depends on."""
    smallest = min((gpu.nominal_bytes for gpu in gpus), default=0)
    return Load(request.subject.shape, request.context, request.parallel, tensor, max(1, len(gpus)), smallest)


def _in_ram(request: FitRequest) -> Laid:
    weights = request.subject.weights_bytes
    cache = cache_bytes(request.subject.shape, cache_request(request))
    overhead = cpu_overhead(load_of(request, (), 1))
    total, room = weights + cache + overhead, request.ram_bytes or 0
    return Laid(0, 1, weights, cache, overhead, total, room, total <= room)


def _by_tensors(request: FitRequest, gpus: Sequence[Gpu]) -> Laid:
    """Each layer over `tensor` cards, the layers over as many groups as are left: vLLM's way, and TGI's shards."""
    shape, weights = request.subject.shape, request.subject.weights_bytes
    count = len(gpus)
    # Layers are split inside of a node: between nodes that would be too slow. TGI knows shards only.
    tensor = shape_of(max(1, count // request.nodes)).tensor if request.engine.name == "vllm" else count
    pipeline = count // tensor
    cached = cache_bytes(shape, cache_request(request), tensor)
    overhead = request.engine.overhead(load_of(request, gpus, tensor))
    room = int(min(gpu.usable_bytes for gpu in gpus) * request.share)
    # The largest group has the layers that do not divide evenly.
    of_layers = -(-shape.layers // pipeline) / shape.layers
    fullest = round(weights / tensor * of_layers + cached * of_layers) + overhead
    hindrance = tensor_hindrance(shape, tensor)
    if pipeline > shape.layers:
        hindrance = hindrance or f"it has {shape.layers} layers for {pipeline} groups of GPUs"
    return Laid(
        gpus=count,
        tensor=tensor,
        weights_bytes=weights,
        cache_bytes=cached * tensor,
        overhead_bytes=overhead * count,
        fullest_bytes=fullest,
        room_bytes=room,
        fits=not hindrance and fullest <= room,
        hindrance=hindrance,
    )


def _by_layers(request: FitRequest, gpus: Sequence[Gpu]) -> Laid:
    """Whole layers, each card as many as it has room for: llama.cpp's way, and Ollama's."""
    shape, weights = request.subject.shape, request.subject.weights_bytes
    cached = cache_bytes(shape, cache_request(request))
    overhead = request.engine.overhead(load_of(request, gpus, 1))
    rooms = [int(gpu.usable_bytes * request.share) - overhead for gpu in gpus]
    ends = _ends_bytes(shape, weights)
    layer = (weights - ends + cached) / shape.layers
    # Embedding and output stay whole; the roomiest card has them.
    rooms.sort(reverse=True)
    held = [int(max(0, room - (ends if at == 0 else 0)) // layer) for at, room in enumerate(rooms)]
    fits = rooms[0] >= ends and sum(held) >= shape.layers
    count = len(gpus)
    share = (weights + cached) / count
    return Laid(
        gpus=count,
        tensor=1,
        weights_bytes=weights,
        cache_bytes=cached,
        overhead_bytes=overhead * count,
        fullest_bytes=round(share) + overhead,
        room_bytes=round(sum(rooms) / count) + overhead,
        fits=fits,
        hindrance="" if shape.layers >= count else f"it has {shape.layers} layers for {count} GPUs",
    )


def _ends_bytes(shape: ModelShape, weights: int) -> float:
    """Embedding, output and whatever is no layer, by their share of the weights."""
    each = weight_counts(shape)
    ends = each.embedding + each.output + each.other
    return weights * ends / max(1, parameters(shape))
