"""How we start each engine, against what its published versions take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import EngineName
from provisioner.engines.base import InferenceEngine, Launch
from provisioner.engines.flags import check_arguments, check_launch
from provisioner.engines.flags.table import table_of
from provisioner.engines.registry import ENGINES
from tests.contract.test_engines import setting_for

OLDEST = {
    "vllm": "0.6.4.post1",
    # Below it the number of layers cannot be "all".
    "llama.cpp": "b9637",
    # Below it there is no usage-stats to switch off.
    "tgi": "2.3.0",
    # Below it there is no OLLAMA_NO_CLOUD, and what is not known is passed over in silence.
    "ollama": "0.16.2",
    "exo": "1.0.69",
}
"""The oldest version that was looked into and takes all that we say."""


def _launch(engine: InferenceEngine, fleet: FleetSpec, node: NodeSpec, version: str, gpus: int) -> Launch:
    setting = setting_for(engine, fleet, node, gpus)
    return engine.launch(replace(setting, software=replace(setting.software, version=version)))


def _versions(name: str) -> list[str]:
    table = table_of(name)
    assert table is not None
    oldest, newest = table.version(OLDEST[name]), table.version(table.newest)
    assert oldest is not None
    assert newest is not None
    return [str(each.high) for each in table.opened if oldest <= each.high <= newest]


ROWS = [(name, version) for name in ENGINES for version in _versions(name)]


@pytest.mark.parametrize(("name", "version"), ROWS)
@pytest.mark.parametrize("gpus", [1, 4])
def test_every_flag_that_we_set_is_taken_by_the_version(
    name: str, version: str, gpus: int, fleet: FleetSpec, node: NodeSpec
) -> None:
    engine = next(each for each in ENGINES.values() if each.name == name)
    launch = _launch(engine, fleet, node, version, gpus)

    assert [str(each) for each in check_launch(name, version, launch.argv, launch.environment)] == []


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("llama.cpp", "b4747", "--gpu-layers"),
        ("tgi", "2.2.0", "--usage-stats"),
        ("ollama", "0.5.12", "OLLAMA_CONTEXT_LENGTH"),
        ("ollama", "0.15.6", "OLLAMA_NO_CLOUD"),
    ],
)
def test_a_version_without_a_flag_that_we_set_is_known_beforehand(
    name: str, version: str, found: str, fleet: FleetSpec, node: NodeSpec
) -> None:
    engine = next(each for each in ENGINES.values() if each.name == name)
    setting = setting_for(engine, fleet, node)
    setting = replace(setting, mode=replace(setting.mode, gpu_layers=None))
    launch = engine.launch(replace(setting, software=replace(setting.software, version=version)))

    problems = check_launch(name, version, launch.argv, launch.environment)

    assert any(found in each.found and each.is_certain for each in problems)


@pytest.mark.parametrize("name", ENGINES)
def test_what_we_must_set_ourselves_is_refused_to_a_mode(name: str, fleet: FleetSpec, node: NodeSpec) -> None:
    table = table_of(name)
    assert table is not None

    for flag in table.ours:
        problems = check_arguments(name, table.newest, {flag: "x"})
        assert len(problems) == 1, flag
        assert problems[0].is_certain, flag


@pytest.mark.parametrize(
    ("version", "by"),
    [
        ("1.0.69", "variable"),
        ("v1.0.71", "variable"),
        ("b5375f8", "flag"),
        ("b5375f8cee4368d09e1ce96a56b9f81fb0bc81aa", "flag"),
        ("1.0.72", "flag"),
        ("", "unknown"),
        ("0.3.70", "unknown"),
        ("main", "unknown"),
    ],
)
def test_exo_is_kept_apart_in_the_way_of_its_version_or_refused(
    version: str, by: str, fleet: FleetSpec, node: NodeSpec
) -> None:
    engine = ENGINES[EngineName("exo")]
    setting = setting_for(engine, fleet, node, 0)
    setting = replace(setting, software=replace(setting.software, version=version))
    refusal = engine.refusal(setting)
    if by == "unknown":
        assert refusal is not None
        assert "engines.exo.version" in refusal.next_step
        return
    assert refusal is None
    launch = engine.launch(setting)
    # Where the flag is known, exo ends at once when it finds the variable.
    assert ("EXO_LIBP2P_NAMESPACE" in launch.environment) == (by == "variable")
    assert (launch.argv[1:] == ("--namespace", "provisioner-ml")) == (by == "flag")
