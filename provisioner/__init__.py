"""Proxmox VE servers with GPUs as LLM serving nodes that sleep until a request wakes them.

from provisioner import Fleet

fleet = Fleet.load("inventory/fleet.yml")
endpoint = fleet.wake(model="llama3.1:8b")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provisioner.adapters.files.fleet_file import FleetFileError
    from provisioner.domain.actions import Plan, Step
    from provisioner.errors import (
        EngineError,
        GuestError,
        HypervisorError,
        InputError,
        NotReadyError,
        ProvisionerError,
        RefusedError,
    )
    from provisioner.fleet import Fleet, Hypervisor
    from provisioner.planning.doctor import DoctorReport
    from provisioner.planning.idle import IdleDecision
    from provisioner.planning.readiness import Check
    from provisioner.services.events import Event
    from provisioner.services.fleet_view import NodeStatus
    from provisioner.services.proving import Endpoint
    from provisioner.services.provisioning import UpReport
    from provisioner.services.sleeping import SleepReport
    from provisioner.services.waking import WakeReport

_HOMES = {
    "Check": "provisioner.planning.readiness",
    "DoctorReport": "provisioner.planning.doctor",
    "Endpoint": "provisioner.services.proving",
    "EngineError": "provisioner.errors",
    "Event": "provisioner.services.events",
    "Fleet": "provisioner.fleet",
    "FleetFileError": "provisioner.adapters.files.fleet_file",
    "GuestError": "provisioner.errors",
    "Hypervisor": "provisioner.fleet",
    "HypervisorError": "provisioner.errors",
    "IdleDecision": "provisioner.planning.idle",
    "InputError": "provisioner.errors",
    "NodeStatus": "provisioner.services.fleet_view",
    "NotReadyError": "provisioner.errors",
    "Plan": "provisioner.domain.actions",
    "ProvisionerError": "provisioner.errors",
    "RefusedError": "provisioner.errors",
    "SleepReport": "provisioner.services.sleeping",
    "Step": "provisioner.domain.actions",
    "UpReport": "provisioner.services.provisioning",
    "WakeReport": "provisioner.services.waking",
}

__all__ = [
    "Check",
    "DoctorReport",
    "Endpoint",
    "EngineError",
    "Event",
    "Fleet",
    "FleetFileError",
    "GuestError",
    "Hypervisor",
    "HypervisorError",
    "IdleDecision",
    "InputError",
    "NodeStatus",
    "NotReadyError",
    "Plan",
    "ProvisionerError",
    "RefusedError",
    "SleepReport",
    "Step",
    "UpReport",
    "WakeReport",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for: ``provisioner --help`` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
