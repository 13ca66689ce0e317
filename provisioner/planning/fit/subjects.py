"""From an entry of the catalogue and a quantisation to what is judged. Pure."""

from __future__ import annotations

from dataclasses import replace

from provisioner.domain.models.model import CatalogueModel, Subject
from provisioner.errors import InputError
from provisioner.planning.fit.engines import MemoryUse
from provisioner.planning.fit.weights import weight_bytes

_SAME = {
    "q4": "q4_k_m",
    "q5": "q5_k_m",
    "q6": "q6_k",
    "q8": "q8_0",
    "fp4": "mxfp4",
    "gptq-int4": "gptq",
    "w8a8": "int8",
}
_OTHER_FORM = {"f16": "fp16", "fp16": "f16", "f32": "fp32", "fp32": "f32"}


def default_quantization(model: CatalogueModel, use: MemoryUse) -> str:
    """Return what an engine serves when the name says nothing: Ollama's usual, or the publisher's own."""
    if not use.reads_gguf:
        return model.native
    return "mxfp4" if model.native == "mxfp4" else "q4_k_m"


def from_catalogue(model: CatalogueModel, name: str, quantization: str, use: MemoryUse) -> Subject:
    """Return an entry in one quantisation. Raises InputError for one that the engine cannot serve."""
    kind = known_quantization(quantization, use)
    return Subject(
        name=name,
        shape=model.shape,
        quantization=kind,
        weights_bytes=weight_bytes(model.shape, kind, in_gguf=use.reads_gguf).total,
        is_measured=False,
        origin=f"computed from the dimensions of {model.name}",
        entry=model,
    )


def as_quantized(subject: Subject, quantization: str, use: MemoryUse) -> Subject:
    """Return a model that was read, as it would be in another quantisation. Raises InputError."""
    kind = known_quantization(quantization, use)
    if kind == subject.quantization:
        return subject
    count = weight_bytes(subject.shape, kind, in_gguf=use.reads_gguf).total
    return replace(
        subject,
        quantization=kind,
        weights_bytes=count,
        is_measured=False,
        origin=f"computed from the dimensions of {subject.name}",
    )


def known_quantization(name: str, use: MemoryUse) -> str:
    """Return a quantisation as the engine's table calls it. Raises InputError that lists the known ones."""
    for kind in (name, _SAME.get(name, ""), _OTHER_FORM.get(name, "")):
        if kind in use.quantizations:
            return kind
    raise InputError(
        f'cannot serve weights in "{name}" with {use.name}',
        subject=f"--quantization {name}",
        next_step=f"give one of: {', '.join(use.quantizations)}; or another --engine",
    )
