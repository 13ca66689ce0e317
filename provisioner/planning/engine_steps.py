"""The steps that lay down a node's engines. Pure."""

from __future__ import annotations

from provisioner.domain.actions import PullModels, RunPlaybook, Step, StepKind
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ModeSpec
from provisioner.domain.quantities import size_text
from provisioner.engines.base import InferenceEngine
from provisioner.front_ends import open_webui
from provisioner.planning.engine_help import help_step
from provisioner.planning.launches import Compute, Engines, engine_variables, hot_models_of, page_variables, units_of
from provisioner.planning.mode_judgement import cautions


def engine_steps(
    fleet: FleetSpec, node: NodeSpec, engines: Engines, kind: StepKind, compute: Compute = None
) -> tuple[Step, ...]:
    """Return one step for each engine of a node's modes; that of the mode it is in comes last, and starts.

    Behind them each engine is asked whether it knows the arguments of its modes.

    Args:
        fleet: what is wanted.
        node: the node, in the mode that it is to be in.
        engines: those that are known.
        kind: whether the steps are known to change something.
        compute: the GPUs' compute capability, where it is known.
    """
    units = units_of(fleet, node, engines, compute)
    current = engines[fleet.mode_of(node).engine]
    used = list(dict.fromkeys(unit.engine.name for unit in units if unit.engine is not current))
    ordered = [*(engines[name] for name in used), current]
    laid_down = tuple(
        Step(
            "configure" if len(ordered) == 1 else f"configure {engine.name}",
            kind,
            RunPlaybook(engine.playbook, engine_variables(fleet, node, engine, units)),
            _reason(fleet, node, engine, compute),
        )
        for engine in ordered
    )
    asked = (
        help_step(fleet, node, engine, "arguments" if len(ordered) == 1 else f"arguments {engine.name}")
        for engine in ordered
    )
    checks = tuple(step for step in asked if step is not None)
    return (*laid_down, *checks, *_pull_step(fleet, node, current, kind), *_page_step(fleet, node, engines, kind))


def _page_step(fleet: FleetSpec, node: NodeSpec, engines: Engines, kind: StepKind) -> tuple[Step, ...]:
    """Return the step that lays down the page in front of the engines, where one is wanted."""
    if node.web_ui is None:
        return ()
    action = RunPlaybook(open_webui.PLAYBOOK, page_variables(fleet, node, node.web_ui, engines))
    return (Step("configure open-webui", kind, action, f"a page to chat with, at port {node.web_ui.port}"),)


def _pull_step(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, kind: StepKind) -> tuple[Step, ...]:
    """Return the step that fetches what the running engine's modes serve, where it has a store of its own."""
    models = hot_models_of(fleet, node, engine) if engine.stored_path else ()
    budget = node.models.budget_bytes
    if not models and budget is None:
        return ()
    pull = PullModels(models, node.patience.engine_seconds)
    reasons = [f"{', '.join(models)} in its store"] if models else []
    if budget is not None:
        reasons.append(f"models take at most {size_text(budget)}: the least recently used that no mode keeps make room")
    return (Step("pull" if models else "models", kind, pull, "; ".join(reasons)),)


def _reason(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, compute: Compute) -> str:
    modes = [mode for mode in fleet.modes_of(node) if mode.engine == engine.name]
    current = fleet.mode_of(node)
    shown = [current] if current in modes else modes
    models = ", ".join(dict.fromkeys(model for mode in shown for model in mode.models))
    serves = "serves" if current in modes else "is laid down to serve"
    gpus = f" on {len(node.gpus)} GPUs" if len(node.gpus) > 1 else ""
    others = [f'"{mode.name}"' for mode in modes if mode not in shown]
    spread = "".join(f"; {_together(fleet, node, mode)}" for mode in modes if mode.nodes)
    beside = f"; laid down beside it: {', '.join(others)}" if others else ""
    told = dict.fromkeys(caution for mode in modes for caution in cautions(fleet, node, engine, mode, compute))
    return "; ".join((f"{engine.name} {serves} {models}{gpus}{beside}{spread}", *told))


def _together(fleet: FleetSpec, node: NodeSpec, mode: ModeSpec) -> str:
    """Say what a node's part is in a mode that several serve."""
    names = [each.name for each in fleet.span_of(node, mode)]
    head = names[0]
    way = " through Ray" if mode.with_ray else ""
    part = "and this one answers" if head == node.name else f"and {head} answers"
    return f'mode "{mode.name}" is served by {", ".join(names)} together{way}, {part}'
