"""Real guests: one QEMU process per VM, with hardware acceleration or without."""

from provisioner.lab.guests.qemu.backend import QemuBackend

__all__ = ["QemuBackend"]
