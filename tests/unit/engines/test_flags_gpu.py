"""What a version asks of GPU and driver: floors by release, formats, drivers."""

from __future__ import annotations

import pytest

from provisioner.engines.flags import check_gpu, engine_requirements, quantization_floor, quantization_names

REFUSED = [
    # engine, version, capability, driver, more, in what was found
    ("vllm", "0.20.0", (7, 0), "", {}, "starts at 7.5"),
    ("vllm", "0.33.0", (6, 1), "", {}, "starts at 7.5"),
    ("vllm", "0.10.2", (6, 1), "", {}, "starts at 7.0"),
    ("vllm", "0.33.0", (8, 9), "570.195.03", {}, "needs NVIDIA driver 580"),
    ("vllm", "0.19.1", (8, 9), "470.256", {}, "needs NVIDIA driver 525"),
    ("vllm", "0.10.2", (7, 0), "", {"dtype": "bfloat16"}, "no bfloat16"),
    ("vllm", "0.33.0", (7, 5), "580.95.05", {"dtype": "bfloat16"}, "no bfloat16"),
    ("vllm", "0.10.2", (7, 0), "", {"quantization": "awq"}, "needs compute capability 7.5"),
    ("vllm", "0.11.0", (7, 5), "", {"quantization": "awq_marlin"}, "needs compute capability 8.0"),
    ("vllm", "0.11.0", (7, 5), "", {"quantization": "fp8"}, "needs compute capability 8.0"),
    ("vllm", "0.33.0", (9, 0), "", {"quantization": "fp_quant"}, "needs compute capability 10.0"),
    ("ollama", "0.32.15", (3, 7), "", {}, "starts at 5.0"),
    ("ollama", "0.32.15", (7, 0), "535.1", {}, "needs NVIDIA driver 550"),
    ("ollama", "0.32.15", (6, 1), "550.9", {}, "needs NVIDIA driver 570"),
    ("ollama", "0.24.0", (6, 1), "525.9", {}, "needs NVIDIA driver 531"),
    ("llama.cpp", "b11669", (7, 0), "580.1", {"build": 13}, "for CUDA 13 holds no code"),
    ("llama.cpp", "b11669", (8, 0), "570.1", {"build": 13}, "needs NVIDIA driver 580"),
    ("tgi", "3.3.7", (7, 0), "", {}, "starts at 7.5"),
]

TAKEN = [
    ("vllm", "0.33.0", (7, 5), "580", {}),
    ("vllm", "0.10.2", (7, 0), "535.288.01", {"dtype": "half", "quantization": "gptq"}),
    ("vllm", "0.33.0+cu129", (8, 0), "570.195.03", {}),
    ("vllm", "0.19.1", (7, 5), "", {"quantization": "awq_marlin"}),
    ("vllm", "0.33.0", None, "580.1", {"dtype": "bfloat16"}),
    ("vllm", "no version", (7, 0), "300", {}),
    ("ollama", "0.24.0", (6, 1), "550.9", {}),
    ("ollama", "0.32.15", (7, 0), "550.9", {}),
    ("llama.cpp", "b11669", (7, 0), "535.1", {"build": 12}),
    ("llama.cpp", "b11669", (5, 0), "", {}),
    ("exo", "1.0.71", (3, 0), "1", {}),
    ("another", "1", (1, 0), "1", {}),
]


@pytest.mark.parametrize(("engine", "version", "capability", "driver", "more", "found"), REFUSED)
def test_a_gpu_or_driver_that_does_not_do_is_refused(
    engine: str, version: str, capability: tuple[int, int], driver: str, more: dict[str, object], found: str
) -> None:
    problems = check_gpu(engine, version, capability, driver, **more)

    assert [each.is_certain for each in problems] == [True]
    assert found in problems[0].found
    assert problems[0].instead


@pytest.mark.parametrize(("engine", "version", "capability", "driver", "more"), TAKEN)
def test_a_gpu_and_driver_that_do_are_let_through(
    engine: str, version: str, capability: tuple[int, int] | None, driver: str, more: dict[str, object]
) -> None:
    assert check_gpu(engine, version, capability, driver, **more) == ()


@pytest.mark.parametrize(
    ("engine", "version", "capability"),
    [("vllm", "0.11.0", (7, 0)), ("vllm", "0.19.1", (7, 0)), ("tgi", "3.3.7", (7, 5))],
)
def test_a_gpu_that_is_reported_not_to_work_is_told_and_not_refused(
    engine: str, version: str, capability: tuple[int, int]
) -> None:
    (problem,) = check_gpu(engine, version, capability)

    assert not problem.is_certain
    assert "reported" in problem.found


@pytest.mark.parametrize(
    ("version", "first", "beyond"),
    [("0.8.5", "3.9", "3.13"), ("0.11.0", "3.9", "3.14"), ("0.19.1", "3.10", "3.14"), ("0.33.0", "3.11", "3.15")],
)
def test_vllm_asks_for_the_pythons_of_its_metadata(version: str, first: str, beyond: str) -> None:
    assert engine_requirements("vllm", version).python == (first, beyond)


@pytest.mark.parametrize(("version", "cuda", "driver"), [("0.19.1", 12, 525), ("0.20.0", 13, 580), ("0.33.0", 13, 580)])
def test_vllm_asks_for_the_driver_of_its_cuda(version: str, cuda: int, driver: int) -> None:
    needs = engine_requirements("vllm", version)

    assert (needs.cuda, needs.driver) == (cuda, driver)
    assert needs.source


@pytest.mark.parametrize(
    ("version", "name", "floor"),
    [
        ("0.8.5", "awq", (7, 5)),
        ("0.8.5", "gptq", (6, 0)),
        ("0.10.0", "bitsandbytes", (7, 0)),
        ("0.11.0", "gptq_marlin", (8, 0)),
        ("0.19.1", "gptq_marlin", (7, 5)),
        ("0.19.1", "fp8", (7, 5)),
        ("0.33.0", "no such", None),
        ("no version", "awq", None),
    ],
)
def test_quantisations_have_the_floor_of_their_release(version: str, name: str, floor: tuple[int, int] | None) -> None:
    assert quantization_floor("vllm", version, name) == floor


def test_quantisations_come_and_go() -> None:
    old, new = quantization_names("vllm", "0.6.4.post1"), quantization_names("vllm", "0.33.0")

    assert {"gguf", "bitsandbytes", "aqlm", "marlin"} <= set(old)
    assert {"gguf", "bitsandbytes", "aqlm", "marlin"}.isdisjoint(new)
    assert {"awq", "gptq", "fp8", "mxfp8", "nvfp4_per_token"} <= set(new)
    assert len(new) == 30
    assert quantization_names("tgi", "3.3.7") == ()
