"""Does a node do what it is for? Evidence in, named checks out; pure.

What is wrong with the cards themselves is `planning.gpu`'s judgement; here it
is put beside the engine: is it on the card, does it answer, as fast as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from provisioner.domain.fleet import GpuSpec, ModeSpec, NodeSpec
from provisioner.domain.gpu_reading import GpuFacts, GpuProcess
from provisioner.domain.node_evidence import EngineEvidence, NodeEvidence, UnitEvidence
from provisioner.domain.quantities import GIB, MIB, duration_text
from provisioner.engines.base import InferenceEngine
from provisioner.planning.gpu.diagnosis import diagnosis
from provisioner.planning.readiness import Check, CheckStatus

_OK, _WARN, _FAIL, _UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN

# A card shows a little less than its name says, and ECC takes up to a sixteenth more (a 16 GiB T4 shows 15 GiB, a
# 24 GiB A10 22.5).
_LEAST_VRAM_SHARE = 0.85
# A CUDA context without any model takes some hundred MiB, by rule of thumb; so this only warns.
_CONTEXT_BYTES = 600 * MIB
# Fewer earlier figures make no band.
_FEWEST_EARLIER = 3
_PROBE_FACTOR, _PROBE_SLACK_SECONDS = 2.0, 0.25
_SPEED_WARN, _SPEED_FAIL = 0.8, 0.5
_MANY_RESTARTS = 3


def node_checks(
    node: NodeSpec, mode: ModeSpec, gpus: tuple[GpuSpec, ...], engine: InferenceEngine, evidence: NodeEvidence
) -> tuple[Check, ...]:
    """Return every finding: cards first, then the engine, each only as far as the one before it makes sense.

    Args:
        node: whose.
        mode: what it is for.
        gpus: the GPUs that the fleet gives it.
        engine: what runs on it.
        evidence: what was learnt.
    """
    return tuple(_checks(node, mode, gpus, engine, evidence))


def _checks(
    node: NodeSpec, mode: ModeSpec, gpus: tuple[GpuSpec, ...], engine: InferenceEngine, evidence: NodeEvidence
) -> Iterator[Check]:
    facts = evidence.facts
    if not gpus:
        yield Check("gpu", _OK, "no GPU is given to this node; it computes on its CPU", "", "")
    elif facts is None:
        step = f"let us in: provisioner up {node.name}"
        yield Check("gpu", _UNKNOWN, f"nobody could look: {evidence.inside}", "a card may be missing or sick", step)
    else:
        yield from diagnosis(facts, node=node.name, cards=len(gpus))
        yield from _memory(node, gpus, facts)
    if evidence.unit is not None:
        yield _steady(node, evidence.unit)
    yield _answers(node, mode, engine.name, evidence.engine)
    if evidence.engine.trouble:
        return
    if gpus:
        yield on_gpu(node, mode, engine, evidence)
    yield from _pace(node, evidence.engine)


def _memory(node: NodeSpec, gpus: tuple[GpuSpec, ...], facts: GpuFacts) -> Iterator[Check]:
    why = "what fits on the card was reckoned with the fleet file's figure"
    seen = sorted((reading.memory_bytes for reading in facts.readings if reading.memory_bytes), reverse=True)
    wanted = sorted((gpu.vram_bytes for gpu in gpus if gpu.vram_bytes), reverse=True)
    if not seen or not wanted:
        return
    shown = ", ".join(f"{size / GIB:.1f} GiB" for size in seen)
    small = [size for size, want in zip(seen, wanted, strict=False) if size < want * _LEAST_VRAM_SHARE]
    if len(seen) < len(wanted) or small:
        said = ", ".join(f"{size / GIB:.1f} GiB" for size in wanted)
        step = "correct `vram` of the GPU in the fleet file, or the mapping, if that is another card"
        yield Check("vram", _FAIL, f"{shown}; the fleet file says {said}", why, step)
    else:
        yield Check("vram", _OK, shown, why, "")


def _steady(node: NodeSpec, unit: UnitEvidence) -> Check:
    why = "an engine that is started again and again loses what it was doing each time"
    step = f"provisioner logs {node.name} -n 200 shows what it died of"
    if unit.state not in ("active", "activating", "reloading"):
        return Check("engine_runs", _FAIL, f"its unit is {unit.state}", "nobody answers without it", step)
    if unit.restarts >= _MANY_RESTARTS:
        return Check("engine_runs", _WARN, f"its unit was restarted {unit.restarts} times", why, step)
    return Check("engine_runs", _OK, f"its unit is {unit.state}", why, "")


def _answers(node: NodeSpec, mode: ModeSpec, engine: str, seen: EngineEvidence) -> Check:
    why = "a node is ready when its model has answered, not before"
    if seen.trouble:
        step = seen.next_step or f"provisioner logs {node.name} -n 50"
        return Check("engine_answers", _FAIL, f"{engine}: {seen.trouble}", why, step)
    if mode.model not in seen.models:
        served = ", ".join(seen.models) or "none"
        found = f'{engine} does not list model "{mode.model}"; it serves: {served}'
        return Check("engine_answers", _FAIL, found, why, f"provisioner up {node.name}")
    return Check("engine_answers", _OK, f"{engine} answers with {mode.model}", why, "")


def on_gpu(node: NodeSpec, mode: ModeSpec, engine: InferenceEngine, evidence: NodeEvidence) -> Check:
    """Say whether the engine holds its model in GPU memory: by its own word, else by the driver's list of programs."""
    id_, why = "engine_on_gpu", "an engine whose GPU fails often goes on without a word, on the CPU and far slower"
    step = f"provisioner logs {node.name} says at load why; provisioner up {node.name} repairs a broken driver"
    name = engine.name
    if mode.gpu_layers == 0:
        return Check(id_, _OK, f"mode {mode.name} asks for the CPU (gpu_layers: 0)", why, "")
    if not engine.traits.uses_gpus:
        return Check(id_, _OK, f"{name} computes on the CPU by its nature; the card lies idle", why, "")
    share = _own_word(evidence.engine)
    if share is not None:
        found = f"{name} holds {share:.0%} of its model in GPU memory"
        if share == 0:
            return Check(id_, _FAIL, f"{name} computes on the CPU: none of its model is in GPU memory", why, step)
        if share < 1 and mode.gpu_layers is None:
            less = f"provisioner fit {mode.model} says what would fit; or give the mode less context"
            return Check(id_, _WARN, f"{found}; the rest is computed on the CPU", why, less)
        return Check(id_, _OK, found, why, "")
    facts = evidence.facts
    answered = facts is not None and facts.readings and facts.answer is not None and facts.answer.exit_code == 0
    if facts is None or facts.processes is None or not answered:
        return Check(id_, _UNKNOWN, "neither engine nor driver tells what is in GPU memory", why, step)
    own = _own_processes(facts.processes, evidence.unit)
    if not own:
        others = ", ".join(sorted({process.name for process in facts.processes})) or "none"
        return Check(id_, _FAIL, f"{name} computes on the CPU: it is no program on the card ({others})", why, step)
    sizes = [process.memory_bytes for process in own]
    if None in sizes:
        return Check(id_, _OK, f"{name} is a program on the card", why, "")
    held = sum(size or 0 for size in sizes)
    if held < _CONTEXT_BYTES:
        found = f"{name} holds only {held / MIB:.0f} MiB on the card, too little for any but a tiny model"
        return Check(id_, _WARN, found, why, step)
    return Check(id_, _OK, f"{name} holds {held / GIB:.1f} GiB on the card", why, "")


