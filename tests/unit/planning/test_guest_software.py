"""The base and the driver of a guest in its plan: what they are given, and what is refused before anything moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.actions import ConvergeGuest, InstallDriver, Step, StepKind
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.gpu_driver import DriverKind
from provisioner.domain.names import MappingId, NodeName
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import MappingSeen
from provisioner.engines.registry import ENGINES
from provisioner.planning.gpu import gpu_facts
from provisioner.planning.gpu.installing import driver_playbooks, driver_work
from provisioner.planning.guest_software import base_variables, software_refusal, software_steps
from tests.fakes.gpu_answers import VERSION, answer, row
from tests.fleets import FLEET, SUM, fleet_from

NAME = NodeName("llm-gpu-01")
CARD = MappingId("rtx3090")


def mapping(device: str) -> dict[MappingId, MappingSeen]:
    return {CARD: MappingSeen(CARD, (), (f"node=pve1,path=0000:01:00,id=10de:{device},iommugroup=1",))}


def steps(fleet: FleetSpec, seen: dict[MappingId, MappingSeen] | None = None, name: NodeName = NAME) -> list[Step]:
    return list(software_steps(fleet, fleet.nodes[name], seen or {}, ENGINES, StepKind.ENSURE))


def test_a_gpu_node_gets_its_base_then_its_driver(tmp_path: Path) -> None:
    base, driver = steps(fleet_from(tmp_path), mapping("2204"))
    assert isinstance(base.action, ConvergeGuest)
    assert isinstance(driver.action, InstallDriver)
    assert driver.action.ids == (("10de", "2204"),)
    assert str(driver) == "driver: 580-server-open for its cards"
    assert str(base) == "base: SSH by key, and engines, for 10.10.0.0/16"


def test_the_firewall_opens_the_ports_of_the_modes_only(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    assert base_variables(fleet, fleet.nodes[NAME], ENGINES) == {
        "guest_base_allowed_networks": ["10.10.0.0/16"],
        "guest_base_ports": [8080],
        "guest_base_upgrades": True,
        "guest_base_peers": [],
        "guest_base_model_disk": "",
    }


def test_a_guest_with_a_disk_for_models_has_it_mounted_before_any_engine(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("  idle_after: 20m", "  idle_after: 20m\n  model_disk: 500GiB"))
    base, *_ = steps(fleet)
    assert isinstance(base.action, ConvergeGuest)
    assert base.action.units == ("provisioner-firewall.service", "var-lib-llm.mount")
    assert base.action.variables["guest_base_model_disk"] == "llm-models"
    assert base.reason.endswith("models on a disk of their own, at /var/lib/llm")


def test_the_firewall_opens_the_port_of_the_web_ui_too(tmp_path: Path) -> None:
    text = FLEET.replace("modes: [small], gateway", "modes: [small], web_ui: {version: 0.6.30, port: 3000}, gateway")
    fleet = fleet_from(tmp_path, text)
    assert base_variables(fleet, fleet.nodes[NAME], ENGINES)["guest_base_ports"] == [3000, 8080]


def test_nodes_of_one_exo_cluster_may_reach_each_other(tmp_path: Path) -> None:
    text = FLEET.replace("engines:\n", f"engines:\n  exo: {{source: exo.tar.gz, sha256: {SUM}}}\n")
    text = text.replace("modes:\n", "modes:\n  far: {engine: exo, model: llama-3.2-1b}\n").replace("[small]", "[far]")
    fleet = fleet_from(tmp_path, text)
    assert base_variables(fleet, fleet.nodes[NAME], ENGINES)["guest_base_peers"] == ["10.10.90.2"]


def test_a_node_without_cards_gets_no_driver(tmp_path: Path) -> None:
    text = FLEET.replace("gpus: [rtx3090], modes: [small], gateway", "modes: [small], gateway")
    assert [step.name for step in steps(fleet_from(tmp_path, text))] == ["base"]


def test_nothing_is_installed_where_somebody_else_brings_the_driver(tmp_path: Path) -> None:
    text = FLEET.replace("vram: 24GiB}", "vram: 24GiB, driver: none}")
    assert [step.name for step in steps(fleet_from(tmp_path, text))] == ["base"]


def test_an_engine_that_comes_as_an_image_gets_docker_before_it(tmp_path: Path) -> None:
    image = "ghcr.io/huggingface/text-generation-inference:3.3.4@sha256:" + SUM
    text = FLEET.replace("engines:\n", f'engines:\n  tgi: {{image: "{image}", version: 3.3.4}}\n')
    text = text.replace("modes:\n", "modes:\n  far: {engine: tgi, model: org/model}\n").replace("[small]", "[far]")
    assert [step.name for step in steps(fleet_from(tmp_path, text))] == ["base", "driver", "containers"]


def test_simulated_guests_and_adopted_nodes_are_left_alone(tmp_path: Path) -> None:
    simulated = FLEET.replace("    bridge: vmbr0\n", "    bridge: vmbr0\n    guests: simulated\n")
    assert steps(fleet_from(tmp_path, simulated)) == []
    adopted = FLEET.replace("modes: [small]}", "modes: [small], adopt: true}")
    assert steps(fleet_from(tmp_path, adopted), name=NodeName("llm-gpu-02")) == []


@pytest.mark.parametrize(
    ("driver", "device", "words"),
    [
        ("595-server", "1db6", "ignores cards of generation Volta"),
        ("580-server", "2b85", "proprietary module does not"),
    ],
)
def test_a_driver_that_does_not_fit_is_refused_before_anything_moves(
    tmp_path: Path, driver: str, device: str, words: str
) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("vram: 24GiB}", f"vram: 24GiB, driver: {driver}}}"))
    found = software_refusal(fleet, fleet.nodes[NAME], mapping(device))
    assert found is not None
    assert words in found.reason
    assert software_refusal(fleet, fleet.nodes[NAME], {}) is None, "nobody has looked yet"


def test_one_node_one_driver(tmp_path: Path) -> None:
    text = FLEET.replace(
        "rtx3090: {mapping: rtx3090, vram: 24GiB}",
        "rtx3090: {mapping: rtx3090}\n      second: {mapping: second, driver: 595-open}",
    ).replace("gpus: [rtx3090], modes: [small], gateway", "gpus: [rtx3090, second], modes: [small], gateway")
    fleet = fleet_from(tmp_path, text)
    found = software_refusal(fleet, fleet.nodes[NAME], {})
    assert found is not None
    assert "595-open, auto" in found.reason


PACKAGES = (
    f"linux-modules-nvidia-580-server-open-generic {VERSION} hold installed\n"
    f"nvidia-utils-580-server {VERSION} hold installed"
)
OPEN = f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {VERSION}  Release Build"
RIGHT: dict[str, str | None] = {"packages": PACKAGES, "proc-version": OPEN}


@pytest.mark.parametrize(
    ("changes", "modules", "reason"),
    [
        ({}, "nvidia nvidia_uvm", ""),
        ({"packages": ""}, "nvidia nvidia_uvm", "the tools of 580-server are not installed"),
        ({"packages": PACKAGES.replace("-open", "")}, "nvidia nvidia_uvm", "modules of 580-server-open are not"),
        ({"on-disk": None}, "nvidia nvidia_uvm", "no driver module for kernel 6.8.0-87-generic"),
        ({"library": "libnvidia-ml.so.580.181.01"}, "nvidia nvidia_uvm", "versions differ"),
        ({"on-disk": "580.181.01"}, "nvidia nvidia_uvm", "versions differ"),
        ({}, "nvidia nvidia_uvm nouveau", "nouveau has the card"),
        ({}, "", "the module is not loaded"),
        ({}, "nvidia", "nvidia_uvm is not loaded"),
        ({"proc-version": OPEN.replace("Open Kernel Module for x86_64", "x86_64 Kernel Module")}, "nvidia nvidia_uvm",
         "the proprietary module is loaded"),
        ({"packages": PACKAGES.replace("hold", "install")}, "nvidia nvidia_uvm", "not held against upgrades"),
        ({"drift": "the kernel changed"}, "nvidia nvidia_uvm", "the kernel changed"),
    ],
)  # fmt: skip
def test_the_playbook_runs_where_something_is_not_as_it_should_be(
    tmp_path: Path, changes: dict[str, str | None], modules: str, reason: str
) -> None:
    fleet = fleet_from(tmp_path)
    (_, driver) = steps(fleet)
    assert isinstance(driver.action, InstallDriver)
    facts = gpu_facts(answer(modules=modules, sections={**RIGHT, **changes}))
    work = driver_work(driver.action, facts, fleet.nodes[NAME])
    assert not isinstance(work, Refusal)
    assert reason in "; ".join(work.reasons)
    assert bool(work.reasons) == bool(reason)
    assert [name for name, _ in driver_playbooks(work, driver.action)] == (["install-nvidia-driver"] if reason else [])


def test_a_toolkit_is_laid_down_where_it_is_asked_for_and_missing(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("  idle_after: 20m", "  idle_after: 20m\n  cuda_toolkit: 12-9"))
    (_, driver) = steps(fleet)
    assert isinstance(driver.action, InstallDriver)
    for there, wanted in (("", ["install-nvidia-driver", "install-cuda-toolkit"]), ("12-9", [])):
        work = driver_work(driver.action, gpu_facts(answer(sections={**RIGHT, "toolkits": there})), fleet.nodes[NAME])
        assert not isinstance(work, Refusal)
        assert [name for name, _ in driver_playbooks(work, driver.action)] == wanted


def test_an_amd_card_gets_rocm(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    (_, driver) = steps(fleet)
    assert isinstance(driver.action, InstallDriver)
    text = answer("", cards=("0000:01:00.0 1002 744c -",), modules="", devices="").replace("=== smi-query 0\n\n", "")
    work = driver_work(driver.action, gpu_facts(text), fleet.nodes[NAME])
    assert not isinstance(work, Refusal)
    assert work.choice.kind is DriverKind.ROCM
    assert driver_playbooks(work, driver.action) == (("install-rocm", {}),)


@pytest.mark.parametrize(
    ("toolkit", "device", "reason"),
    [
        ("13-0", "1db4", "CUDA toolkit 13-0 builds nothing for cards of generation Volta, which ended with CUDA 12"),
        ("12-9", "1db4", ""),
        ("13-0", "2204", ""),
        ("13-0", "ffff", ""),
    ],
)
def test_a_toolkit_that_builds_nothing_for_the_card_is_refused(
    tmp_path: Path, toolkit: str, device: str, reason: str
) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("  idle_after: 20m", f"  idle_after: 20m\n  cuda_toolkit: {toolkit}"))
    found = software_refusal(fleet, fleet.nodes[NAME], mapping(device))
    assert (found is None) is (reason == "")
    if found is not None:
        assert found.reason == reason
        assert "cuda_toolkit: 12-9" in found.next_step


def test_persistence_that_is_off_is_repaired(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    (_, driver) = steps(fleet)
    assert isinstance(driver.action, InstallDriver)
    work = driver_work(
        driver.action, gpu_facts(answer(row(persistence_mode="Disabled"), sections=RIGHT)), fleet.nodes[NAME]
    )
    assert not isinstance(work, Refusal)
    assert work.reasons == ("persistence mode is off",)


def test_a_guest_that_may_go_off_by_itself_is_told_when_and_where_its_engines_tell(tmp_path: Path) -> None:
    text = FLEET.replace("modes: [small], gateway", "modes: [small], off_by_itself_after: 6h, gateway")
    fleet = fleet_from(tmp_path, text)
    told = base_variables(fleet, fleet.nodes[NAME], ENGINES)
    assert told["guest_base_off_seconds"] == 21600
    assert told["guest_base_engine_urls"] == ["http://127.0.0.1:8080/metrics"]
    base = steps(fleet, mapping("2204"))[0].action
    assert isinstance(base, ConvergeGuest)
    assert base.units == ("provisioner-firewall.service", "provisioner-idle.timer")


def test_a_guest_whose_gpu_would_not_come_back_never_goes_off_by_itself(tmp_path: Path) -> None:
    text = FLEET.replace("modes: [small], gateway", "modes: [small], off_by_itself_after: 6h, gateway")
    fleet = fleet_from(tmp_path, text.replace("vram: 24GiB", "vram: 24GiB, survives_stop: false"))
    assert "guest_base_off_seconds" not in base_variables(fleet, fleet.nodes[NAME], ENGINES)
    base = steps(fleet, mapping("2204"))[0].action
    assert isinstance(base, ConvergeGuest)
    assert "provisioner-idle.timer" not in base.units
