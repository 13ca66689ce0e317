"""What the tests of `init` share: running the command, and clusters to run it on."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from provisioner.adapters.files.fleet_file import load_fleet
from provisioner.cli.app import root
from provisioner.domain.fleet import FleetSpec
from provisioner.engines.registry import ENGINE_TRAITS
from provisioner.lab.harness import RunningLab
from provisioner.lab.tls import certificate


@dataclass(frozen=True)
class Outcome:
    """What the command printed, and the error it ended with, if any."""

    code: int
    stdout: str
    stderr: str
    error: BaseException | None

    @property
    def result(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        found: dict[str, Any] = json.loads(self.stdout)["result"]
        return found


def run_init(*arguments: object) -> Outcome:
    """Run `provisioner init` in this process."""
    result = CliRunner().invoke(root, ["init", *map(str, arguments)])
    error = result.exception if not isinstance(result.exception, SystemExit) else None
    return Outcome(result.exit_code, result.stdout, result.stderr, error)


def secret_file(folder: Path, secret: str, name: str = "secret") -> str:
    """Keep a secret as a person would, and return the reference to it."""
    path = folder / name
    path.write_text(f"{secret}\n")
    path.chmod(0o600)
    return f"file:{path}"


def as_root(lab: RunningLab, folder: Path) -> list[str]:
    """Log in as root, certificate known."""
    password = secret_file(folder, lab.credentials["root@pam"], "password")
    return [lab.url, "--user", "root@pam", "--password", password, "--fingerprint", lab.fingerprint]


def as_token(lab: RunningLab, folder: Path, token: str = "provisioner@pve!fleet") -> list[str]:
    """Log in with a token, certificate known."""
    secret = secret_file(folder, lab.token(token), "token")
    return [lab.url, "--token-id", token, "--token-secret", secret, "--fingerprint", lab.fingerprint]


def make_token(lab: RunningLab, name: str, grants: dict[str, str]) -> str:
    """Make a user with a token that has roles by path; return the token's id."""
    lab.call("POST", "/access/users", userid=f"{name}@pve")
    lab.call("POST", f"/access/users/{name}@pve/token/t1", privsep="0")
    for path, role in grants.items():
        lab.call("PUT", "/access/acl", path=path, roles=role, users=f"{name}@pve")
    return f"{name}@pve!t1"


def read_back(path: Path) -> FleetSpec:
    """Load a written fleet file as every command does."""
    return load_fleet(path, engines=ENGINE_TRAITS)


@contextmanager
def something_else(folder: Path, answer: object, status: int = 200) -> Iterator[tuple[str, str]]:
    """Serve one JSON answer over TLS to every request; yields the URL and the certificate's fingerprint."""
    from provisioner.lab.tls import fingerprint

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    folder.mkdir(exist_ok=True)
    cert, key = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", fingerprint(cert)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _pci(address: str, vendor: str, device: str, pci_class: str, group: int, vendor_name: str, name: str) -> Any:
    return {
        "address": address,
        "vendor": f"0x{vendor}",
        "device": f"0x{device}",
        "class": f"0x{pci_class}",
        "iommugroup": group,
        "vendor_name": vendor_name,
        "device_name": name,
    }


NVIDIA, AMD = "NVIDIA Corporation", "Advanced Micro Devices, Inc. [AMD/ATI]"

SEVERAL: dict[str, Any] = {
    "nodes": {
        # Yes, a server may be called that.
        "no": {
            "ip": "192.168.7.2",
            "cidr": "192.168.7.2/24",
            "gateway": "192.168.7.1",
            "bridges": ["vmbr0", "vmbr1"],
            "threads": 16,
            "memory_bytes": 64 << 30,
        },
        "PVE-1e3": {"ip": "192.168.7.3", "cidr": "192.168.7.3/24", "gateway": "192.168.7.1"},
        "007": {"ip": "192.168.7.4", "online": False},
    },
    "pci": {
        "no": [
            _pci("0000:00:01.0", "8086", "1901", "060400", 1, "Intel Corporation", "PCIe Controller (x16)"),
            _pci("0000:00:02.0", "8086", "3e98", "030000", 0, "Intel Corporation", "CoffeeLake-S GT2 [UHD 630]"),
            _pci("0000:01:00.0", "10de", "2684", "030000", 1, NVIDIA, "AD102 [GeForce RTX 4090]"),
            _pci("0000:01:00.1", "10de", "22ba", "040300", 1, NVIDIA, "AD102 High Definition Audio Controller"),
            _pci("0000:02:00.0", "1002", "744c", "030000", 2, AMD, 'Navi 31 [Radeon RX "7900": XT/7900 XTX] # ü'),
            _pci("0000:03:00.0", "1a03", "2000", "030000", 3, "ASPEED Technology, Inc.", "ASPEED Graphics Family"),
        ],
        "PVE-1e3": [_pci("0000:01:00.0", "10de", "2204", "030000", -1, NVIDIA, "GA102 [GeForce RTX 3090]")],
    },
    "storage": {
        "local": {"type": "dir", "path": "/var/lib/vz", "content": ["iso", "vztmpl", "backup"]},
        "1": {"type": "dir", "path": "/no/id/of/proxmox", "content": ["images"]},
        "thin.pool-1": {"type": "lvmthin", "vgname": "pve", "thinpool": "data", "content": ["images", "rootdir"]},
    },
    "mappings": {"big": {"map": ["id=10de:2684,iommugroup=1,node=no,path=0000:01:00"]}},
    "guests": {
        "200": {
            "node": "no",
            "type": "qemu",
            "status": "stopped",
            "config": {
                "name": "windows.gaming",
                "memory": "8192",
                "hostpci0": "01:00.0;01:00.1,pcie=1,x-vga=1",
                "ipconfig0": "ip=192.168.7.201/24,gw=192.168.7.1",
            },
        },
        "5001": {"node": "no", "type": "qemu", "status": "stopped", "config": {"name": "yes", "memory": "512"}},
        "300": {
            "node": "no",
            "type": "lxc",
            "status": "running",
            "config": {"hostname": "dns", "net0": "name=eth0,bridge=vmbr0,ip=192.168.7.202/24"},
        },
    },
}
"""Three servers with awkward names, one of them off: a card in use, a free one, one without IOMMU, no import."""
