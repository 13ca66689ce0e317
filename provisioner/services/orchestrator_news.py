"""Gathers what orchestrators should know: the nodes that exist, our service's address, and the secrets for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from ipaddress import ip_address
from urllib.parse import urlsplit

from provisioner.domain.fleet import FleetSpec, NodeSpec, SecretReference, SecretSource
from provisioner.domain.names import NodeName
from provisioner.domain.orchestrator import OrchestratorSpec
from provisioner.errors import InputError, ProvisionerError
from provisioner.orchestrators.base import AnnouncedNode, News, Orchestrator
from provisioner.planning.model_table import ModelTable
from provisioner.planning.ownership import has_power_over
from provisioner.planning.prometheus_targets import target_groups
from provisioner.services.deployments import as_noted
from provisioner.services.world import World


class NewsDesk:
    """What there is to tell."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def present(self) -> tuple[NodeName, ...]:
        """Return the nodes that exist. Of a cluster that does not answer, those that were registered last do."""
        found: set[NodeName] = set()
        registered = {
            NodeName(name) for each in self._fleet.orchestrators for name in self._world.registrations.of(each).nodes
        }
        for name in dict.fromkeys(self._fleet.cluster_of(node).name for node in self._fleet.nodes.values()):
            members = [node for node in self._fleet.nodes.values() if self._fleet.cluster_of(node).name == name]
            try:
                vms = self._world.clusters[name].snapshot().vms
            except ProvisionerError:
                found |= {node.name for node in members if node.name in registered}
                continue
            found |= {node.name for node in members if (vm := vms.get(node.vmid)) and has_power_over(vm, node)}
        return tuple(name for name in self._fleet.nodes if name in found)

    def news(
        self, spec: OrchestratorSpec, known: Orchestrator, nodes: Iterable[NodeName], *, with_secrets: bool = True
    ) -> News:
        """Return what an orchestrator should know. Raises InputError, and HypervisorError where modes matter to it."""
        fleet, service = self._fleet, self._fleet.service
        url = service.address_for_others
        elsewhere = bool(spec.url) and not _is_here(spec.url)
        if known.scopes and (not url or (elsewhere and _is_here(url))):
            why = f"it cannot reach {url}" if url else "it has no address"
            raise InputError(
                f"cannot tell {known.title} where our service is: {why}",
                subject=f"fleet file {fleet.path}",
                next_step="say how others reach it: service: {url: http://ADDRESS:8700}, and let it listen there",
            )
        token = key = api_key = ""
        if with_secrets:
            subject = f"orchestrator {spec.name}"
            token = self._world.secret(service.tokens[spec.token].secret, subject=subject) if spec.token else ""
            key = self._world.secret(spec.webhook_key, subject=subject) if spec.webhook_key else token
            api_key = self._world.secret(spec.api_key, subject=subject) if spec.api_key else ""
        return News(
            nodes=tuple(self._announced(fleet.nodes[name]) for name in nodes),
            models=ModelTable(fleet, self._world.engines).names,
            targets=self._targets(nodes) if "targets_file" in known.traits.needs else (),
            service_url=url,
            version=version("provisioner"),
            spec=spec,
            token_variable=_variable(service.tokens[spec.token].secret) if spec.token else "",
            token=token,
            webhook_key=key,
            api_key=api_key,
        )

    def _targets(self, nodes: Iterable[NodeName]) -> tuple[Mapping[str, object], ...]:
        noted = [as_noted(self._fleet, self._world, self._fleet.nodes[name]) for name in nodes]
        return tuple(target_groups(self._fleet, self._world.engines, noted))

    def _announced(self, node: NodeSpec) -> AnnouncedNode:
        modes = self._fleet.modes_of(node)
        return AnnouncedNode(
            name=node.name,
            address=str(node.address.ip),
            models=tuple(dict.fromkeys(model for mode in modes for model in mode.models)),
            gpus=node.gpus,
            stands_in=node.stands_in,
            has_key=node.api_key is not None and any(self._world.engines[each.engine].key_variable for each in modes),
        )


def _variable(secret: SecretReference) -> str:
    return secret.name if secret.source is SecretSource.ENV else ""


def _is_here(url: str) -> bool:
    """Say whether a URL names this very machine to whoever uses it."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
