"""Debian packages made by tests, and apt repositories of them.

What is in them is small, but what apt, dpkg, systemd and a playbook do with them
is real: order, dependencies, signatures, pins, holds, units, a reboot.
"""
