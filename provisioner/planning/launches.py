"""The units of a node's engines: one for every distinct way in which its modes start one. Pure.

All modes of a node are laid down at `up`, so that switching needs nothing but
stopping one unit and starting another; modes whose engine is started alike,
two sets of models of one Ollama for instance, share a unit, and switching
between those restarts nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import cast

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ArgumentValue, Artifact, ModeSpec, Pull, Software, WebUiSpec
from provisioner.domain.names import EngineName, ModeName
from provisioner.engines.base import InferenceEngine, Launch, Setting, Span
from provisioner.engines.flags import canonical_arguments
from provisioner.front_ends import open_webui

Engines = Mapping[EngineName, InferenceEngine]
Compute = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class EngineUnit:
    """One way in which a node runs an engine; `name` is that of the first mode that it serves."""

    name: ModeName
    engine: InferenceEngine
    launch: Launch
    modes: tuple[ModeSpec, ...]

    @property
    def service(self) -> str:
        """The systemd unit."""
        return f"llm-{self.name}.service"

    @property
    def services_beside(self) -> tuple[str, ...]:
        """The systemd units of what runs as long as it does."""
        return tuple(f"llm-{_name_beside(self, launch)}.service" for launch in self.launch.beside)

    @property
    def container(self) -> str:
        """By which name Docker knows it; empty where it runs in no container."""
        return f"llm-{self.name}" if self.engine.traits.software is Software.IMAGE else ""


def setting_of(fleet: FleetSpec, node: NodeSpec, mode: ModeSpec, compute: Compute = None) -> Setting:
    """Return what an engine must know of one mode on one node."""
    software = fleet.engines[mode.engine]
    # By the names that we use ourselves, so that `tp: 2` takes the place of our own word and does not stand beside it.
    if mode.arguments:
        said = canonical_arguments(mode.engine, software.version, mode.arguments)
        mode = replace(mode, arguments=cast("Mapping[str, ArgumentValue]", said))
    return Setting(
        node=node,
        mode=mode,
        software=software,
        gpus=fleet.gpus_of(node),
        files={model: fleet.models[model] for model in mode.models if model in fleet.models},
        compute=compute,
        huggingface_token=fleet.huggingface_token,
        span=_span_of(fleet, node, mode),
    )


def _span_of(fleet: FleetSpec, node: NodeSpec, mode: ModeSpec) -> Span:
    members = fleet.span_of(node, mode)
    if not members:
        return Span()
    addresses = tuple(str(each.address.ip) for each in members)
    return Span(addresses, [each.name for each in members].index(node.name), with_ray=mode.with_ray)


def units_of(fleet: FleetSpec, node: NodeSpec, engines: Engines, compute: Compute = None) -> tuple[EngineUnit, ...]:
    """Return the units of a node that these engines run, in the order of its modes."""
    units: list[EngineUnit] = []
    for mode in fleet.modes_of(node):
        if mode.engine not in engines:
            continue
        engine = engines[mode.engine]
        launch = engine.launch(setting_of(fleet, node, mode, compute))
        at = next((i for i, each in enumerate(units) if each.engine is engine and each.launch == launch), None)
        if at is None:
            units.append(EngineUnit(mode.name, engine, launch, (mode,)))
        else:
            units[at] = EngineUnit(units[at].name, engine, launch, (*units[at].modes, mode))
    return tuple(units)


def unit_of(fleet: FleetSpec, node: NodeSpec, engines: Engines, mode: ModeSpec | None = None) -> EngineUnit:
    """Return the unit that serves a mode of a node; that of the mode it is in when none is given."""
    wanted = (mode or fleet.mode_of(node)).name
    return next(unit for unit in units_of(fleet, node, engines) if any(each.name == wanted for each in unit.modes))


def engine_variables(
    fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, units: tuple[EngineUnit, ...]
) -> dict[str, object]:
    """Return the variables of an engine's playbook on a node, as its header lists them.

    Secrets are references still: whoever runs the playbook puts them in.

    Args:
        fleet: what is wanted.
        node: where.
        engine: whose playbook.
        units: all of the node's, from `units_of`.
    """
    software = fleet.engines[engine.name]
    installation = engine.installation(software)
    own = [unit for unit in units if unit.engine is engine]
    current = fleet.mode_of(node).name
    active = next((unit.name for unit in own if any(mode.name == current for mode in unit.modes)), "")
    wanted = hot_models_of(fleet, node, engine)
    # What an engine fetches into its own store, room has to be made for first where models have a budget.
    fetches_itself = bool(engine.stored_path) and node.models.budget_bytes is not None
    pulls = () if engine.traits.serves_files or fetches_itself else _hot_pulls(fleet, node, engine)
    return {
        "engine_version": software.version,
        "engine_archives": [_file(each) for each in installation.archives],
        "engine_packages": list(installation.packages),
        "engine_requirements": installation.requirements,
        "engine_image": installation.image,
        "engine_launches": [each for unit in own for each in _launches(unit, units)],
        "engine_active": str(active),
        "engine_files": _files(fleet, wanted),
        "engine_pulls": list(pulls),
    }


def fetching_variables(
    fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, mode: ModeSpec, units: tuple[EngineUnit, ...]
) -> dict[str, object]:
    """Return the variables with which an engine's playbook only fetches the models of a mode, and touches no unit."""
    laid_down = engine_variables(fleet, node, engine, units)
    unit = next(unit for unit in units if mode in unit.modes)
    return {
        **laid_down,
        "engine_launches": [],
        "engine_active": "",
        "engine_files": _files(fleet, mode.models),
        "engine_pulls": [] if engine.traits.serves_files else _pulls(fleet, node, engine, mode),
        # Whose private file has the token.
        "engine_token_unit": str(unit.name),
    }


