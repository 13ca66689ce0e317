"""Is this hypervisor ready to pass GPUs through? A verdict for programs and checks for people; pure."""

from __future__ import annotations

from provisioner.planning.host.checks import CHECKS, host_checks
from provisioner.planning.host.gpus import GpuVerdict, gpus_of
from provisioner.planning.host.verdict import HostVerdict, host_verdict

__all__ = ["CHECKS", "GpuVerdict", "HostVerdict", "gpus_of", "host_checks", "host_verdict"]
