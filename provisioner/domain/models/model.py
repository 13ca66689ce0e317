"""A model as `fit` knows it: from the catalogue, or read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioner.domain.models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One model of the catalogue.

    Attributes:
        name: as Ollama's library calls it.
        family: whose model it is.
        repository: its publisher's own weights on Hugging Face.
        shape: its dimensions.
        parameters: how many weights the publisher claims.
        licence: under what it may be used.
        is_gated: the repository wants the licence accepted by the token's account first.
        quantized: quantisation -> repository, of ready-made quantised weights.
        also: other names of the same weights.
        sources: where the dimensions stand.
        unverified: what of this entry no primary source has confirmed.
    """

    name: str
    family: str
    repository: str
    shape: ModelShape
    parameters: float
    licence: str
    is_gated: bool
    sources: tuple[str, ...]
    quantized: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    unverified: str = ""
    native: str = "bf16"
    """The quantisation that the publisher's own weights have."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What `fit` judges: a shape and the bytes of its weights.

    Attributes:
        name: as the person called it.
        shape: its dimensions.
        quantization: in lower case, such as ``q4_k_m``, ``awq`` or ``bf16``.
        weights_bytes: all weights together.
        is_measured: the bytes were read, not computed.
        origin: where shape and bytes come from, in words.
        entry: its entry in the catalogue, where there is one.
    """

    name: str
    shape: ModelShape
    quantization: str
    weights_bytes: int
    is_measured: bool
    origin: str
    entry: CatalogueModel | None = None
