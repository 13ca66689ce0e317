"""Laws of modes that several nodes serve together. Each returns where, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import EngineTraits, ModeSpec
from provisioner.domain.names import EngineName
from provisioner.domain.problems import Place, Problem, known
from provisioner.domain.quantities import size_text


def span_checks(fleet: FleetSpec, engines: Mapping[EngineName, EngineTraits]) -> Iterator[Problem]:
    """Return every broken law, in the order of the file's modes."""
    for name, engine in fleet.engines.items():
        traits = engines.get(name)
        if engine.ray and traits is not None and "ray" not in traits.knows:
            able = ", ".join(sorted(each for each, other in engines.items() if "ray" in other.knows))
            yield Problem(("engines", name, "ray"), f"ray of {name}", f"no such key: only {able} uses Ray")
    for mode in fleet.modes.values():
        if mode.nodes:
            yield from _span(fleet, mode, engines)


def _span(fleet: FleetSpec, mode: ModeSpec, engines: Mapping[EngineName, EngineTraits]) -> Iterator[Problem]:
    here: Place = ("modes", mode.name, "nodes")
    traits = engines.get(mode.engine)
    if traits is not None and not traits.spans_nodes:
        able = ", ".join(sorted(name for name, each in engines.items() if each.spans_nodes))
        yield Problem(here, f"nodes of a mode with engine {mode.engine}", f"no such key: only {able} spread one model")
        return
    if mode.with_ray and f"{mode.name}-ray" in fleet.modes:
        # Both would be one unit.
        yield Problem(("modes", f"{mode.name}-ray"), f'a mode named as the Ray of "{mode.name}" is', "another name")
    strangers = list(_strangers(fleet, mode))
    yield from strangers
    members = [fleet.nodes[name] for name in dict.fromkeys(mode.nodes) if name in fleet.nodes]
    for node in fleet.nodes.values():
        if mode.name in node.modes and node.name not in mode.nodes:
            yield Problem(
                ("nodes", node.name, "modes", node.modes.index(mode.name)),
                f'mode "{mode.name}", which {", ".join(mode.nodes)} serve together',
                f"{node.name} among modes.{mode.name}.nodes too, or another mode",
            )
    if strangers or not members:
        return
    head, *others = members
    for node in others:
        yield from _alike(fleet, head, node, (*here, mode.nodes.index(node.name)), traits)


def _strangers(fleet: FleetSpec, mode: ModeSpec) -> Iterator[Problem]:
    """Say which names are of no node that could take part."""
    for at, name in enumerate(mode.nodes):
        here: Place = ("modes", mode.name, "nodes", at)
        if name not in fleet.nodes:
            yield Problem(here, f'unknown node "{name}"', known(list(fleet.nodes)))
        elif name in mode.nodes[:at]:
            yield Problem(here, f'node "{name}" twice', "each node once")
        elif mode.name not in fleet.nodes[name].modes:
            yield Problem(here, f'node "{name}", which does not have this mode', f"{mode.name} among its modes")
        elif fleet.nodes[name].adopt:
            yield Problem(here, f'node "{name}", which is adopted', "nodes of ours: an adopted one is not configured")


def _alike(
    fleet: FleetSpec, head: NodeSpec, node: NodeSpec, here: Place, traits: EngineTraits | None
) -> Iterator[Problem]:
    """Say in what a node differs from the head where they must agree."""
    if head.address.network != node.address.network and None in (head.gateway, node.gateway):
        yield Problem(
            here,
            f"{node.address}, from which {head.name} at {head.address} is not reached: neither one network nor a "
            "gateway for each",
            "addresses in one network",
        )
    if head.api_key != node.api_key:
        yield Problem(here, f"another api_key than that of {head.name}, which answers", "one api_key for all of them")
    if head.hypervisor == node.hypervisor and (same := [gpu for gpu in node.gpus if gpu in head.gpus]):
        yield Problem(here, f'GPU "{same[0]}", which {head.name} has too', "GPUs of its own: both run at once")
    if traits is None or not traits.needs_equal_gpus:
        return
    wanted, found = _cards(fleet, head), _cards(fleet, node)
    if wanted is None or found is None:
        # An unknown server or card is told where it stands.
        return
    if len(wanted) != len(found):
        yield Problem(
            here,
            f"{len(found)} GPUs, and {len(wanted)} of {head.name}",
            "as many GPUs on each: a model is divided alike over all of them",
        )
    elif (sizes := _sizes(wanted)) != _sizes(found) and None not in (*wanted, *found):
        yield Problem(
            here,
            f"GPUs of {', '.join(_sizes(found))}, and {head.name} has {', '.join(sizes)}",
            "GPUs of one size: the smallest would have to hold as much as the largest",
        )


def _cards(fleet: FleetSpec, node: NodeSpec) -> list[int | None] | None:
    hypervisor = fleet.hypervisors.get(node.hypervisor)
    if hypervisor is None or any(gpu not in hypervisor.gpus for gpu in node.gpus):
        return None
    return [hypervisor.gpus[gpu].vram_bytes for gpu in node.gpus]


def _sizes(cards: list[int | None]) -> list[str]:
    return sorted(size_text(each) for each in cards if each is not None)
