"""A fleet whose nodes share an image and a storage, and what the lab shows of their clones."""

from __future__ import annotations

import re
from typing import Any

from provisioner.fleet import Fleet
from tests.lab.support import Site

TEMPLATE = 9000


def four(site: Site, more: str = "") -> Fleet:
    """Four nodes without cards, which one server can run side by side."""

    def change(text: str) -> str:
        (line,) = re.findall(r"^  llm-gpu-01:.*\n", text, re.MULTILINE)
        line = re.sub(r"gpus: \[[^]]*\],? ?", "", line)
        lines = [
            re.sub(r"(\d+\.\d+\.\d+)\.1\b(?=/16|,|\})", rf"\g<1>.{number}", line).replace(
                "llm-gpu-01: {", f"node-{number}: {{vmid: {5000 + number}, "
            )
            for number in range(1, 5)
        ]
        text = re.sub(r"^  llm-gpu-01:.*\n", "".join(lines), text, flags=re.MULTILINE)
        return text.replace("defaults:\n", f"defaults:\n{more}")

    return site.fleet(change)


def native(fleet: Fleet, site: Site) -> Fleet:
    """The same nodes, with the cloud-init drive that Proxmox makes."""
    assert fleet.spec.nodes
    return site.fleet(
        lambda text: text.replace("defaults:\n", "defaults:\n  cloud_init: proxmox\n  nameservers: [10.10.0.1]\n")
    )


def vms(site: Site) -> dict[int, dict[str, Any]]:
    return {vm["vmid"]: vm for vm in site.lab.call("GET", "/cluster/resources", type="vm")}


def parents(site: Site) -> dict[int, str | None]:
    """The template's disk that each node's disk is a clone of."""
    content = site.lab.call("GET", "/nodes/pve1/storage/local-lvm/content")
    return {disk["vmid"]: disk.get("parent") for disk in content if disk["vmid"] != TEMPLATE and disk["size"] > 2**25}
