"""Evidence of a node in, named checks out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_reading import (
    DriverVersions,
    GpuFacts,
    GpuProcess,
    GpuReading,
    GuestCard,
    ToolAnswer,
)
from provisioner.domain.names import EngineName
from provisioner.domain.node_evidence import EngineEvidence, NodeEvidence, UnitEvidence
from provisioner.domain.quantities import GIB, MIB
from provisioner.engines.registry import ENGINES
from provisioner.planning.node_test import node_checks, on_gpu
from provisioner.planning.readiness import Check, CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
LLAMA_CPP, EXO = ENGINES[EngineName("llama.cpp")], ENGINES[EngineName("exo")]
MODEL = "gemma-2-2b-it.gguf"
CARD = GuestCard("0000:01:00.0", "10de", "2204", "nvidia")
READING = GpuReading(index=0, name="NVIDIA GeForce RTX 3090", bus_id="0000:01:00.0", memory_bytes=24 * GIB)
PROCESS = GpuProcess(1234, "/opt/llm/llama-server", 5 * GIB, None)
WELL = GpuFacts(
    cards=(CARD,),
    modules=frozenset({"nvidia"}),
    versions=DriverVersions(loaded="580.1.2", library="580.1.2", reported="580.1.2"),
    readings=(READING,),
    processes=(PROCESS,),
    answer=ToolAnswer(0, "0, NVIDIA GeForce RTX 3090"),
)
UNIT = UnitEvidence("active", 0, frozenset({1234}))
ANSWERS = EngineEvidence(models=(MODEL,), probe_seconds=0.1)


def checks(fleet: FleetSpec, node: NodeSpec, evidence: NodeEvidence) -> dict[str, Check]:
    found = node_checks(node, fleet.mode_of(node), fleet.gpus_of(node), LLAMA_CPP, evidence)
    return {check.id: check for check in found}


@pytest.fixture
def well() -> NodeEvidence:
    return NodeEvidence(ANSWERS, WELL, UNIT)


def test_a_node_that_is_well_passes_everything(fleet: FleetSpec, node: NodeSpec, well: NodeEvidence) -> None:
    found = checks(fleet, node, well)
    assert {check.status for check in found.values()} == {OK}
    assert list(found) == [
        "pci_device",
        "driver_matches",
        "vram",
        "engine_runs",
        "engine_answers",
        "engine_on_gpu",
        "probe",
    ]
    assert found["engine_on_gpu"].found == "llama.cpp holds 5.0 GiB on the card"


def test_a_node_without_gpus_is_not_asked_for_one(fleet: FleetSpec, node: NodeSpec, well: NodeEvidence) -> None:
    found = checks(fleet, replace(node, gpus=()), replace(well, facts=None))
    assert {check.status for check in found.values()} == {OK}
    assert "computes on its CPU" in found["gpu"].found
    assert "engine_on_gpu" not in found


class TestOnGpu:
    """Is the engine on the card, or silently on the CPU?"""

    @pytest.mark.parametrize(
        ("model_bytes", "gpu_bytes", "status", "words"),
        [
            (100, 100, OK, "100%"),
            (100, 0, FAIL, "computes on the CPU"),
            (100, 48, WARN, "48%"),
            (100, 120, OK, "100%"),
        ],
    )
    def test_its_own_word_counts_where_it_gives_one(
        self,
        fleet: FleetSpec,
        node: NodeSpec,
        well: NodeEvidence,
        model_bytes: int,
        gpu_bytes: int,
        status: CheckStatus,
        words: str,
    ) -> None:
        engine = replace(ANSWERS, model_bytes=model_bytes, gpu_bytes=gpu_bytes)
        check = checks(fleet, node, replace(well, engine=engine))["engine_on_gpu"]
        assert check.status is status
        assert words in check.found

    @pytest.mark.parametrize(
        ("processes", "status", "words"),
        [
            ((), FAIL, "computes on the CPU: it is no program on the card (none)"),
            ((replace(PROCESS, pid=7, name="Xorg"),), FAIL, "no program on the card (Xorg)"),
            ((replace(PROCESS, memory_bytes=None),), OK, "is a program on the card"),
            ((replace(PROCESS, memory_bytes=300 * MIB),), WARN, "holds only 300 MiB"),
            ((PROCESS, replace(PROCESS, pid=7)), OK, "5.0 GiB"),
        ],
        ids=["none", "another", "size unknown", "a context only", "its own among others"],
    )
    def test_else_the_drivers_list_of_programs_counts(
        self,
        fleet: FleetSpec,
        node: NodeSpec,
        well: NodeEvidence,
        processes: tuple[GpuProcess, ...],
        status: CheckStatus,
        words: str,
    ) -> None:
        check = checks(fleet, node, replace(well, facts=replace(WELL, processes=processes)))["engine_on_gpu"]
        assert check.status is status
        assert words in check.found

    def test_a_driver_that_does_not_answer_tells_nothing(
        self, fleet: FleetSpec, node: NodeSpec, well: NodeEvidence
    ) -> None:
        facts = replace(WELL, readings=(), processes=(), answer=ToolAnswer(9, "couldn't communicate"))
        found = checks(fleet, node, replace(well, facts=facts))
        assert found["engine_on_gpu"].status is UNKNOWN
        assert FAIL in {check.status for check in found.values()}

    def test_where_nobody_lists_programs_nothing_is_known(
        self, fleet: FleetSpec, node: NodeSpec, well: NodeEvidence
    ) -> None:
        evidence = replace(well, facts=replace(WELL, processes=None))
        assert checks(fleet, node, evidence)["engine_on_gpu"].status is UNKNOWN

    def test_an_engine_that_knows_no_gpus_is_where_it_should_be(
        self, fleet: FleetSpec, node: NodeSpec, well: NodeEvidence
    ) -> None:
        evidence = replace(well, facts=replace(WELL, processes=()))
        check = on_gpu(node, fleet.mode_of(node), EXO, evidence)
        assert check.status is OK
        assert check.found == "exo computes on the CPU by its nature; the card lies idle"

    def test_a_mode_that_asks_for_the_cpu_gets_it(self, fleet: FleetSpec, node: NodeSpec, well: NodeEvidence) -> None:
        mode = replace(fleet.mode_of(node), gpu_layers=0)
        evidence = replace(well, facts=replace(WELL, processes=()))
        found = node_checks(node, mode, fleet.gpus_of(node), LLAMA_CPP, evidence)
        assert {check.status for check in found} == {OK}


def test_a_smaller_card_than_the_file_says_is_another_card(
    fleet: FleetSpec, node: NodeSpec, well: NodeEvidence
) -> None:
    small = replace(WELL, readings=(replace(READING, memory_bytes=11 * GIB),))
    check = checks(fleet, node, replace(well, facts=small))["vram"]
    assert check.status is FAIL
    assert check.found == "11.0 GiB; the fleet file says 24.0 GiB"
    ecc = replace(WELL, readings=(replace(READING, memory_bytes=int(22.5 * GIB)),))
    assert checks(fleet, node, replace(well, facts=ecc))["vram"].status is OK


def test_a_guest_that_nobody_could_look_into_is_unknown(fleet: FleetSpec, node: NodeSpec) -> None:
    found = checks(fleet, node, NodeEvidence(ANSWERS, inside="cannot log in"))
    assert found["gpu"].status is UNKNOWN
    assert "cannot log in" in found["gpu"].found
    assert found["engine_answers"].status is OK


@pytest.mark.parametrize(
    ("unit", "status"),
    [
        (UNIT, OK),
        (UnitEvidence("failed", 0, frozenset()), FAIL),
        (UnitEvidence("active", 12, frozenset({1234})), WARN),
    ],
    ids=["steady", "failed", "restarted"],
)
def test_an_engine_that_is_restarted_again_and_again_is_told(
    fleet: FleetSpec, node: NodeSpec, well: NodeEvidence, unit: UnitEvidence, status: CheckStatus
) -> None:
    assert checks(fleet, node, replace(well, unit=unit))["engine_runs"].status is status


def test_an_engine_that_does_not_answer_is_not_judged_further(
    fleet: FleetSpec, node: NodeSpec, well: NodeEvidence
) -> None:
    found = checks(fleet, node, replace(well, engine=EngineEvidence("HTTP 503 Loading model")))
    assert found["engine_answers"].status is FAIL
    assert "engine_on_gpu" not in found
    assert "probe" not in found


def test_another_model_is_no_answer(fleet: FleetSpec, node: NodeSpec, well: NodeEvidence) -> None:
    found = checks(fleet, node, replace(well, engine=EngineEvidence(models=("another",))))
    assert found["engine_answers"].status is FAIL
    assert "it serves: another" in found["engine_answers"].found


@pytest.mark.parametrize(
    ("seconds", "history", "status"),
    [
        (9.0, (), OK),
        (9.0, (0.1, 0.1), OK),
        (0.3, (0.1, 0.1, 0.1), OK),
        (0.4, (0.1, 0.1, 0.1), FAIL),
        (1.9, (1.0, 1.0, 9.0), OK),
        (2.1, (1.0, 1.0, 9.0), FAIL),
        (0.01, (1.0, 1.0, 1.0), OK),
    ],
)
def test_a_first_token_is_judged_by_those_before_it(
    fleet: FleetSpec,
    node: NodeSpec,
    well: NodeEvidence,
    seconds: float,
    history: tuple[float, ...],
    status: CheckStatus,
) -> None:
    engine = replace(ANSWERS, probe_seconds=seconds, probe_history=history)
    assert checks(fleet, node, replace(well, engine=engine))["probe"].status is status


@pytest.mark.parametrize(
    ("rate", "bench", "status"),
    [
        (10.0, None, OK),
        (10.0, {"tokens_per_second_p50": 0.0}, OK),
        (99.0, {"tokens_per_second_p50": 100.0}, OK),
        (79.0, {"tokens_per_second_p50": 100.0}, WARN),
        (49.0, {"tokens_per_second_p50": 100.0}, FAIL),
    ],
)
def test_speed_is_judged_by_the_last_bench(
    fleet: FleetSpec,
    node: NodeSpec,
    well: NodeEvidence,
    rate: float,
    bench: dict[str, float] | None,
    status: CheckStatus,
) -> None:
    engine = replace(ANSWERS, tokens_per_second=rate, bench=bench)
    assert checks(fleet, node, replace(well, engine=engine))["speed"].status is status


def test_every_check_that_is_not_fine_says_why_and_what_next(fleet: FleetSpec, node: NodeSpec) -> None:
    bad = NodeEvidence(
        EngineEvidence("connection refused"), replace(WELL, readings=()), UnitEvidence("failed", 9, frozenset())
    )
    found = [check for check in checks(fleet, node, bad).values() if check.status is not OK]
    assert found
    assert all(check.why and check.next_step for check in found)
