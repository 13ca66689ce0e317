"""The steps that lay down a node's engines. Pure."""

from __future__ import annotations

from provisioner.domain.actions import RunPlaybook, Step, StepKind
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.engines.base import InferenceEngine
from provisioner.planning.launches import Compute, Engines, playbook_variables, units_of
from provisioner.planning.mode_judgement import cautions


def engine_steps(
    fleet: FleetSpec, node: NodeSpec, engines: Engines, kind: StepKind, compute: Compute = None
) -> tuple[Step, ...]:
    """Return one step for each engine of a node's modes; that of the mode it is in comes last, and starts.

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
    return tuple(
        Step(
            "configure" if len(ordered) == 1 else f"configure {engine.name}",
            kind,
            RunPlaybook(engine.playbook, playbook_variables(fleet, node, engine, units)),
            _reason(fleet, node, engine, compute),
        )
        for engine in ordered
    )


def _reason(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, compute: Compute) -> str:
    modes = [mode for mode in fleet.modes_of(node) if mode.engine == engine.name]
    current = fleet.mode_of(node)
    shown = [current] if current in modes else modes
    models = ", ".join(dict.fromkeys(model for mode in shown for model in mode.models))
    serves = "serves" if current in modes else "is laid down to serve"
    gpus = f" on {len(node.gpus)} GPUs" if len(node.gpus) > 1 else ""
    others = [f'"{mode.name}"' for mode in modes if mode not in shown]
    beside = f"; laid down beside it: {', '.join(others)}" if others else ""
    told = dict.fromkeys(caution for mode in modes for caution in cautions(fleet, node, engine, mode, compute))
    return "; ".join((f"{engine.name} {serves} {models}{gpus}{beside}", *told))
