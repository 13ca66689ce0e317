"""The steps that lay down a guest's base and the drivers of its cards, before any engine. Pure.

Playbooks take long, above all to find that nothing has to be done. So a guest
that still is as a playbook left it, by what the guest itself shows, is passed
over: see `ConvergeGuest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provisioner.domain.actions import ConvergeGuest, InstallDriver, Step, StepKind
from provisioner.domain.fleet import FleetSpec, GuestKind, NodeSpec
from provisioner.domain.gpu_driver import DriverChoice, DriverKind
from provisioner.domain.model_keeping import MODEL_DISK_SERIAL, MODEL_FOLDER
from provisioner.domain.names import EngineName, MappingId
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import MappingSeen
from provisioner.engines.base import InferenceEngine
from provisioner.planning.gpu.driver import PciIds, choose_driver, ids_of_mapping, toolkit_refusal, wish_of

Engines = Mapping[EngineName, InferenceEngine]
MODEL_MOUNT = "var-lib-llm.mount"
# Nodes of these find each other and talk on ports of their own choice.
_MESHED = frozenset({EngineName("exo")})


def software_refusal(
    fleet: FleetSpec, node: NodeSpec, mappings: Mapping[MappingId, MappingSeen], *, renew_driver: bool = False
) -> Refusal | None:
    """Return why no driver serves a node's cards, as far as the mappings tell; None if one does.

    With `renew_driver` there must be one of NVIDIA's, which alone is held with its kernel.
    """
    wish = wish_of(fleet, node) if _has_software(fleet, node) else None
    if renew_driver and (wish is None or isinstance(wish, Refusal) or wish.kind in (DriverKind.NONE, DriverKind.ROCM)):
        return Refusal(
            "there is no driver of NVIDIA's on it to renew: kernels and other packages are renewed by the guest itself",
            f"leave --renew-driver out; unattended_upgrades: true has {node.name} keep its packages new",
        )
    if wish is None or isinstance(wish, Refusal):
        return wish
    ids = _ids(fleet, node, mappings)
    if not ids:
        # Nothing is known yet; the guest itself will show its cards.
        return None
    choice = choose_driver(wish, ids, secure_boot=node.options.secure_boot, node=node.name)
    return choice if isinstance(choice, Refusal) else toolkit_refusal(node.software.cuda_toolkit, ids)


def software_steps(
    fleet: FleetSpec,
    node: NodeSpec,
    mappings: Mapping[MappingId, MappingSeen],
    engines: Engines,
    kind: StepKind,
    *,
    renew_driver: bool = False,
) -> tuple[Step, ...]:
    """Return the steps for a guest that runs software, in order: base, driver, what is asked for on top.

    Args:
        fleet: what is wanted.
        node: where.
        mappings: those of the node's GPUs that its hypervisor has.
        engines: those that are known.
        kind: whether the steps are known to change something.
        renew_driver: upgrade kernel and driver too.
    """
    if not _has_software(fleet, node):
        return ()
    has_disk = node.models.disk_bytes is not None
    base = ConvergeGuest("configure-guest-base", base_variables(fleet, node, engines), _base_units(fleet, node))
    allowed = ", ".join(map(str, node.software.allowed_networks))
    models = f"; models on a disk of their own, at {MODEL_FOLDER}" if has_disk else ""
    return (
        Step("base", kind, base, f"SSH by key, and engines, for {allowed}{models}"),
        *_driver_steps(fleet, node, mappings, kind, renew=renew_driver),
        *_container_steps(fleet, node, kind),
    )


def base_variables(fleet: FleetSpec, node: NodeSpec, engines: Engines) -> dict[str, object]:
    """Return what ``playbooks/configure-guest-base.yml`` lists in its header."""
    used = {mode.engine for mode in fleet.modes_of(node)}
    page = {node.web_ui.port} if node.web_ui is not None else set()
    return {
        "guest_base_allowed_networks": [str(each) for each in node.software.allowed_networks],
        "guest_base_ports": sorted({engines[name].port for name in used} | page),
        "guest_base_upgrades": node.software.upgrades_itself,
        "guest_base_peers": _peers(fleet, node),
        "guest_base_model_disk": MODEL_DISK_SERIAL if node.models.disk_bytes is not None else "",
        **_going_off(fleet, node, [engines[name] for name in sorted(used)]),
    }


def _base_units(fleet: FleetSpec, node: NodeSpec) -> tuple[str, ...]:
    timer = () if _off_by_itself_seconds(fleet, node) is None else ("provisioner-idle.timer",)
    mount = () if node.models.disk_bytes is None else (MODEL_MOUNT,)
    return ("provisioner-firewall.service", *mount, *timer)


def _off_by_itself_seconds(fleet: FleetSpec, node: NodeSpec) -> float | None:
    """Return after how long a guest shuts itself down; never where one of its GPUs would not come back from that."""
    is_fragile = any(not gpu.survives_stop for gpu in fleet.gpus_of(node))
    return None if is_fragile else node.software.off_by_itself_seconds


def _going_off(fleet: FleetSpec, node: NodeSpec, engines: Sequence[InferenceEngine]) -> dict[str, object]:
    """Return what makes a guest shut itself down when nobody needs it; nothing where it is not to."""
    seconds = _off_by_itself_seconds(fleet, node)
    if seconds is None:
        return {}
    return {
        "guest_base_off_seconds": round(seconds),
        "guest_base_engine_urls": [f"http://127.0.0.1:{each.port}{each.activity_path}" for each in engines],
    }


def _peers(fleet: FleetSpec, node: NodeSpec) -> list[str]:
    meshed = {mode.name for mode in fleet.modes_of(node) if mode.nodes or mode.engine in _MESHED}
    return sorted(
        str(each.address.ip)
        for each in fleet.nodes.values()
        if each.name != node.name and any(mode.name in meshed for mode in fleet.modes_of(each))
    )


def _driver_steps(
    fleet: FleetSpec, node: NodeSpec, mappings: Mapping[MappingId, MappingSeen], kind: StepKind, *, renew: bool
) -> tuple[Step, ...]:
    wish = wish_of(fleet, node)
    if isinstance(wish, Refusal) or wish.kind is DriverKind.NONE:
        return ()
    ids = _ids(fleet, node, mappings)
    choice = choose_driver(wish, ids, secure_boot=node.options.secure_boot, node=node.name) if ids else None
    chosen = isinstance(choice, DriverChoice)
    what = f"{choice} for its cards" if chosen else "the one for its cards' generation, once the guest shows them"
    toolkit = node.software.cuda_toolkit
    beside = f"; CUDA toolkit {toolkit}" if toolkit else ""
    if renew:
        beside += "; kernel and driver are upgraded together, held again, and what is new boots: unless it is busy"
        kind = StepKind.CHANGE
    return (Step("driver", kind, InstallDriver(wish, ids, toolkit, renew), what + beside),)


def _container_steps(fleet: FleetSpec, node: NodeSpec, kind: StepKind) -> tuple[Step, ...]:
    """Engines that come as images need Docker, and a way for it to the cards."""
    images = [mode.engine for mode in fleet.modes_of(node) if fleet.engines[mode.engine].image]
    wish = wish_of(fleet, node)
    if not images or not node.gpus or isinstance(wish, Refusal) or wish.kind is DriverKind.ROCM:
        return ()
    action = ConvergeGuest("install-container-toolkit", {}, ("docker.service",))
    return (Step("containers", kind, action, f"{images[0]} comes as an image, which needs Docker with the cards"),)


def _ids(fleet: FleetSpec, node: NodeSpec, mappings: Mapping[MappingId, MappingSeen]) -> tuple[PciIds, ...]:
    return tuple(
        each
        for gpu in fleet.gpus_of(node)
        if gpu.mapping in mappings
        for each in ids_of_mapping(mappings[gpu.mapping], node.hypervisor)
    )


def _has_software(fleet: FleetSpec, node: NodeSpec) -> bool:
    return fleet.cluster_of(node).guests is GuestKind.REAL and not node.adopt
