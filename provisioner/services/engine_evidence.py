"""Where an engine computes: its processes in the guest, its own word over HTTP, the driver's list of programs."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.node_evidence import EngineEvidence, NodeEvidence, UnitEvidence
from provisioner.engines.base import AnswerUnreadable, InferenceEngine
from provisioner.errors import EngineError, ProvisionerError
from provisioner.planning.launches import EngineUnit
from provisioner.planning.node_test import on_gpu
from provisioner.planning.readiness import CheckStatus
from provisioner.ports.guest_shell import GuestAway, GuestShell
from provisioner.ports.web import NoAnswer, Web
from provisioner.services.diagnosing import OpenShell
from provisioner.services.gpu_facts import gather_gpu_facts

_ASK_SECONDS = 10.0
_LOOK_SECONDS = 20.0


def unit_evidence(shell: GuestShell, unit: EngineUnit) -> UnitEvidence | None:
    """Return what systemd says of an engine's unit; None where it says nothing. Raises GuestAway."""
    said = _shown(shell, unit.service)
    if "ActiveState" not in said:
        return None
    if unit.container:
        # The unit holds Docker's client alone.
        pids = _listed(shell, ["docker", "top", unit.container, "-eo", "pid"], privileged=True)
    else:
        # A helper may start what computes: Ray's workers are in the unit of Ray.
        shown = [said, *(_shown(shell, service) for service in unit.services_beside)]
        groups = [each["ControlGroup"] for each in shown if each.get("ControlGroup")]
        command = ["cat", *(f"/sys/fs/cgroup{group}/cgroup.procs" for group in groups)]
        pids = _listed(shell, command) if groups else frozenset()
    restarts = said.get("NRestarts", "0")
    return UnitEvidence(said["ActiveState"], int(restarts) if restarts.isdigit() else 0, pids)


def _shown(shell: GuestShell, service: str) -> dict[str, str]:
    fields = "--property=ActiveState,NRestarts,ControlGroup"
    result = shell.run(["systemctl", "show", fields, service], seconds=_LOOK_SECONDS)
    return dict(line.split("=", 1) for line in result.out.splitlines() if "=" in line)


def _listed(shell: GuestShell, command: list[str], *, privileged: bool = False) -> frozenset[int]:
    listed = shell.run(command, seconds=_LOOK_SECONDS, privileged=privileged)
    return frozenset(int(word) for word in listed.out.split() if word.isdigit())


def memory_evidence(web: Web, address: str, engine: InferenceEngine) -> EngineEvidence:
    """Return how much of its models an engine says it holds on GPUs. Raises NoAnswer, AnswerUnreadable."""
    if not engine.loaded_path:
        return EngineEvidence()
    answer = web.get(address + engine.loaded_path, seconds=_ASK_SECONDS)
    if answer.status != 200:
        raise NoAnswer(f"HTTP {answer.status} from {engine.loaded_path}")
    loaded = engine.loaded_models(answer.text)
    if not loaded:
        return EngineEvidence()
    return EngineEvidence(
        model_bytes=sum(model.bytes for model in loaded), gpu_bytes=sum(model.gpu_bytes for model in loaded)
    )


def require_on_gpu(fleet: FleetSpec, node: NodeSpec, unit: EngineUnit, web: Web, open_shell: OpenShell) -> str:
    """Make sure that an engine which has just answered did not do so on the CPU; return what was seen.

    Where no card answers its driver nothing is said: that is for the step that installs the driver, and for `test`.

    Args:
        fleet: the fleet.
        node: one with GPUs.
        unit: what runs on it.
        web: a way to the engine.
        open_shell: a way into the guest; its failure only means that nobody could look.

    Raises:
        EngineError: a card is well, and the engine is not on it.
    """
    try:
        with open_shell() as shell:
            facts = gather_gpu_facts(shell, node, live=True)
            seen = unit_evidence(shell, unit) if facts.readings else None
        if not facts.readings:
            return ""
        address = f"http://{fleet.answering(node).reach.address}:{unit.engine.port}"
        memory = memory_evidence(web, address, unit.engine)
    except (ProvisionerError, GuestAway, NoAnswer, AnswerUnreadable) as reason:
        return f"whether it computes on the GPU could not be seen: {str(reason).splitlines()[0]}"
    check = on_gpu(node, fleet.mode_of(node), unit.engine, NodeEvidence(memory, facts, seen))
    if check.status is CheckStatus.FAIL:
        error = EngineError(f"cannot accept that {check.found}", subject=node.subject, next_step=check.next_step)
        error.diagnosis = "engine_on_cpu"
        raise error
    return check.found
