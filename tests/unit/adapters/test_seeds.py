"""What a guest gets on its first boot."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from provisioner.adapters.cloud_init.seeds import CloudInitSeeds, new_key_pair
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.lab.guests.seed import read_seed
from provisioner.ports.seeds import HostKeyPair
from tests.golden_files import assert_golden

KEY = HostKeyPair(
    public="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFixed",
    private="-----BEGIN OPENSSH PRIVATE KEY-----\nbGluZSBvbmU=\nbGluZSB0d28=\n-----END OPENSSH PRIVATE KEY-----\n",
)


@pytest.fixture
def seeds() -> CloudInitSeeds:
    return CloudInitSeeds(lambda: ("ssh-ed25519 AAAALogin",))


@pytest.mark.parametrize("document", ["user-data", "meta-data", "network-config"])
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_documents(seeds: CloudInitSeeds, fleet: FleetSpec, node: NodeSpec, document: str, sealed: bool) -> None:
    documents = seeds.documents(fleet, node, KEY.public, None if sealed else KEY)
    assert_golden(f"cloud-init/{'sealed' if sealed else 'open'}-{document}.yml", documents[document])


def test_a_guest_reads_the_seed_as_meant(
    seeds: CloudInitSeeds, fleet: FleetSpec, node: NodeSpec, tmp_path: Path
) -> None:
    (tmp_path / "seed.iso").write_bytes(seeds.seed(fleet, node, KEY))
    seed = read_seed(tmp_path / "seed.iso")
    assert str(seed.address) == "10.10.90.1/16"
    assert str(seed.gateway) == "10.10.0.1"
    assert seed.user_data["hostname"] == "llm-gpu-01"
    assert seed.user_data["ssh_keys"] == {"ed25519_private": KEY.private, "ed25519_public": KEY.public}


def test_a_sealed_seed_is_the_same_instance_without_the_private_key(
    seeds: CloudInitSeeds, fleet: FleetSpec, node: NodeSpec
) -> None:
    opened = seeds.documents(fleet, node, KEY.public, KEY)
    sealed = seeds.documents(fleet, node, KEY.public, None)
    assert sealed["meta-data"] == opened["meta-data"]
    assert b"PRIVATE KEY" in seeds.seed(fleet, node, KEY)
    assert b"PRIVATE KEY" not in seeds.sealed_seed(fleet, node, KEY.public)


def test_a_new_host_key_is_a_new_instance(seeds: CloudInitSeeds, fleet: FleetSpec, node: NodeSpec) -> None:
    first, second = (
        yaml.safe_load(seeds.documents(fleet, node, new_key_pair().public, None)["meta-data"]) for _ in range(2)
    )
    assert first["instance-id"] != second["instance-id"]


def test_a_private_key_does_not_show_itself() -> None:
    assert "bGluZSBvbmU" not in repr(KEY)
