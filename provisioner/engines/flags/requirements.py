"""What an engine's version asks of the GPU, the driver and Python. Sources stand in the tables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provisioner.engines.flags.quantization import BFLOAT16_FLOOR, Capability, quantization_floor
from provisioner.engines.flags.table import table_of
from provisioner.engines.flags.versions import version_of

_DRIVER_OF_CUDA = {12: 525, 13: 580}
"""The least driver branch for any version of a CUDA, by NVIDIA's page on minor version compatibility."""

_BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class EngineRequirements:
    """What one version asks for. What is not known or not asked is None or empty.

    `doubtful_below` is a capability below which the version holds code for the
    GPU and is reported not to work. `old_gpu` are a capability, and the driver
    branch that GPUs below it need. `python` are the first version that fits and
    the first that does not.
    """

    capability: Capability | None = None
    doubtful_below: Capability | None = None
    driver: int | None = None
    old_gpu: tuple[Capability, int] | None = None
    cuda: int | None = None
    python: tuple[str, str] | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class GpuProblem:
    """Why a GPU or its driver does not do for an engine's version; told and not refused where it is not certain."""

    found: str
    instead: str
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{self.found}; {self.instead}"


def engine_requirements(engine: str, version: str, *, build: int | None = None) -> EngineRequirements:
    """Return what a version asks for; where the version is not known, what all known ones ask for is left out.

    Args:
        engine: as the fleet file calls it.
        version: as the fleet file pins it.
        build: the CUDA version an archive is built for, where an engine has
            several builds of one version.
    """
    table = table_of(engine)
    at = table.version(version) if table is not None else None
    if table is None:
        return EngineRequirements()
    told: dict[str, object] = {}
    for each in table.extra.get("requires", []):
        if "build" in each and each["build"] != build:
            continue
        since, before = version_of(each.get("since", "0")), version_of(each.get("before", "0"))
        bounded = "since" in each or "before" in each
        if bounded and (at is None or (since is not None and at < since)):
            continue
        if "before" in each and (at is None or before is None or at >= before):
            continue
        told |= {key: value for key, value in each.items() if key not in ("since", "before", "build")}
    variant = re.search(r"\+cu(\d\d)\d$", version)
    if variant is not None:
        # A wheel for another CUDA than the release's own says so in its version.
        told |= {"cuda": int(variant[1]), "driver": _DRIVER_OF_CUDA.get(int(variant[1]))}
    old = told.get("old_gpu")
    python = told.get("python")
    return EngineRequirements(
        capability=_capability(told.get("capability")),
        doubtful_below=_capability(told.get("doubtful_below")),
        driver=_whole(told.get("driver")),
        old_gpu=(_needed(old[0]), int(old[1])) if isinstance(old, list) else None,
        cuda=_whole(told.get("cuda")),
        python=(str(python[0]), str(python[1])) if isinstance(python, list) else None,
        source=str(told.get("source", "")),
    )


def check_gpu(
    engine: str,
    version: str,
    capability: Capability | None,
    driver: str = "",
    *,
    build: int | None = None,
    quantization: str = "",
    dtype: str = "",
) -> tuple[GpuProblem, ...]:
    """Return why an engine's version will not run on a GPU with a driver; what is not given is not judged.

    Args:
        engine: as the fleet file calls it.
        version: as the fleet file pins it.
        capability: the GPU's compute capability, ``(7, 0)``.
        driver: the driver's version, ``580.95.05``, or its branch.
        build: the CUDA version an archive is built for.
        quantization: the name given to the engine.
        dtype: the number format given to the engine.
    """
    needs = engine_requirements(engine, version, build=build)
    table = table_of(engine)
    which = f"{table.title} {version}".strip() if table is not None else engine
    if build is not None:
        which += f" for CUDA {build}"
    found: list[GpuProblem] = []
    if capability is not None:
        found += _capability_problems(which, needs, capability)
        found += _format_problems(engine, version, which, capability, quantization, dtype)
    branch = re.match(r"\d+", driver)
    if branch is None:
        return tuple(found)
    least = needs.driver
    if needs.old_gpu is not None and capability is not None and capability < needs.old_gpu[0]:
        least = max(least or 0, needs.old_gpu[1])
    if least is not None and int(branch[0]) < least:
        found.append(
            GpuProblem(
                f"{which} needs NVIDIA driver {least} or later; this is {driver}",
                f"write driver: auto, or branch {least} or later, for the GPU, or pin a version that was built for an "
                "older CUDA",
            )
        )
    return tuple(found)


def _capability_problems(which: str, needs: EngineRequirements, has: Capability) -> list[GpuProblem]:
    if needs.capability is not None and has < needs.capability:
        return [
            GpuProblem(
                f"{which} holds no code for compute capability {_text(has)}; it starts at {_text(needs.capability)}",
                "take an older version that does, or ollama or llama.cpp built for CUDA 12",
            )
        ]
    if needs.doubtful_below is not None and has < needs.doubtful_below:
        return [
            GpuProblem(
                f"{which} is reported not to work on compute capability {_text(has)}, though it holds code for it",
                "take a version that is reported to, or ollama or llama.cpp",
                is_certain=False,
            )
        ]
    return []


def _format_problems(
    engine: str, version: str, which: str, has: Capability, quantization: str, dtype: str
) -> list[GpuProblem]:
    found = []
    floor = quantization_floor(engine, version, quantization) if quantization else None
    if floor is not None and has < floor:
        found.append(
            GpuProblem(
                f"quantisation {quantization} of {which} needs compute capability {_text(floor)}; this GPU has "
                f"{_text(has)}",
                "take a checkpoint in another format: GPTQ asks least, and GGUF with ollama or llama.cpp asks nothing",
            )
        )
    if dtype == _BFLOAT16 and has < BFLOAT16_FLOOR:
        found.append(
            GpuProblem(
                f"compute capability {_text(has)} has no bfloat16; it came with {_text(BFLOAT16_FLOOR)}",
                "write dtype: half (TGI: float16), or leave it out",
            )
        )
    return found


def _capability(told: object) -> Capability | None:
    return None if told is None else _needed(told)


def _needed(told: object) -> Capability:
    major, _dot, minor = str(told).partition(".")
    return int(major), int(minor or 0)


def _whole(told: object) -> int | None:
    return told if isinstance(told, int) else None


def _text(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"
