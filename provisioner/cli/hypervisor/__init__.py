"""Commands about hypervisors: what they find out, and what they change."""

from __future__ import annotations

from provisioner.cli.hypervisor.doctor import doctor
from provisioner.cli.hypervisor.init import init
from provisioner.cli.hypervisor.prepare import prepare

__all__ = ["doctor", "init", "prepare"]
