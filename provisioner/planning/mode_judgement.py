"""May a mode run on a node? By its engine, its flags, the GPU, and whether its model fits; pure.

What is certain refuses the plan, with what to write instead; what is doubtful
is said beside the step that lays the mode down.
"""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_driver import DEFAULT_BRANCH, DriverKind
from provisioner.domain.mode import ModeSpec
from provisioner.domain.refusal import Refusal
from provisioner.engines.arguments import flags_of, variables_of
from provisioner.engines.base import InferenceEngine
from provisioner.engines.flags import FlagProblem, GpuProblem, check_arguments, check_gpu, check_launch
from provisioner.planning.gpu.driver import wish_of
from provisioner.planning.launches import Compute, Engines, setting_of


def engine_refusal(fleet: FleetSpec, node: NodeSpec, engines: Engines, compute: Compute = None) -> Refusal | None:
    """Return why one of a node's modes cannot run on it, the first one's reason first; None if all can."""
    for mode in fleet.modes_of(node):
        found = mode_refusal(fleet, node, engines[mode.engine], mode, compute)
        if found is not None:
            return Refusal(f'mode "{mode.name}" cannot run on it: {found.reason}', found.next_step)
    return None


def mode_refusal(
    fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, mode: ModeSpec, compute: Compute = None
) -> Refusal | None:
    """Return why a mode cannot run on a node, or None as far as can be told."""
    found = engine.refusal(setting_of(fleet, node, mode, compute))
    if found is not None:
        return found
    wrong = [problem for problem in _flag_problems(fleet, mode) if problem.is_certain]
    if wrong:
        reason = "; ".join(problem.found for problem in wrong)
        ways = dict.fromkeys(f"{problem.flag}: {problem.instead or 'take it out'}" for problem in wrong)
        return Refusal(reason, f'in the arguments of mode "{mode.name}", {"; ".join(ways)}')
    too_old = [problem for problem in _launch_problems(fleet, node, engine, mode, compute) if problem.is_certain]
    if too_old:
        reason = "; ".join(problem.found for problem in too_old)
        pins = "; ".join(dict.fromkeys(problem.instead for problem in too_old))
        return Refusal(f"it cannot be started as we start it: {reason}", f"under engines in the fleet file, {pins}")
    unfit = [problem for problem in _gpu_problems(fleet, node, mode, compute) if problem.is_certain]
    return Refusal(unfit[0].found, unfit[0].instead) if unfit else None


def cautions(
    fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, mode: ModeSpec, compute: Compute = None
) -> tuple[str, ...]:
    """Return what a reader of the plan should know of a mode on a node: reported, doubtful, or lost."""
    doubts = [
        *(problem for problem in _flag_problems(fleet, mode) if not problem.is_certain),
        *(problem for problem in _launch_problems(fleet, node, engine, mode, compute) if not problem.is_certain),
        *(problem for problem in _gpu_problems(fleet, node, mode, compute) if not problem.is_certain),
    ]
    return (*engine.cautions(setting_of(fleet, node, mode, compute)), *map(str, doubts))


def _flag_problems(fleet: FleetSpec, mode: ModeSpec) -> tuple[FlagProblem, ...]:
    version = fleet.engines[mode.engine].version
    return check_arguments(mode.engine, version, mode.arguments, keys=mode.keys)


def _launch_problems(
    fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, mode: ModeSpec, compute: Compute
) -> tuple[FlagProblem, ...]:
    """Return which of our own words the version does not take; the mode's own are judged as it writes them."""
    setting = setting_of(fleet, node, mode, compute)
    launch = engine.launch(setting)
    told = check_launch(mode.engine, setting.software.version, launch.argv, launch.environment)
    written = {*flags_of(setting.mode.arguments), *variables_of(setting.mode.arguments)}
    return tuple(problem for problem in told if problem.flag.lstrip("-") not in written)


def _gpu_problems(fleet: FleetSpec, node: NodeSpec, mode: ModeSpec, compute: Compute) -> tuple[GpuProblem, ...]:
    setting = setting_of(fleet, node, mode, compute)
    # By the names that we use ourselves: `q: awq` asks the card for as much as `quantization: awq`.
    said = setting.mode.arguments
    return check_gpu(
        mode.engine,
        setting.software.version,
        compute,
        _branch_of(fleet, node),
        build=setting.software.cuda_build,
        quantization=str(said.get("quantization", said.get("quantize", ""))),
        dtype=str(said.get("dtype", "")),
    )


def _branch_of(fleet: FleetSpec, node: NodeSpec) -> str:
    """Return the branch of NVIDIA's driver that a node is given; empty where it gets none of us."""
    wish = wish_of(fleet, node)
    if isinstance(wish, Refusal) or wish.kind in (DriverKind.NONE, DriverKind.ROCM):
        return ""
    return str(wish.branch or DEFAULT_BRANCH)
