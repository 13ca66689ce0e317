"""Quick commands load little: what they do not need is not imported on their way."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {
    "ansible",
    "cryptography",
    "fabric",
    "jinja2",
    "paramiko",
    "provisioner.adapters.files.host_dump",
    "provisioner.domain.actions",
    "provisioner.planning",
    "provisioner.services",
    "pycdlib",
    "pydantic",
    "requests",
    "rich",
    "yaml",
}


def loaded_by(*modules: str) -> set[str]:
    """Import modules in a process of their own; return which heavy ones came along."""
    line = f"import sys, json, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    return {heavy for heavy in HEAVY if any(name == heavy or name.startswith(f"{heavy}.") for name in found)}


def test_the_help_page_loads_none_of_the_heavy_ones() -> None:
    assert loaded_by("provisioner.cli.app") <= {"yaml"}


def test_status_loads_what_it_asks_with_and_prints_with_and_no_more() -> None:
    loaded = loaded_by(
        "provisioner.fleet", "provisioner.services.fleet_view", "provisioner.adapters.proxmox.hypervisors"
    )
    assert loaded <= {"provisioner.planning", "provisioner.services", "pydantic", "requests", "yaml"}
