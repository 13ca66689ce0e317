"""Laws that span several entries of the fleet file. Each returns where, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.mode import EngineTraits
from provisioner.domain.mode_checks import mode_checks
from provisioner.domain.names import EngineName
from provisioner.domain.problems import Place as Place
from provisioner.domain.problems import Problem as Problem
from provisioner.domain.problems import known
from provisioner.domain.quantities import duration_text, size_text
from provisioner.domain.span_checks import span_checks


def cross_checks(fleet: FleetSpec, *, engines: Mapping[EngineName, EngineTraits]) -> tuple[Problem, ...]:
    """Return every broken law, in the order of the file's sections.

    Args:
        fleet: the fleet as written, names not yet resolved.
        engines: the engines that are known, with what each can be told.
    """
    return (
        *_clusters_are_defined(fleet),
        *_mappings_are_used_once(fleet),
        *mode_checks(fleet, engines),
        *_nodes_name_what_exists(fleet),
        *_nodes_are_distinct(fleet),
        *span_checks(fleet, engines),
        *_options_fit_together(fleet),
        *_models_have_a_place(fleet),
        *_native_drives_can_be_made(fleet),
        *_addresses_are_for_hosts(fleet),
        *_gateways_are_reachable(fleet),
        *_rest_comes_before_sleep(fleet),
        *_service_is_not_open_to_all(fleet),
    )


def _clusters_are_defined(fleet: FleetSpec) -> Iterator[Problem]:
    for hypervisor in fleet.hypervisors.values():
        if hypervisor.cluster not in fleet.clusters:
            yield Problem(
                ("hypervisors", hypervisor.name, "cluster"),
                f'unknown cluster "{hypervisor.cluster}"',
                known(list(fleet.clusters)),
            )


def _mappings_are_used_once(fleet: FleetSpec) -> Iterator[Problem]:
    for hypervisor in fleet.hypervisors.values():
        first: dict[str, str] = {}
        for gpu in hypervisor.gpus.values():
            pooled = gpu.pool and all(each.pool for each in hypervisor.gpus.values() if each.mapping == gpu.mapping)
            if gpu.mapping in first and not pooled:
                yield Problem(
                    ("hypervisors", hypervisor.name, "gpus", gpu.name, "mapping"),
                    f'mapping "{gpu.mapping}" already belongs to GPU "{first[gpu.mapping]}"',
                    "one GPU slot per mapping; or pool: true on each, where the mapping names several cards",
                )
            first.setdefault(gpu.mapping, gpu.name)


def _nodes_name_what_exists(fleet: FleetSpec) -> Iterator[Problem]:
    for node in fleet.nodes.values():
        here: Place = ("nodes", node.name)
        for at, mode in enumerate(node.modes):
            if mode not in fleet.modes and mode not in fleet.releases:
                yield Problem((*here, "modes", at), f'unknown mode "{mode}"', known([*fleet.modes, *fleet.releases]))
        if node.image not in fleet.images:
            yield Problem((*here, "image"), f'unknown image "{node.image}"', known(list(fleet.images)))
        hypervisor = fleet.hypervisors.get(node.hypervisor)
        if hypervisor is None:
            yield Problem(
                (*here, "hypervisor"), f'unknown hypervisor "{node.hypervisor}"', known(list(fleet.hypervisors))
            )
            continue
        for at, gpu in enumerate(node.gpus):
            if gpu not in hypervisor.gpus:
                yield Problem(
                    (*here, "gpus", at),
                    f'unknown GPU "{gpu}" on hypervisor "{hypervisor.name}"',
                    known(list(hypervisor.gpus)),
                )
            elif gpu in node.gpus[:at]:
                yield Problem((*here, "gpus", at), f'GPU "{gpu}" twice', "each GPU once")


def _nodes_are_distinct(fleet: FleetSpec) -> Iterator[Problem]:
    vmids: dict[int, str] = {}
    addresses: dict[str, str] = {}
    for node in fleet.nodes.values():
        if node.vmid in vmids:
            yield Problem(
                ("nodes", node.name, "vmid"),
                f'vmid {node.vmid} already belongs to node "{vmids[node.vmid]}"',
                "one VMID per node",
            )
        vmids.setdefault(node.vmid, node.name)
        address = str(node.address.ip)
        if address in addresses:
            yield Problem(
                ("nodes", node.name, "address"),
                f'address {address} already belongs to node "{addresses[address]}"',
                "one address per node",
            )
        addresses.setdefault(address, node.name)


def _options_fit_together(fleet: FleetSpec) -> Iterator[Problem]:
    for node in fleet.nodes.values():
        if node.options.hugepages and not node.options.numa:
            yield Problem(
                ("nodes", node.name, "hugepages"), "hugepages without numa", "numa: true beside it, or no hugepages"
            )


def _models_have_a_place(fleet: FleetSpec) -> Iterator[Problem]:
    for node in fleet.nodes.values():
        here, models = ("nodes", node.name), node.models
        if models.storage is not None and models.disk_bytes is None:
            yield Problem((*here, "model_storage"), "model_storage without model_disk", "model_disk: SIZE beside it")
        room, key = (node.disk_bytes, "disk") if models.disk_bytes is None else (models.disk_bytes, "model_disk")
        if models.budget_bytes is not None and models.budget_bytes > room:
            yield Problem(
                (*here, "model_budget"),
                f"a budget of {size_text(models.budget_bytes)} on a {key} of {size_text(room)}",
                f"at most what {key} has",
            )


def _native_drives_can_be_made(fleet: FleetSpec) -> Iterator[Problem]:
    for node in fleet.nodes.values():
        if node.adopt or node.cloud_init is not CloudInit.PROXMOX:
            continue
        here = ("nodes", node.name, "cloud_init")
        if node.extra_user_data is not None:
            yield Problem(
                here,
                "cloud_init: proxmox together with extra_user_data",
                "cloud_init: seed beside it, or no extra_user_data: Proxmox takes user-data of one's own only from a "
                "snippet, and its API takes no upload of snippets",
            )
        if not node.nameservers:
            yield Problem(
                here,
                "cloud_init: proxmox without nameservers",
                "nameservers beside it: without them Proxmox writes its server's own on the drive, and every change "
                "of those would be a new first boot of the guest, with new SSH host keys",
            )


def _addresses_are_for_hosts(fleet: FleetSpec) -> Iterator[Problem]:
    for node in fleet.nodes.values():
        ip, network = node.address.ip, node.address.network
        # Networks of one or two addresses have none to spare for these.
        is_of_all = network.prefixlen < 31 and ip in (network.network_address, network.broadcast_address)
        if is_of_all or ip.is_unspecified or ip.is_loopback or ip.is_multicast:
            yield Problem(
                ("nodes", node.name, "address"),
                f"address {node.address}, which no host can have",
                f"an address of its own for the guest, between the first and the last of {network}",
            )
        elif ip == node.gateway and not node.adopt:
            yield Problem(
                ("nodes", node.name, "address"),
                f"address {ip}, which is its gateway's",
                "another address: two hosts with one address take each other off the network",
            )


def _gateways_are_reachable(fleet: FleetSpec) -> Iterator[Problem]:
    for node in fleet.nodes.values():
        # An adopted VM has its own network, whatever the others get by default.
        if not node.adopt and node.gateway is not None and node.gateway not in node.address.network:
            yield Problem(
                ("nodes", node.name, "gateway"),
                f"gateway {node.gateway} is outside the node's network",
                f"an address in {node.address.network}",
            )


def _rest_comes_before_sleep(fleet: FleetSpec) -> Iterator[Problem]:
    for node in fleet.nodes.values():
        if node.rest_after_seconds is not None and node.rest_after_seconds >= node.idle_after_seconds:
            rest, idle = duration_text(node.rest_after_seconds), duration_text(node.idle_after_seconds)
            yield Problem(
                ("nodes", node.name, "rest_after"),
                f"rest_after of {rest}",
                f"less than idle_after, which is {idle}: then its VM goes off",
            )


def _service_is_not_open_to_all(fleet: FleetSpec) -> Iterator[Problem]:
    listen = fleet.service.listen
    if not listen.is_private_to_us and not fleet.service.tokens:
        yield Problem(
            ("service", "listen"),
            f"{listen}, which others reach, and no tokens",
            "an address such as 127.0.0.1:8700; or tokens: {NAME: {secret: env:NAME, may: [route]}} beside it",
        )
