"""Asking an installed engine itself which arguments it takes: the question, and what follows from the answer. Pure.

The tables know what was published. What lies in the guest may be of a version
that nobody named, as the archives of llama.cpp are, or have been built in
another way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from provisioner.domain.actions import CheckArguments, Step, StepKind
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.refusal import Refusal
from provisioner.engines.base import InferenceEngine
from provisioner.engines.flags import FOLDER, IMAGE, Fault, contradictions, help_command, told_by_help

ENGINES_FOLDER = "/opt/llm"
"""Where the playbooks lay engines down: NAME/KEY in there (playbooks/vars/engine.yml)."""


def help_step(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, name: str) -> Step | None:
    """Return the step that asks an engine about the arguments of its modes; None where there is nothing to ask.

    Args:
        fleet: what is wanted.
        node: where.
        engine: one that the node's modes use.
        name: what to call the step.
    """
    told = {
        str(mode.name): given
        for mode in fleet.modes_of(node)
        if mode.engine == engine.name and (given := told_by_help(engine.name, mode.arguments))
    }
    if not told:
        return None
    software = fleet.engines[engine.name]
    installation = engine.installation(software)
    archives = [each.sha256 for each in installation.archives]
    key = archives[0][:12] if archives else software.version
    folder = f"{ENGINES_FOLDER}/{engine.name.replace('.', '-')}/{key}"
    command = tuple(
        word.replace(FOLDER, folder).replace(IMAGE, installation.image)
        for word in help_command(engine.name, software.version)
    )
    # Whatever is laid down in its place has another name here, and is asked anew.
    what = "\n".join((*command, *archives, *installation.packages))
    action = CheckArguments(
        engine=engine.name,
        version=software.version,
        arguments=told,
        command=command,
        kept=f"{engine.name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}",
        privileged=bool(installation.image),
    )
    modes = ", ".join(f'"{each}"' for each in told)
    return Step(name, StepKind.ENSURE, action, f"the help of the installed {engine.name} knows those of {modes}")


@dataclass(frozen=True, slots=True)
class HelpVerdict:
    """What an engine's help says of the arguments; where they are refused, why, and what the cause is called."""

    said: str
    refusal: Refusal | None = None
    cause: str = ""


def help_verdict(asked: CheckArguments, help_text: str) -> HelpVerdict:
    """Judge modes' arguments by the engine's own word.

    Args:
        asked: the question.
        help_text: what the engine printed; of one that is no help text nothing follows.
    """
    told = [
        (mode, problem)
        for mode, arguments in asked.arguments.items()
        for problem in contradictions(asked.engine, asked.version, arguments, help_text)
    ]
    wrong = [(mode, problem) for mode, problem in told if problem.is_certain]
    if not wrong:
        doubts = dict.fromkeys(problem.found for _mode, problem in told)
        return HelpVerdict("; ".join(doubts) or f"its help knows the arguments of {', '.join(asked.arguments)}")
    reason = "; ".join(f'mode "{mode}": {problem.found}' for mode, problem in wrong)
    ways = "; ".join(
        f'in the arguments of mode "{mode}", {problem.flag}: {problem.instead or "take it out"}'
        for mode, problem in wrong
    )
    only_values = all(problem.fault is Fault.VALUE for _mode, problem in wrong)
    return HelpVerdict(reason, Refusal(reason, ways), "argument_refused" if only_values else "argument_unknown")
