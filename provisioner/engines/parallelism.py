"""How a model is divided over several GPUs of one node, and how those speak to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

BETWEEN_GPUS: Mapping[str, str] = MappingProxyType({"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"})
"""What NCCL is told in a VM.

Cards that are passed through seldom reach each other directly, and where they
only seem to, the first exchange hangs; through shared memory it is slower and
works. Whoever has NVLink says NCCL_P2P_DISABLE: 0 in the mode.
"""


@dataclass(frozen=True, slots=True)
class ParallelShape:
    """Each layer is split over `tensor` GPUs, and the layers are dealt out over `pipeline` such groups."""

    tensor: int
    pipeline: int


def shape_of(gpus: int) -> ParallelShape:
    """Return the shape for a number of GPUs.

    Tensor parallel must divide the number of attention heads, which powers of
    two nearly always do and three never; what is left over of the count is
    pipeline parallel, which asks nothing of the model.
    """
    tensor = 1
    while gpus > 0 and gpus % (tensor * 2) == 0:
        tensor *= 2
    return ParallelShape(tensor, max(1, gpus // tensor))
