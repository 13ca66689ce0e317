"""Which nodes have which model, by its name and by its aliases. Pure, from the fleet file alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ModeSpec
from provisioner.domain.names import EngineName, ModeName, NodeName
from provisioner.domain.routing_policy import RoutingPolicy
from provisioner.engines.base import InferenceEngine

# What an engine on a GPU works on at once where its mode does not say: such engines batch. Only for comparing loads.
_ROOM_OF_A_GPU = 8


@dataclass(frozen=True, slots=True)
class Offer:
    """A model on a node: where its engine listens, and what it calls the model."""

    node: NodeName
    mode: ModeName
    model: str
    engine: EngineName
    host: str
    port: int
    health_path: str
    has_gpu: bool
    room: int
    stands_in: bool = False


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be asked for. `offers` end with those that stand in for it."""

    name: str
    policy: RoutingPolicy
    offers: tuple[Offer, ...]

    def speaking(self, engine: EngineName | None) -> tuple[Offer, ...]:
        """Return those whose engine is a certain one; all of them for None."""
        return tuple(offer for offer in self.offers if engine is None or offer.engine == engine)


class ModelTable:
    """Models by every name under which clients may ask for them."""

    def __init__(self, fleet: FleetSpec, engines: Mapping[EngineName, InferenceEngine]) -> None:
        self._entries: dict[str, ModelEntry] = {}
        self._by_name: dict[str, ModelEntry] = {}
        stand_ins = tuple(
            _offer(node, fleet.modes_of(node)[0], engines, fleet.modes_of(node)[0].model, stands_in=True)
            for node in fleet.nodes.values()
            if node.stands_in and fleet.modes_of(node)
        )
        for mode in fleet.modes.values():
            serving = fleet.heads(mode)
            for model in mode.models if serving else ():
                offers = tuple(_offer(node, mode, engines, model) for node in serving)
                known = self._entries.get(model)
                policy = mode.routing if known is None else known.policy
                self._entries[model] = ModelEntry(model, policy, (known.offers if known else ()) + offers)
        for name, entry in self._entries.items():
            own = {offer.node for offer in entry.offers}
            others = tuple(offer for offer in stand_ins if offer.node not in own)
            self._entries[name] = ModelEntry(name, entry.policy, entry.offers + others)
        for mode in fleet.modes.values():
            for alias in mode.routing.aliases if mode.model in self._entries else ():
                self._by_name[alias] = self._entries[mode.model]
        # Ollama's way: a name without a tag is the one with the tag latest.
        for name, entry in self._entries.items():
            self._by_name.setdefault(name.removesuffix(":latest"), entry)
            self._by_name.setdefault(f"{name}:latest", entry)
        self._by_name.update(self._entries)
        self.aliases = tuple(
            alias for mode in fleet.modes.values() for alias in mode.routing.aliases if alias not in self._entries
        )

    def find(self, name: str) -> ModelEntry | None:
        """Return the model that is asked for by a name."""
        return self._by_name.get(name)

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Every model, in the order of the fleet file."""
        return tuple(self._entries.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is listed: models, then aliases."""
        return (*self._entries, *self.aliases)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Every offer of every model."""
        return tuple(offer for entry in self._entries.values() for offer in entry.offers)


def _offer(
    node: NodeSpec,
    mode: ModeSpec,
    engines: Mapping[EngineName, InferenceEngine],
    model: str,
    *,
    stands_in: bool = False,
) -> Offer:
    engine = engines[mode.engine]
    return Offer(
        node=node.name,
        mode=mode.name,
        model=model,
        engine=mode.engine,
        host=node.reach.address,
        port=engine.port,
        health_path=engine.health_path,
        has_gpu=bool(node.gpus),
        room=mode.parallel or (_ROOM_OF_A_GPU if node.gpus else 1),
        stands_in=stands_in,
    )