def _own_word(seen: EngineEvidence) -> float | None:
    if not seen.model_bytes or seen.gpu_bytes is None:
        return None
    return min(seen.gpu_bytes / seen.model_bytes, 1.0)


def _own_processes(processes: tuple[GpuProcess, ...], unit: UnitEvidence | None) -> list[GpuProcess]:
    """Return the programs on the card that are the engine's; all of them where its processes are not known."""
    if unit is None or not unit.pids:
        return list(processes)
    return [process for process in processes if process.pid in unit.pids]


def _pace(node: NodeSpec, seen: EngineEvidence) -> Iterator[Check]:
    if seen.probe_seconds is not None:
        yield _probe(node, seen.probe_seconds, seen.probe_history)
    if seen.tokens_per_second is not None:
        yield _speed(node, seen.tokens_per_second, seen.bench)


def _probe(node: NodeSpec, seconds: float, history: tuple[float, ...]) -> Check:
    why = "a first token much later than ever before is how a sick card or a busy host shows itself"
    shown = f"first token after {duration_text(seconds)}"
    if len(history) < _FEWEST_EARLIER:
        left = f"{len(history)} of {_FEWEST_EARLIER} earlier ones to compare with"
        return Check("probe", _OK, f"{shown}; {left}", why, "")
    usual = median(history)
    allowed = max(usual * _PROBE_FACTOR, usual + _PROBE_SLACK_SECONDS)
    found = f"{shown}; usually {duration_text(usual)}, up to {duration_text(allowed)} is in its band"
    if seconds > allowed:
        step = f"provisioner top {node.name} shows who else works there; then test again"
        return Check("probe", _FAIL, found, why, step)
    return Check("probe", _OK, found, why, "")


def _speed(node: NodeSpec, rate: float, bench: Mapping[str, float] | None) -> Check:
    why = "what it did before it should do again"
    if bench is None or not bench.get("tokens_per_second_p50"):
        step = f"provisioner bench {node.name}"
        return Check("speed", _OK, f"{rate:.1f} tokens/s; never measured before", why, step)
    usual = bench["tokens_per_second_p50"]
    found = f"{rate:.1f} tokens/s; {usual:.1f} when it was last measured"
    step = f"provisioner top {node.name} shows heat, power and who else works there; provisioner bench {node.name}"
    if rate < usual * _SPEED_FAIL:
        return Check("speed", _FAIL, found, why, step)
    if rate < usual * _SPEED_WARN:
        return Check("speed", _WARN, found, why, step)
    return Check("speed", _OK, found, why, "")
