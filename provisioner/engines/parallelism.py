"""How a model is divided over several GPUs of one node."""

from __future__ import annotations

from dataclasses import dataclass


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
