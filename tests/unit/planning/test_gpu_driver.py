"""Which driver which cards get: rows of the wish, the cards, and what comes out."""

from __future__ import annotations

from itertools import pairwise

import pytest

from provisioner.domain.gpu_driver import DriverChoice, parse_driver
from provisioner.domain.names import HypervisorName, MappingId
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import MappingSeen
from provisioner.planning.gpu.cards import CHIPS, SUPPORT, Generation, chip_of, generation_of
from provisioner.planning.gpu.driver import choose_driver, ids_of_mapping

M40, P40, P100, V100, T4, A100, RTX3090 = "17fd", "1b38", "15f8", "1db6", "1eb8", "20b5", "2204"
L4, H100, H200, B200, RTX5090, PRO6000, K80 = "27b8", "2331", "2335", "2901", "2b85", "2bb1", "102d"


def choice(wish: str, *devices: str, secure_boot: bool | None = None, vendor: str = "10de") -> str:
    chosen = choose_driver(
        parse_driver(wish), [(vendor, device) for device in devices], secure_boot=secure_boot, node="llm-gpu-01"
    )
    if isinstance(chosen, Refusal):
        assert chosen.next_step
        return f"no: {chosen.reason}"
    return str(chosen)


@pytest.mark.parametrize(
    ("device", "generation", "capability"),
    [
        (M40, Generation.MAXWELL, "5.2"), ("13bd", Generation.MAXWELL, "5.0"), (P100, Generation.PASCAL, "6.0"),
        (P40, Generation.PASCAL, "6.1"), (V100, Generation.VOLTA, "7.0"), (T4, Generation.TURING, "7.5"),
        ("2184", Generation.TURING, "7.5"), (A100, Generation.AMPERE, "8.0"), (RTX3090, Generation.AMPERE, "8.6"),
        (L4, Generation.ADA, "8.9"), (H100, Generation.HOPPER, "9.0"), (H200, Generation.HOPPER, "9.0"),
        (B200, Generation.BLACKWELL, "10.0"), ("3182", Generation.BLACKWELL, "10.3"),
        (RTX5090, Generation.BLACKWELL, "12.0"), (PRO6000, Generation.BLACKWELL, "12.0"),
        ("2e12", Generation.BLACKWELL, "12.1"),
    ],
)  # fmt: skip
def test_a_card_is_known_by_its_id(device: str, generation: Generation, capability: str) -> None:
    chip = chip_of(device)
    assert chip is not None
    assert (chip.generation, chip.compute_capability) == (generation, capability)


def test_old_and_new_cards_outside_the_table_are_told_apart() -> None:
    assert generation_of(K80) is Generation.KEPLER
    assert generation_of("fff0") is None


def test_the_table_has_no_overlaps_and_every_generation_has_its_support() -> None:
    ordered = sorted(CHIPS, key=lambda chip: chip.first)
    assert list(CHIPS) == ordered
    assert all(chip.first <= chip.last for chip in CHIPS)
    assert all(one.last < other.first for one, other in pairwise(ordered))
    assert set(SUPPORT) == set(Generation)


@pytest.mark.parametrize(
    ("wish", "devices", "expected"),
    [
        ("auto", [V100], "580-server"),
        ("auto", [P40], "580-server"),
        ("auto", [M40, P100], "580-server"),
        ("auto", [V100, V100], "580-server"),
        ("auto", [T4], "580-server-open"),
        ("auto", [RTX3090], "580-server-open"),
        ("auto", [H200, H200], "580-server-open"),
        ("auto", [RTX5090], "580-server-open"),
        # One kernel, one module: the older card decides.
        ("auto", [V100, RTX3090], "580-server"),
        ("auto", [RTX3090, RTX5090], "580-server-open"),
        # A card that the table does not know yet gets what new cards need.
        ("auto", ["fff0"], "580-server-open"),
        ("580-server", [RTX3090], "580-server"),
        ("595-open", [RTX3090], "595-open"),
        ("610-server-open", [RTX5090, L4], "610-server-open"),
        ("580-server-dkms", [V100], "580-server-dkms"),
        ("none", [V100, RTX5090], "none"),
        ("none", [], "none"),
    ],
)
def test_cards_get_their_driver(wish: str, devices: list[str], expected: str) -> None:
    assert choice(wish, *devices) == expected


@pytest.mark.parametrize(
    ("wish", "devices", "words"),
    [
        ("auto", [V100, RTX5090], "Volta has only the proprietary module and Blackwell only the open one"),
        ("auto", [K80], "ended with branch 470"),
        ("auto", [], "no card of NVIDIA or AMD is in sight"),
        ("595-server", [V100], "driver 595 ignores cards of generation Volta"),
        ("535-server-open", [RTX5090], "older than cards of generation Blackwell"),
        ("580-server-open", [P40], "the open module does not drive generation Pascal"),
        ("580-server", [RTX5090], "the proprietary module does not drive generation Blackwell"),
        ("rocm", [RTX3090], "ROCm is not for cards of NVIDIA"),
    ],
)
def test_cards_that_no_driver_serves_are_refused_with_the_reason(wish: str, devices: list[str], words: str) -> None:
    answer = choice(wish, *devices)
    assert answer.startswith("no: ")
    assert words in answer


def test_secure_boot_takes_signed_modules_and_refuses_built_ones() -> None:
    assert choice("auto", V100, secure_boot=True) == "580-server"
    assert "DKMS" in choice("580-server-dkms", V100, secure_boot=True)
    assert choice("580-server-dkms", V100, secure_boot=None) == "580-server-dkms"


def test_cards_of_amd_get_rocm() -> None:
    assert choice("auto", "744c", vendor="1002") == "rocm"
    assert choice("rocm", "744c", vendor="1002") == "rocm"
    assert "not for cards of AMD" in choice("580-server", "744c", vendor="1002")
    assert "Secure Boot" in choice("auto", "744c", vendor="1002", secure_boot=True)


def test_cards_of_two_makers_are_refused() -> None:
    mixed = choose_driver(parse_driver("auto"), [("10de", V100), ("1002", "744c")], secure_boot=None, node="n")
    assert isinstance(mixed, Refusal)


@pytest.mark.parametrize("text", ["", "latest", "58", "580_server", "580-open-server", "nvidia-driver-580", "580 "])
def test_other_words_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="580-server"):
        parse_driver(text)


def test_package_names_follow_the_choice() -> None:
    chosen = choose_driver(parse_driver("auto"), [("10de", RTX3090)], secure_boot=None, node="n")
    assert isinstance(chosen, DriverChoice)
    assert (chosen.packages, chosen.modules) == ("580-server", "580-server-open")


def test_ids_are_read_from_a_mapping_of_this_hypervisor_only() -> None:
    mapping = MappingSeen(
        MappingId("v100"), (),
        ("node=pve1,path=0000:01:00,id=10DE:1db6,iommugroup=12", "node=pve2,path=0000:02:00,id=10de:2204",
         "node=pve1,path=0000:03:00"),
    )  # fmt: skip
    assert ids_of_mapping(mapping, HypervisorName("pve1")) == (("10de", "1db6"),)
