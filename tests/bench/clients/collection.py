"""The Ansible collection community.proxmox: one play over all VMs, one task to create, one to start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.bench.clients import Cost, to_its_end
from tests.bench.lab_site import LabSite
from tests.peers import ansible_playbook, collection_login

PLAY = Path(__file__).with_name("create-start.yml")


def play(site: LabSite, vmids: Sequence[int], forks: int) -> Cost:
    """Create and start the VMs with so many at once."""
    hosts = {f"node-{vmid}": {"vmid": vmid} for vmid in vmids}
    inventory = site.folder / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    environment = collection_login(site.folder, site.host, site.port, site.secret, site.certificate)
    command = [ansible_playbook(), "-i", str(inventory), "--forks", str(forks), str(PLAY)]
    return to_its_end(site, command, environment)
