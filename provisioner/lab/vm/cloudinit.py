"""The cloud-init drive that Proxmox writes itself: NoCloud documents made of a VM's options."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pycdlib
import yaml

from provisioner.lab.model import Guest
from provisioner.lab.schema.formats import split_list

if TYPE_CHECKING:
    from provisioner.lab.core import Lab


def documents(lab: Lab, guest: Guest, *, custom: bool = True) -> dict[str, str]:
    """Return user-data, network-config, meta-data (and vendor-data where given) as text."""
    config = guest.config
    user = "#cloud-config\n" + yaml.safe_dump(_user_data(guest), sort_keys=False)
    network = yaml.safe_dump(_network(lab, guest), sort_keys=False)
    vendor = None
    if custom and "cicustom" in config:
        files = lab.vm_options.parts("cicustom", config["cicustom"])
        user = _read(lab, files, "user") or user
        network = _read(lab, files, "network") or network
        vendor = _read(lab, files, "vendor")
    identity = hashlib.sha1((user + network).encode(), usedforsecurity=False).hexdigest()
    found = {"user-data": user, "network-config": network, "meta-data": f"instance-id: {identity}\n"}
    if vendor is not None:
        found["vendor-data"] = vendor
    return found


def write_seed(lab: Lab, guest: Guest, path: Path) -> None:
    """Write the drive anew, as every cold start does."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, content) in enumerate(sorted(documents(lab, guest).items())):
        data = content.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    iso.write(str(path))
    iso.close()


def _read(lab: Lab, files: dict[str, str], part: str) -> str | None:
    return lab.storages.path(files[part]).read_text() if part in files else None


def _user_data(guest: Guest) -> dict[str, Any]:
    config = guest.config
    name = config.get("name", f"VM{guest.vmid}")
    data: dict[str, Any] = {"hostname": name.partition(".")[0], "manage_etc_hosts": True}
    if "searchdomain" in config and "." not in name:
        data["fqdn"] = f"{name}.{config['searchdomain']}"
    if "ciuser" in config:
        data["user"] = config["ciuser"]
    if "cipassword" in config:
        data["password"] = config["cipassword"]
    if "sshkeys" in config:
        data["ssh_authorized_keys"] = [line for line in unquote(config["sshkeys"]).splitlines() if line.strip()]
    data["chpasswd"] = {"expire": False}
    data["users"] = ["default"]
    if config.get("ciupgrade", "1") == "1":
        data["package_upgrade"] = True
    return data


def _network(lab: Lab, guest: Guest) -> dict[str, Any]:
    config = guest.config
    entries: list[dict[str, Any]] = []
    for key in sorted(name for name in config if re.fullmatch(r"net\d+", name)):
        number = key.removeprefix("net")
        if f"ipconfig{number}" not in config:
            continue
        parts = lab.vm_options.parts(f"ipconfig{number}", config[f"ipconfig{number}"])
        subnet: dict[str, Any] = {"type": "dhcp4"}
        if parts.get("ip", "dhcp") != "dhcp":
            subnet = {"type": "static", "address": parts["ip"]}
            if "gw" in parts:
                subnet["gateway"] = parts["gw"]
        mac = lab.vm_options.parts(key, config[key]).get("macaddr", "").lower()
        entries.append({"type": "physical", "name": f"eth{number}", "mac_address": mac, "subnets": [subnet]})
    if "nameserver" in config or "searchdomain" in config:
        resolver: dict[str, Any] = {"type": "nameserver", "address": split_list(config.get("nameserver", ""))}
        if "searchdomain" in config:
            resolver["search"] = [config["searchdomain"]]
        entries.append(resolver)
    return {"version": 1, "config": entries}
