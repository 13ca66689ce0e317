"""Graphics cards inside a guest: how to ask, how to read the answer, what is wrong, and which driver fits. Pure."""

from __future__ import annotations

from provisioner.planning.gpu.diagnosis import diagnosis
from provisioner.planning.gpu.gathering import gather_command, gpu_facts

__all__ = ["diagnosis", "gather_command", "gpu_facts"]
