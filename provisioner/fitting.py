"""Whether a model fits: puts together the catalogue, a model's files, the fleet's GPUs, and the judgement.

The library's face of `provisioner fit`; it opens no connection, and needs no
fleet file unless a GPU of the fleet is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provisioner.domain.models.cards import CARDS, find_card, sizes_of, usable_of
from provisioner.domain.models.catalogue import MODELS, find_model, near_names
from provisioner.domain.models.model import Subject
from provisioner.domain.quantities import GIB, parse_size, size_text
from provisioner.errors import InputError
from provisioner.planning.fit.engines import ENGINES, MemoryUse, default_context, memory_use
from provisioner.planning.fit.judge import FitReport, judge, largest_context
from provisioner.planning.fit.request import FitRequest, Gpu, gpu_of
from provisioner.planning.fit.split import MOST_GPUS
from provisioner.planning.fit.subjects import as_quantized, default_quantization, from_catalogue

_TIMES = re.compile(r"(\d+)\s*[x×*]\s*(.+)")
_SIZE = re.compile(r"\d+(?:\.\d+)?\s*[kmgt]i?b?", re.IGNORECASE)
COMMON_CARDS = ("Tesla T4", "RTX 3060 12GB", "RTX 4060 Ti 16GB", "RTX 3090", "RTX 5090", "L40S", "H100 80GB")
"""Shown when no GPU is named: one of each usual size."""


@dataclass(frozen=True, slots=True)
class CardVerdict:
    """How a model stands to one kind of card."""

    card: str
    fits: bool
    gpus_needed: int | None
    largest_context: int


def fit(
    model: str,
    *,
    gpus: Sequence[str] = (),
    context: int | None = None,
    parallel: int = 1,
    quantization: str | None = None,
    kv_dtype: str | None = None,
    engine: str | None = None,
    engine_version: str = "",
    ram: str | None = None,
    fleet_file: Path | None = None,
) -> FitReport:
    """Judge whether a model fits.

    Args:
        model: a name of the catalogue, a model's folder or ``config.json``, or a GGUF file.
        gpus: each a size (``24GiB``), a card (``rtx3090``) or a GPU of the fleet, also ``2x24GiB``; none: no place.
        context: tokens for each request; by default what the engine takes by itself.
        parallel: requests at once.
        quantization: of the weights; by default what the name or file says.
        kv_dtype: what the cache is kept in; by default the engine's own.
        engine: who serves; by default whoever serves such weights.
        engine_version: its version, where that matters (vLLM).
        ram: memory of the VM, for a node without GPU.
        fleet_file: where a GPU's name is looked for; by default the usual place, if there is one.

    Raises:
        InputError: an unknown name, with those that look like it; a damaged file; an option the engine lacks.
    """
    use = _engine(engine, engine_version) if engine else None
    cards = resolve_gpus(gpus, fleet_file)
    subject, use = _subject(model, quantization, use, engine_version)
    cache_type = _cache_type(kv_dtype, use)
    total = sum(card.nominal_bytes for card in cards)
    if context is not None and not 1 <= context <= 1 << 30:
        raise InputError(
            f"cannot judge a context of {context} tokens", subject=model, next_step="give a whole number of tokens"
        )
    request = FitRequest(
        subject=subject,
        engine=use,
        context=context or default_context(use.name, subject.shape, total or None),
        parallel=max(1, parallel),
        cache_type=cache_type,
        gpus=cards,
        share=use.share,
        ram_bytes=_ram(ram),
        context_is_given=context is not None,
    )
    return judge(request)


def on_common_cards(report: FitReport) -> tuple[CardVerdict, ...]:
    """Return how the model would stand on one card of each usual size."""
    found = []
    for name in COMMON_CARDS:
        request = replace(report.request, gpus=(_card(name),))
        each = judge(request)
        found.append(CardVerdict(name, bool(each.fits), each.gpus_needed, largest_context(request)))
    return tuple(found)


def resolve_gpus(names: Sequence[str], fleet_file: Path | None = None) -> tuple[Gpu, ...]:
    """Turn the words for GPUs into GPUs. Raises InputError."""
    found: list[Gpu] = []
    for word in names:
        match = _TIMES.fullmatch(word.strip())
        count, name = (int(match[1]), match[2]) if match else (1, word.strip())
        if not 1 <= count <= MOST_GPUS:
            raise InputError(
                f"cannot judge {count} GPUs", subject=f"--gpu {word}", next_step=f"give 1 to {MOST_GPUS} of them"
            )
        found += [_gpu(name, fleet_file)] * count
    if len(found) > MOST_GPUS:
        raise InputError(f"cannot judge {len(found)} GPUs", subject="--gpu", next_step=f"give 1 to {MOST_GPUS} of them")
    return tuple(found)


def _gpu(name: str, fleet_file: Path | None) -> Gpu:
    if _SIZE.fullmatch(name):
        size = _size(name, f"--gpu {name}")
        return Gpu(f"a GPU of {size_text(size)}", usable_of(size), size)
    of_fleet = _gpu_of_fleet(name, fleet_file)
    if of_fleet is not None:
        return of_fleet
    if find_card(name) is not None:
        return _card(name)
    sizes = sizes_of(name)
    if sizes:
        raise InputError(
            f'cannot tell which "{name}" is meant: it is sold in {len(sizes)} sizes',
            subject=f"--gpu {name}",
            next_step=f"give one of: {', '.join(sizes)}; or a size such as 24GiB",
        )
    raise InputError(
        f'cannot find a GPU "{name}": no GPU of the fleet and no card known here has that name',
        subject=f"--gpu {name}",
        next_step=f"give its memory, such as 24GiB, or one of: {', '.join(card.name for card in CARDS)}",
    )


def _card(name: str) -> Gpu:
    card = find_card(name)
    assert card is not None  # noqa: S101 - the caller has looked
    return Gpu(card.name, card.usable_bytes, card.nominal_gib * GIB)


def _gpu_of_fleet(name: str, fleet_file: Path | None) -> Gpu | None:
    """Look into the fleet file where there is one; ``rtx3090`` or ``pve1/rtx3090``."""
    from provisioner.settings import read_settings

    path = fleet_file or read_settings().fleet_file
    if fleet_file is None and not path.is_file():
        return None
    from provisioner.fleet import Fleet

    server, _, gpu = name.rpartition("/")
    for hypervisor in Fleet.load(path).spec.hypervisors.values():
        spec = next((each for key, each in hypervisor.gpus.items() if key == gpu), None)
        if spec is None or (server and hypervisor.name != server):
            continue
        return fleet_gpu(str(spec.name), spec.vram_bytes, hypervisor.name)
    return None


def fleet_gpu(name: str, vram_bytes: int | None, hypervisor: str) -> Gpu:
    """Return a GPU of the fleet; a card of that name and size counts with what it really has. Raises InputError."""
    card = find_card(name)
    if vram_bytes is None:
        if card is None:
            raise InputError(
                f'cannot judge GPU "{name}": the fleet file does not say how much memory it has',
                subject=f"hypervisors.{hypervisor}.gpus.{name}",
                next_step="write vram: beside its mapping, such as vram: 24GiB; or give --gpu a size",
            )
        return Gpu(name, card.usable_bytes, card.nominal_gib * GIB)
    return gpu_of(name, vram_bytes)


def _size(text: str, subject: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise InputError(
            f'cannot read the size "{text}": allowed is {error}', subject=subject, next_step="write it as 24GiB"
        ) from error


def _ram(text: str | None) -> int | None:
    return None if text is None else _size(text, "--ram")


def _engine(name: str, version: str) -> MemoryUse:
    found = memory_use(name, version)
    if found is None:
        raise InputError(
            f'cannot judge engine "{name}": nobody has described how it uses memory',
            subject=f"--engine {name}",
            next_step=f"give one of: {', '.join(ENGINES)}",
        )
    return found


def _subject(model: str, quantization: str | None, use: MemoryUse | None, version: str) -> tuple[Subject, MemoryUse]:
    from provisioner.adapters.files.models import looks_like_path, read_model

    wanted = quantization.lower().replace(" ", "") if quantization else ""
    named = None if looks_like_path(model) else find_model(model)
    if named is None:
        if not looks_like_path(model):
            near = near_names(model) or tuple(each.name for each in MODELS)
            raise InputError(
                f'cannot find model "{model}" in the catalogue',
                subject="fit",
                next_step=f"did you mean one of: {', '.join(near)}? Or give the model's folder, its config.json, or "
                "a GGUF file",
            )
        subject = read_model(model)
        is_gguf = subject.is_measured and "tensors read" in subject.origin
        use = use or _engine("llama.cpp" if is_gguf else "vllm", version)
        return (as_quantized(subject, wanted, use) if wanted else subject), use
    use = use or _engine("ollama" if _is_for_ollama(wanted or named.quantization, named.is_ollama) else "vllm", version)
    if named.is_file and not use.reads_gguf:
        use = _engine("llama.cpp", version)
    kind = wanted or named.quantization or default_quantization(named.model, use)
    return from_catalogue(named.model, model, kind, use), use


def _is_for_ollama(quantization: str, is_ollama: bool) -> bool:
    if not quantization:
        return is_ollama
    return quantization in ENGINES["ollama"].quantizations and quantization not in ENGINES["vllm"].quantizations


def _cache_type(wanted: str | None, use: MemoryUse) -> str:
    if wanted is None:
        return use.cache_types[0]
    if wanted not in use.cache_types:
        raise InputError(
            f'cannot keep the cache of {use.name} in "{wanted}"',
            subject=f"--kv-dtype {wanted}",
            next_step=f"give one of: {', '.join(use.cache_types)}",
        )
    return wanted