def _files(fleet: FleetSpec, models: Iterable[str]) -> list[dict[str, str]]:
    files = [fleet.models[model] for model in models if model in fleet.models]
    return [{"name": each.name, **_file(each)} for each in files]


def hot_models_of(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine) -> tuple[str, ...]:
    """Return the models of an engine that a node has fetched before anybody asks: the others come on demand.

    Without its model an engine does not start, so that of the mode which the node is in is among them; but for those
    that fetch into a store of their own, once they run.
    """
    modes = _modes(fleet, node, engine)
    return tuple(dict.fromkeys(model for mode, is_hot in modes for model in (mode.models if is_hot else mode.pinned)))


def _hot_pulls(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine) -> tuple[str, ...]:
    """Return the same as the engine's playbook takes it, with what else those modes ask for by name."""
    modes = _modes(fleet, node, engine)
    pulls = (_pulls(fleet, node, engine, mode) if is_hot else mode.pinned for mode, is_hot in modes)
    return tuple(dict.fromkeys(chain.from_iterable(pulls)))


def _pulls(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, mode: ModeSpec) -> list[str]:
    return list(engine.pulls(setting_of(fleet, node, mode).mode))


def _modes(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine) -> Iterator[tuple[ModeSpec, bool]]:
    """Yield the modes of an engine, each with whether all its models are there before anybody asks."""
    current = None if engine.stored_path else fleet.mode_of(node)
    for mode in fleet.modes_of(node):
        if mode.engine == engine.name:
            yield mode, mode.pull is Pull.UP or mode is current


def page_variables(fleet: FleetSpec, node: NodeSpec, page: WebUiSpec, engines: Engines) -> dict[str, object]:
    """Return the variables of the playbook of the page in front of a node's engines; the same as an engine's."""
    installation = open_webui.installation(page)
    used = {mode.engine: engines[mode.engine] for mode in fleet.modes_of(node)}
    launch = open_webui.launch(page, used.values(), node.api_key)
    return {
        "engine_version": page.version,
        "engine_archives": [],
        "engine_packages": list(installation.packages),
        "engine_requirements": installation.requirements,
        "engine_image": "",
        "engine_launches": [
            {
                "unit": open_webui.UNIT,
                "description": "Open WebUI",
                "argv": list(launch.argv),
                "environment": dict(launch.environment),
                "secrets": _secrets(launch),
                "models": [],
                "port": page.port,
                "gpu": False,
                "memory_max": None,
                "cpu_quota": None,
                "shared_memory": False,
                # It runs beside whichever engine does.
                "conflicts": [],
            }
        ],
        "engine_active": open_webui.UNIT,
        "engine_files": [],
        "engine_pulls": [],
    }


def _file(artifact: Artifact) -> dict[str, str]:
    return {"source": artifact.source, "sha256": artifact.sha256}


def _secrets(launch: Launch) -> dict[str, object]:
    return {name: list(each) if isinstance(each, tuple) else each for name, each in launch.secrets.items()}


def _launches(unit: EngineUnit, units: tuple[EngineUnit, ...]) -> Iterator[dict[str, object]]:
    """Yield what a unit is made of: what runs beside it, then the engine itself."""
    beside = [_name_beside(unit, launch) for launch in unit.launch.beside]
    # A mode's own helpers are no rivals: they come and go with it.
    rivals = [name for each in units if each.name != unit.name for name in _names(each)]
    models = dict.fromkeys(model for mode in unit.modes for model in mode.models)
    told = f"{unit.engine.name} serving {', '.join(models)}"
    for name, launch in zip(beside, unit.launch.beside, strict=True):
        yield {
            **_launch(name, f"{launch.role} of {told}", launch, unit, rivals),
            "models": [],
            "part_of": str(unit.name),
        }
    needs = {"needs": beside} if beside else {}
    yield {**_launch(str(unit.name), told, unit.launch, unit, rivals), "models": list(models), **needs}


def _name_beside(unit: EngineUnit, launch: Launch) -> str:
    return f"{unit.name}-{launch.role}"


def _names(unit: EngineUnit) -> tuple[str, ...]:
    return (str(unit.name), *(_name_beside(unit, launch) for launch in unit.launch.beside))


def _launch(name: str, description: str, launch: Launch, unit: EngineUnit, rivals: Sequence[str]) -> dict[str, object]:
    return {
        "unit": name,
        "description": description,
        "argv": list(launch.argv),
        "environment": dict(launch.environment),
        "secrets": _secrets(launch),
        "port": unit.engine.port,
        "gpu": launch.needs_gpu,
        "memory_max": launch.memory_max_bytes,
        "cpu_quota": launch.cpu_quota_percent,
        "shared_memory": launch.shared_memory,
        "conflicts": list(rivals),
        **({"always": True} if launch.always else {}),
    }
