"""Everything that a command imports on its way, so that one forked from a process that has it starts at once."""

from __future__ import annotations

import importlib
import pkgutil

from provisioner import adapters, cli, planning, services

for _room in (adapters, cli, planning, services):
    for _module in pkgutil.walk_packages(_room.__path__, f"{_room.__name__}."):
        # Those are Ansible's to load.
        if ".callbacks" not in _module.name:
            importlib.import_module(_module.name)
