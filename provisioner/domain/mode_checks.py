"""Laws of modes and engines in the fleet file. Each returns where, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import EngineSpec, EngineTraits, ModeSpec, Software
from provisioner.domain.names import EngineName, ModeName
from provisioner.domain.problems import Problem, known
from provisioner.domain.routing_policy import Away


def mode_checks(fleet: FleetSpec, engines: Mapping[EngineName, EngineTraits]) -> Iterator[Problem]:
    """Return every broken law, in the order of the file's sections."""
    for name in fleet.engines:
        if name not in engines:
            yield Problem(("engines", name), f'unknown engine "{name}"', known(engines))
    for mode in fleet.modes.values():
        traits = engines.get(mode.engine)
        if traits is None:
            yield Problem(("modes", mode.name, "engine"), f'unknown engine "{mode.engine}"', known(engines))
            continue
        yield from _software_is_pinned(mode, fleet.engines.get(mode.engine), traits)
        yield from _models_are_served(fleet, mode, traits)
        yield from _keys_have_an_effect(mode, traits)
    yield from _aliases_are_clear(fleet)
    yield from _fallbacks_exist(fleet)
    for node in fleet.nodes.values():
        yield from _purposes_fit(fleet, node)
        yield from _page_fits(fleet, node, engines)


def _aliases_are_clear(fleet: FleetSpec) -> Iterator[Problem]:
    """Let no name mean two models."""
    models = {model: mode.name for mode in fleet.modes.values() for model in mode.models}
    taken: dict[str, str] = {}
    for mode in fleet.modes.values():
        for at, alias in enumerate(mode.routing.aliases):
            if alias in models and alias != mode.model:
                found = f'alias "{alias}" is a model of mode "{models[alias]}"'
            elif alias in taken and taken[alias] != mode.model:
                found = f'alias "{alias}" already means model "{taken[alias]}"'
            else:
                taken[alias] = mode.model
                continue
            yield Problem(("modes", mode.name, "aliases", at), found, "a name that means one model")


def _fallbacks_exist(fleet: FleetSpec) -> Iterator[Problem]:
    """Let no mode rely on a fallback that nobody is, and no node without an engine be one."""
    stand_ins = [node for node in fleet.nodes.values() if node.stands_in]
    for node in stand_ins:
        if all(name in fleet.releases for name in node.modes):
            yield Problem(("nodes", node.name, "role"), "a fallback without an engine", "a mode with a model")
    for mode in fleet.modes.values():
        if mode.routing.away is not Away.WAIT and not stand_ins:
            allowed = "a node with role: fallback; or away: wait"
            yield Problem(
                ("modes", mode.name, "away"), f"{mode.routing.away.value}, and no node is a fallback", allowed
            )


def _software_is_pinned(mode: ModeSpec, spec: EngineSpec | None, traits: EngineTraits) -> Iterator[Problem]:
    needed = traits.software
    missing = (
        spec is None
        or not {
            Software.ARCHIVES: bool(spec.archives),
            Software.VERSION: bool(spec.version),
            Software.IMAGE: bool(spec.image),
        }[needed]
    )
    if missing:
        what = {Software.ARCHIVES: "archive", Software.VERSION: "version", Software.IMAGE: "image"}[needed]
        yield Problem(
            ("modes", mode.name, "engine"),
            f'engine "{mode.engine}" has no {what}',
            f"an entry engines.{mode.engine} with {needed.value}; {traits.published}",
        )


def _models_are_served(fleet: FleetSpec, mode: ModeSpec, traits: EngineTraits) -> Iterator[Problem]:
    if len(mode.models) > 1 and not traits.serves_many:
        yield Problem(
            ("modes", mode.name, "models"),
            f"{len(mode.models)} models",
            f"one model per mode: {mode.engine} serves one at a time; give each a mode of its own",
        )
    for at, model in enumerate(mode.models):
        place = ("modes", mode.name, "models", at) if mode.more_models else ("modes", mode.name, "model")
        if model in mode.models[:at]:
            yield Problem(place, f'model "{model}" twice', "each model once")
        elif traits.serves_files and model not in fleet.models:
            yield Problem(
                place,
                f'model "{model}" has no source',
                f'an entry "{model}" under models, with source and sha256; defined are: '
                f"{', '.join(fleet.models) or 'none'}",
            )
    for at, model in enumerate(mode.pinned):
        if model not in mode.models:
            yield Problem(("modes", mode.name, "pinned", at), f'"{model}"', f"models of the mode, {known(mode.models)}")


def _keys_have_an_effect(mode: ModeSpec, traits: EngineTraits) -> Iterator[Problem]:
    for key in sorted(mode.keys):
        if key not in traits.knows:
            yield Problem(
                ("modes", mode.name, key),
                f"{key} of a mode with engine {mode.engine}",
                f"no such key: {traits.lacks.get(key, f'{mode.engine} has nothing it would change')}; it knows: "
                f"{', '.join(sorted(traits.knows)) or 'none of these'}",
            )


def _purposes_fit(fleet: FleetSpec, node: NodeSpec) -> Iterator[Problem]:
    for at, name in enumerate(node.modes):
        here = ("nodes", node.name, "modes", at)
        if name in node.modes[:at]:
            yield Problem(here, f'mode "{name}" twice', "each mode once")
        elif name in fleet.releases:
            yield from _release_fits(fleet, node, at, name)


def _release_fits(fleet: FleetSpec, node: NodeSpec, at: int, name: ModeName) -> Iterator[Problem]:
    here, release = ("nodes", node.name, "modes", at), fleet.releases[name]
    if at == 0:
        yield Problem(here, f'"{name}", which serves nothing', "a mode with an engine first: it is what `up` brings")
    if not node.gpus:
        yield Problem(here, f'"{name}" of a node without GPUs', "no mode with release_gpu_to: there is none to give")
    if release.vmid == node.vmid:
        yield Problem(here, f'"{name}", which gives its GPUs to VM {release.vmid}: itself', "another VM's vmid")
    hypervisor = fleet.hypervisors.get(node.hypervisor)
    for gpu in node.gpus:
        spec = hypervisor.gpus.get(gpu) if hypervisor is not None else None
        if spec is not None and not spec.survives_stop:
            yield Problem(
                here,
                f'"{name}", though GPU "{gpu}" does not survive the stop of a VM (survives_stop: false)',
                "no mode with release_gpu_to: the next VM would not get the card back",
            )


def _page_fits(fleet: FleetSpec, node: NodeSpec, engines: Mapping[EngineName, EngineTraits]) -> Iterator[Problem]:
    if node.web_ui is None:
        return
    here = ("nodes", node.name, "web_ui")
    if "open-webui" in node.modes:
        yield Problem(here, 'web_ui beside a mode "open-webui"', "another name for the mode: both would be one unit")
    modes = fleet.modes_of(node)
    heads = [mode.nodes[0] for mode in modes if mode.nodes]
    if heads and len(heads) == len(modes) and node.name not in heads:
        found = f"web_ui on a node that only computes for {heads[0]}"
        yield Problem(here, found, f"web_ui of {heads[0]}, whose engine answers")
    taken = {engines[mode.engine].port: mode.engine for mode in modes if mode.engine in engines}
    if node.web_ui.port in taken:
        engine = taken[node.web_ui.port]
        yield Problem((*here, "port"), f"port {node.web_ui.port}, where {engine} listens", "another port")
