"""The port `Seeds`: Jinja2 renders the documents, pycdlib writes the ISO, cryptography makes the key."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import jinja2
import pycdlib
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from provisioner.adapters.cloud_init.extra import read_extra, with_extra
from provisioner.adapters.files.shipped import shipped_folder
from provisioner.domain.conventions import mac_address
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.ports.seeds import HostKeyPair

_DOCUMENTS = ("user-data", "meta-data", "network-config")
_LABEL = "cidata"
"""cloud-init finds a NoCloud seed by this volume label."""


class CloudInitSeeds:
    """Renders seeds for guests that our login key may enter."""

    def __init__(self, authorized_keys: Callable[[], tuple[str, ...]]) -> None:
        self._authorized_keys = authorized_keys
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(shipped_folder("cloud-init")),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - YAML, not HTML; free text goes through tojson
        )

    def new_host_key(self) -> HostKeyPair:
        """Make an ed25519 key pair."""
        return new_key_pair()

    def authorized_keys(self) -> tuple[str, ...]:
        """Return the public keys that may log in to a guest, one line each."""
        return self._authorized_keys()

    def seed(self, fleet: FleetSpec, node: NodeSpec, host_key: HostKeyPair) -> bytes:
        """Return the ISO for a first boot."""
        return seed_iso(self.documents(fleet, node, host_key.public, host_key))

    def sealed_seed(self, fleet: FleetSpec, node: NodeSpec, host_key_public: str) -> bytes:
        """Return the ISO of the same instance without the private host key and without a person's own user-data.

        What people have a first boot do carries passwords and tokens of theirs. It has been done, and the guest's
        cloud-init is off: nobody will read it there again.
        """
        return seed_iso(self.documents(fleet, node, host_key_public, None))

    def documents(
        self, fleet: FleetSpec, node: NodeSpec, host_key_public: str, seed_key: HostKeyPair | None
    ) -> dict[str, str]:
        """Render the three documents of a seed; without `seed_key`, those that hold no secret."""
        values = {
            "name": node.name,
            "user": fleet.ssh.user,
            "authorized_keys": self._authorized_keys(),
            "seed_key": seed_key,
            "instance_id": instance_id(node, host_key_public),
            "mac": mac_address(node.vmid),
            "address": node.address,
            "gateway": node.gateway,
            "nameservers": node.nameservers,
        }
        documents = {name: self._templates.get_template(f"{name}.yml.j2").render(values) for name in _DOCUMENTS}
        if node.extra_user_data is not None and seed_key is not None:
            documents["user-data"] = with_extra(documents["user-data"], read_extra(node.extra_user_data))
        return documents

    def verify(self, node: NodeSpec) -> None:
        """Read what the node's seed will need from this machine."""
        if node.extra_user_data is not None:
            read_extra(node.extra_user_data)


def new_key_pair() -> HostKeyPair:
    """Make an ed25519 key pair in OpenSSH's formats."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return HostKeyPair(public=public, private=private)


def instance_id(node: NodeSpec, host_key_public: str) -> str:
    """Return cloud-init's name for this first boot, the same for a seed and its sealed successor."""
    digest = hashlib.sha256(host_key_public.encode()).hexdigest()
    return f"{node.name}-{node.vmid}-{digest[:12]}"


def seed_iso(documents: dict[str, str]) -> bytes:
    """Write documents into an ISO 9660 image with Joliet and Rock Ridge names, as cloud-init reads it."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=_LABEL)
    for at, (name, text) in enumerate(documents.items()):
        content = text.encode()
        iso.add_fp(io.BytesIO(content), len(content), iso_path=f"/F{at}.;1", rr_name=name, joliet_path=f"/{name}")
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()
