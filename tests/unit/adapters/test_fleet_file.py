"""The strict loader: every mistake is named with file, line, what was found and what is allowed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.files.fleet_schema import json_schema
from provisioner.domain.names import HypervisorName, NodeName
from provisioner.domain.quantities import GIB
from provisioner.engines.registry import ENGINE_TRAITS
from provisioner.errors import InputError, ProvisionerError
from tests.fleets import FLEET, SUM, fleet_from


def test_a_right_file_is_read_with_defaults_and_conventions_applied(tmp_path: Path) -> None:
    node = fleet_from(tmp_path).nodes[NodeName("llm-gpu-01")]
    assert node.vmid == 5001
    assert str(node.address) == "10.10.90.1/16"
    assert node.memory_bytes == 48 * GIB
    assert node.idle_after_seconds == 1200
    assert node.hypervisor == HypervisorName("pve1")


def test_a_node_overrides_defaults(tmp_path: Path) -> None:
    text = FLEET.replace("modes: [small], gateway: 10.10.0.1", "modes: [small], memory: 8GiB, vmid: 6001")
    node = fleet_from(tmp_path, text).nodes[NodeName("llm-gpu-01")]
    assert (node.memory_bytes, node.vmid) == (8 * GIB, 6001)


def test_proxmox_own_names_are_accepted_as_proxmox_accepts_them(tmp_path: Path) -> None:
    text = FLEET.replace("disks: local-lvm", "disks: nas.local").replace("bridge: vmbr0", "bridge: vmbr0.10")
    fleet = fleet_from(tmp_path, text.replace("  pve1:", '  "PVE1":').replace("hypervisor: pve1", "hypervisor: PVE1"))
    assert HypervisorName("PVE1") in fleet.hypervisors
    assert [(each.storage.disks, each.bridge) for each in fleet.clusters.values()] == [("nas.local", "vmbr0.10")]


def test_a_fleet_may_begin_with_its_hypervisors_alone(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.partition("\nmodes:")[0] + "\n")
    assert (list(fleet.modes), list(fleet.nodes)) == ([], [])


def test_an_adopted_node_needs_none_of_what_shapes_a_vm(tmp_path: Path) -> None:
    text = FLEET.replace("modes: [small]}", "modes: [small], adopt: true, idle_after: 1h}")
    node = fleet_from(tmp_path, text).nodes[NodeName("llm-gpu-02")]
    assert node.adopt
    assert node.idle_after_seconds == 3600


def test_an_adopted_vm_may_live_in_another_network_than_the_others(tmp_path: Path) -> None:
    text = FLEET.replace("idle_after: 20m", "gateway: 10.10.0.1") + (
        "  mine: {hypervisor: pve1, vmid: 200, address: 192.168.1.2/24, modes: [small], adopt: true}\n"
    )
    assert fleet_from(tmp_path, text).nodes[NodeName("mine")].adopt


def test_slots_of_one_pool_share_a_mapping(tmp_path: Path) -> None:
    pool = "{mapping: rtx3090, pool: true}"
    text = FLEET.replace("rtx3090: {mapping: rtx3090, vram: 24GiB}", f"left: {pool}\n      right: {pool}")
    text = text.replace("gpus: [rtx3090], modes: [small], gateway", "gpus: [left, right], modes: [small], gateway")
    text = text.replace("gpus: [rtx3090]", "gpus: [left]")
    with pytest.raises(FleetFileError, match=r'already belongs to GPU "left"; allowed: .* pool: true'):
        fleet_from(tmp_path, text.replace(pool, "{mapping: rtx3090}", 1))
    fleet = fleet_from(tmp_path, text)
    assert [gpu.mapping for gpu in fleet.gpus_of(fleet.nodes[NodeName("llm-gpu-01")])] == ["rtx3090", "rtx3090"]


def test_options_of_the_vm_come_from_the_node_or_the_defaults(tmp_path: Path) -> None:
    text = FLEET.replace("  cores: 12", "  cores: 12\n  numa: true\n  protection: true\n  tags: [llm]")
    text = text.replace("modes: [small]}", "modes: [small], protection: false, tags: [], hugepages: 2MiB}")
    fleet = fleet_from(tmp_path, text)
    first, second = (fleet.nodes[NodeName(name)].options for name in ("llm-gpu-01", "llm-gpu-02"))
    assert (first.numa, first.protection, first.tags, first.hugepages) == (True, True, {"llm"}, None)
    assert (second.numa, second.protection, second.tags, second.hugepages) == (True, False, frozenset(), "2MiB")


def line_of(text: str, part: str) -> int:
    return next(at for at, line in enumerate(text.splitlines(), 1) if part in line)


TWO = "gpus: [rtx3090], modes: [small]}"

# what to replace, with what, where the error stands, found, allowed
MISTAKES = [
    ("memory: 48GiB", "memory: 48GB", "defaults.memory", '"48GB"', "GiB"),
    ("memory: 48GiB", "memory: 48", "defaults.memory", "48", "a size with its unit"),
    ("idle_after: 20m", "idle_after: 20", "defaults.idle_after", "20", "a time with its unit"),
    ("idle_after: 20m", "idle_afer: 20m", "defaults.idle_afer", "unknown key", "idle_after"),
    ("cores: 12", "cores: 0", "defaults.cores", "0", "greater than or equal to 1"),
    ("cores: 12", "cores: yes", "defaults.cores", "True", "integer"),
    ("cluster: homelab", "cluster: home", "hypervisors.pve1.cluster", 'unknown cluster "home"', "homelab"),
    ("api: https:", "api: http:", "clusters.homelab.api", "http://10.10.0.2:8006", "an https URL"),
    ("bridge: vmbr0", "brigde: vmbr0", "clusters.homelab.brigde", "unknown key", "bridge"),
    ("engine: llama.cpp", "engine: llama", "modes.small.engine", 'unknown engine "llama"', "llama.cpp"),
    ("model: gemma-2-2b-it.gguf}", "model: other}", "modes.small.model", "has no source", "gemma-2-2b-it.gguf"),
    (TWO, TWO.replace("3090", "4090"), "nodes.llm-gpu-02.gpus.0", "rtx4090", "rtx3090"),
    (TWO, TWO.replace("rtx3090", "rtx3090, rtx3090"), "nodes.llm-gpu-02.gpus.1", "twice", "once"),
    ("modes: [small]}", "modes: [smal]}", "nodes.llm-gpu-02.modes.0", 'unknown mode "smal"', "small"),
    ("modes: [small]}", "modes: []}", "nodes.llm-gpu-02.modes", "[]", "at least 1 item"),
    ("modes: [small]}", "modes: [small], vmid: 5001}", "nodes.llm-gpu-02.vmid", "5001 already belongs", "one VMID"),
    ("modes: [small]}", "modes: [small], vmid: 99}", "nodes.llm-gpu-02.vmid", "99", "100"),
    ("[small]}", "[small], address: 10.10.90.1/16}", "nodes.llm-gpu-02.address", "10.10.90.1 already", "one address"),
    ("modes: [small]}", "modes: [small], address: 10.10.90.2}", "nodes.llm-gpu-02.address", "10.10.90.2", "prefix"),
    ("modes: [small]}", "modes: [small], image: windows}", "nodes.llm-gpu-02.image", "windows", "ubuntu-24.04"),
    ("modes: [small]}", "modes: [small], gateway: 192.168.0.1}", "nodes.llm-gpu-02.gateway", "outside", "10.10.0.0/16"),
    ("  llm-gpu-02: {", "  LLM_2: {", "nodes.LLM_2", "LLM_2", "small letters"),
    ("  llm-gpu-02: {", "  atlas: {", "nodes.atlas", "no vmid", "a vmid"),
    ("mapping: rtx3090", "mapping: 0000:01:00", "hypervisors.pve1.gpus.rtx3090.mapping", "0000:01:00", "a Proxmox id"),
    ("id: provisioner@pve!fleet", "id: provisioner", "clusters.homelab.token.id", "provisioner", "USER@REALM!TOKENID"),
    (f"gemma.gguf, sha256: {SUM}", "gemma.gguf, sha256: 12ab", "models.gemma-2-2b-it.gguf.sha256", "12ab", "64 hex"),
    ("  llm-gpu-02: {", "  llm-gpu-01: {", "nodes.llm-gpu-01", "a second time", "each key once"),
    ("mapping: rtx3090", 'mapping: "01:00.0"', "hypervisors.pve1.gpus.rtx3090.mapping", "01:00.0", "never a token"),
    ("mapping: rtx3090", "mapping: 0000:01:00.0", "hypervisors.pve1.gpus.rtx3090.mapping", "0000:01:00.0", "never"),
    ("[small]}", "[small], vmid: 0777}", "nodes.llm-gpu-02.vmid", '"0777"', "integer"),
    ("[small]}", f"[small], memory: {'9' * 400}GiB}}", "nodes.llm-gpu-02.memory", "999", "48GiB"),
    ("[small]}", f"[small], idle_after: {'9' * 400}d}}", "nodes.llm-gpu-02.idle_after", "999", "20m"),
    ("[small]}", "[small], address: 10.10.0.0/16}", "nodes.llm-gpu-02.address", "no host", "between"),
    ("[small]}", "[small], address: 10.10.255.255/16}", "nodes.llm-gpu-02.address", "no host", "between"),
    ("[small]}", "[small], gateway: 10.10.0.1, address: 10.10.0.1/16}", "nodes.llm-gpu-02.address", "gateway's", ""),
    (TWO, TWO.replace("}", ", hugepages: 1GiB}"), "nodes.llm-gpu-02.hugepages", "hugepages without numa", "numa: true"),
    (TWO, TWO.replace("}", ", hugepages: 1GB}"), "nodes.llm-gpu-02.hugepages", "1GB", "1GiB"),
    (TWO, TWO.replace("}", ", tags: [Prod]}"), "nodes.llm-gpu-02.tags.0", "Prod", "a tag of small letters"),
    (TWO, TWO.replace("}", ", adopt: true, cores: 8}"), "nodes.llm-gpu-02.cores", "cores on an adopted", "nothing"),
    (TWO, TWO.replace("}", ", adopt: true, image: ubuntu-24.04}"), "nodes.llm-gpu-02.image", "adopted", "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "found", "allowed"), MISTAKES, ids=[row[1] for row in MISTAKES])
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, place: str, found: str, allowed: str
) -> None:
    assert old in FLEET
    text = FLEET.replace(old, new)
    with pytest.raises(FleetFileError) as caught:
        fleet_from(tmp_path, text)
    lines = [(line, problem) for line, problem in caught.value.problems if ".".join(map(str, problem.place)) == place]
    assert lines, caught.value
    line, problem = lines[0]
    assert found in problem.found
    assert allowed in problem.allowed
    # A key written twice is reported where it stood first, with the second line in the words.
    first_or_changed = line_of(text, new.strip()) if "second time" not in problem.found else line
    assert line == first_or_changed
    assert f"{tmp_path}/fleet.yml:{line}: {place}: found" in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = FLEET.replace("memory: 48GiB", "memory: 48GB").replace("cores: 12", "cors: 12")
    with pytest.raises(FleetFileError, match="2 problems"):
        fleet_from(tmp_path, text)


def test_a_secret_in_the_file_is_refused_and_never_repeated(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError) as caught:
        fleet_from(tmp_path, FLEET.replace("env:PROXMOX_TOKEN_SECRET", "8fb1a2de-3b62-secret"))
    assert "8fb1a2de" not in str(caught.value)
    assert "8fb1a2de" not in repr(caught.value.as_dict())
    assert "env:NAME or file:PATH" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2\nb: 3\n", "broken YAML"),
        ("", "no entries"),
        ("- 1\n- 2\n", "no entries"),
        ("clusters: {}\n", "clusters"),
        ("a: &x [*x]\n", "unknown key"),
        ("when: 2026-99-99\n", "broken YAML"),
        ("? [1, 2]\n: 3\n", "broken YAML"),
        ("a: !!python/object:os.system {}\n", "broken YAML"),
    ],
)
def test_what_is_no_fleet_file_is_said_so(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FleetFileError, match=words):
        fleet_from(tmp_path, text)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    from provisioner.adapters.files.fleet_file import load_fleet

    with pytest.raises(InputError, match="cannot find the fleet file"):
        load_fleet(tmp_path / "none.yml", engines=())


def test_binary_garbage_is_said_so(tmp_path: Path) -> None:
    from provisioner.adapters.files.fleet_file import load_fleet

    (tmp_path / "fleet.yml").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="cannot read the fleet file"):
        load_fleet(tmp_path / "fleet.yml", engines=())


_LINES = FLEET.splitlines()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    at=st.integers(0, len(_LINES) - 1),
    junk=st.one_of(
        st.text(max_size=30),
        st.sampled_from(["~", "[]", "{}", "x: {y: [1]}", "<<: *a", "\t", "- 1", "? ", "1e999", "0x7f", "!!set {a}"]),
    ),
    keep=st.integers(0, 30),
)
def test_a_damaged_file_loads_or_is_refused_but_never_breaks_the_loader(
    tmp_path: Path, at: int, junk: str, keep: int
) -> None:
    lines = list(_LINES)
    lines[at] = lines[at][:keep] + junk
    path = tmp_path / "fleet.yml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    from provisioner.adapters.files.fleet_file import load_fleet

    with contextlib.suppress(ProvisionerError):
        load_fleet(path, engines=ENGINE_TRAITS)


def test_the_schema_describes_the_same_keys() -> None:
    schema = json_schema()
    assert set(schema["properties"]) >= {"clusters", "hypervisors", "modes", "nodes"}
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["NodeShape"]["required"] == ["hypervisor", "modes"]


def test_an_editor_with_the_schema_accepts_and_refuses_as_we_do() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert not list(validator.iter_errors(yaml.safe_load(FLEET)))
    for old, new in (("memory: 48GiB", "memory: 48GB"), ("cores: 12", "cors: 12"), ("env:PROXMOX", "PROXMOX")):
        assert list(validator.iter_errors(yaml.safe_load(FLEET.replace(old, new)))), new
