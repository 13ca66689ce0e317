"""Commands about hypervisors: what they find out, and what they change."""

from __future__ import annotations

from provisioner.cli.hypervisor.doctor import doctor

__all__ = ["doctor"]
