"""A mode's arguments against the tables: what is refused, what is only told, and what to write instead."""

from __future__ import annotations

import pytest

from provisioner.engines.flags import Fault, canonical_arguments, check_arguments

REFUSED = [
    # engine, version, arguments, fault, in what was found, in what to write instead
    ("vllm", "0.33.0", {"swap-space": 4}, Fault.REMOVED, "last seen in 0.17.1, gone by 0.18.1", "nothing replaces it"),
    ("vllm", "0.18.1", {"swap_space": 4}, Fault.REMOVED, "vLLM 0.18.1 has no --swap-space", "nothing replaces it"),
    ("vllm", "0.13.0", {"task": "embed"}, Fault.REMOVED, "gone by 0.13.0", "runner"),
    ("vllm", "0.12.0", {"rope-scaling": {"a": 1}}, Fault.REMOVED, "gone by 0.12.0", "hf-overrides"),
    ("vllm", "0.11.0", {"guided-decoding-backend": "xgrammar"}, Fault.REMOVED, "gone by 0.11.0", "structured-outputs"),
    ("vllm", "0.8.5", {"worker-use-ray": True}, Fault.REMOVED, "gone by 0.8.5", "distributed-executor-backend: ray"),
    ("vllm", "0.20.2", {"disable-log-requests": True}, Fault.REMOVED, "gone by 0.17.1", "not logged unless"),
    ("vllm", "0.10.0", {"kv-cache-memory-bytes": 1}, Fault.NOT_YET, "first seen in 0.10.2", "pin vLLM 0.10.2"),
    ("vllm", "0.33.0", {"max-batch-size": 8}, Fault.FOREIGN, "of TGI", "parallel"),
    ("vllm", "0.33.0", {"num-shard": 2}, Fault.FOREIGN, "of TGI", "tensor-parallel-size"),
    ("vllm", "0.33.0", {"ngl": 99}, Fault.FOREIGN, "of llama.cpp", "cpu-offload-gb"),
    ("vllm", "0.33.0", {"gpu-memory-utilisation": 0.8}, Fault.UNKNOWN, "has no", "--gpu-memory-utilization"),
    ("vllm", "0.33.0", {"max-model": 8}, Fault.UNKNOWN, "has no --max-model", "--max-model-len"),
    ("vllm", "0.33.0", {"frobnicate": 8}, Fault.UNKNOWN, "has no --frobnicate", "take it out"),
    ("vllm", "0.33.0", {"host": "::"}, Fault.OURS, "set by us", "take it out"),
    ("vllm", "0.33.0", {"hf-token": "x"}, Fault.SECRET, "a secret", "huggingface_token"),
    (
        "vllm",
        "0.33.0",
        {"VLLM_API_KEY": "x"},
        Fault.SECRET,
        "stands where all can read it",
        "write api_key for the node",
    ),
    ("vllm", "0.33.0", {"dtype": "fp16"}, Fault.VALUE, "does not take fp16", "half"),
    ("vllm", "0.33.0", {"enforce-eager": "yes"}, Fault.VALUE, "takes no value", "enforce-eager: true"),
    ("vllm", "0.33.0", {"tensor-parallel-size": "two"}, Fault.VALUE, "a whole number", "a whole number"),
    ("vllm", "0.33.0", {"tp": 1.5}, Fault.VALUE, "-tp takes a whole number", "a whole number"),
    ("vllm", "0.33.0", {"seed": True}, Fault.VALUE, "true is none", "a whole number"),
    ("vllm", "0.33.0", {"dtype": ["half", "auto"]}, Fault.VALUE, "takes one value", "one"),
    ("vllm", "0.11.0", {"kv-cache-dtype": "nvfp4"}, Fault.VALUE, "first seen in 0.20.2", "fp8"),
    ("vllm", "0.17.1", {"block-size": 48}, Fault.VALUE, "does not take 48", "16"),
    ("vllm", "0.33.0", {"quantization": "gguf"}, Fault.VALUE, "gone by 0.25.1", "llama.cpp"),
    ("vllm", "0.33.0", {"q": "awk"}, Fault.VALUE, "knows no quantisation awk", "awq"),
    ("llama.cpp", "b11669", {"mlock": True}, Fault.REMOVED, "--mlock", "load-mode: mlock"),
    ("llama.cpp", "b11669", {"no-mmap": True}, Fault.REMOVED, "--no-mmap", "load-mode: none"),
    ("llama.cpp", "0.7.0", {"draft-max": 4}, Fault.REMOVED, "--draft-max", "spec-draft-n-max"),
    ("llama.cpp", "b4747", {"load-mode": "mlock"}, Fault.NOT_YET, "--load-mode", "pin llama.cpp b11668 or later"),
    ("llama.cpp", "b4747", {"flash-attn": "on"}, Fault.VALUE, "takes no value", "flash-attn: true"),
    ("llama.cpp", "b4747", {"ngl": "all"}, Fault.VALUE, "does not take all", "a whole number"),
    ("llama.cpp", "b11669", {"ngl": "most"}, Fault.VALUE, "does not take most", "a whole number or one of: auto, all"),
    ("llama.cpp", "b11669", {"fa": "maybe"}, Fault.VALUE, "does not take maybe", "auto"),
    ("llama.cpp", "b11669", {"ctx-size": "4k"}, Fault.VALUE, "whole number", "whole number"),
    ("llama.cpp", "b11669", {"ctk": "Q8_0"}, Fault.VALUE, "does not take Q8_0", "q8_0"),
    ("llama.cpp", "b11669", {"split-mode": "even"}, Fault.VALUE, "does not take even", "layer"),
    ("llama.cpp", "b11669", {"tensor-parallel-size": 2}, Fault.FOREIGN, "of vLLM", "split-mode"),
    ("llama.cpp", "b11669", {"no-slots": True}, Fault.OURS, "set by us", "take it out"),
    ("llama.cpp", "b11669", {"slots": False}, Fault.OURS, "--no-slots is set by us", "take it out"),
    ("llama.cpp", "b11669", {"api-key": "x"}, Fault.SECRET, "lists processes", "write api_key for the node"),
    ("tgi", "3.3.7", {"tensor-parallel-size": 2}, Fault.FOREIGN, "of vLLM", "num-shard"),
    ("tgi", "3.3.7", {"disable-usage-stats": True}, Fault.REMOVED, "last seen in 2.2.0", "usage-stats: off"),
    ("tgi", "2.3.1", {"kv-cache-dtype": "fp8_e5m2"}, Fault.NOT_YET, "first seen in 2.4.0", "2.4.0"),
    ("tgi", "2.4.0", {"quantize": "compressed-tensors"}, Fault.VALUE, "first seen in 2.4.1", "awq"),
    ("tgi", "3.3.7", {"quantise": "awq"}, Fault.UNKNOWN, "--quantise", "--quantize"),
    ("tgi", "3.3.7", {"quantize": "awq", "dtype": "float16"}, Fault.TOGETHER, "exclude each other", "keep one"),
    ("tgi", "3.3.7", {"max-input-tokens": 8, "max-input-length": 8}, Fault.TOGETHER, "exclude", "keep one"),
    ("ollama", "0.32.15", {"OLLAMA_NEW_ENGINE": 1}, Fault.REMOVED, "gone by 0.30.0", "take it out"),
    ("ollama", "0.12.0", {"OLLAMA_NO_CLOUD": 1}, Fault.NOT_YET, "first seen in 0.16.2", "0.16.2"),
    ("ollama", "0.32.15", {"OLLAMA_FLASH_ATENTION": 1}, Fault.UNKNOWN, "has no", "OLLAMA_FLASH_ATTENTION"),
    ("ollama", "0.32.15", {"flash-attention": True}, Fault.UNKNOWN, "no flags", "OLLAMA_FLASH_ATTENTION"),
    ("ollama", "0.32.15", {"OLLAMA_KV_CACHE_TYPE": "q5_0"}, Fault.VALUE, "does not take q5_0", "q8_0"),
    ("ollama", "0.32.15", {"OLLAMA_HOST": "x"}, Fault.OURS, "set by us", "take it out"),
    ("exo", "1.0.71", {"zenoh-port": 1}, Fault.NOT_YET, "first seen in b5375f8", "pin exo b5375f8"),
    ("exo", "1.0.71", {"namespace": "x"}, Fault.OURS, "set by us", "take it out"),
    ("exo", "b5375f8", {"bootstrap-peers": "x"}, Fault.REMOVED, "last seen in 1.0.71", "ends at once"),
    ("exo", "1.0.71", {"api-port": 1}, Fault.OURS, "set by us", "take it out"),
    ("open-webui", "0.12.4", {"reload": True}, Fault.UNKNOWN, "--reload", "take it out"),
]

TAKEN = [
    ("vllm", "0.33.0", {"enforce-eager": True, "gpu_memory_utilization": 0.9, "tp": 2, "quantization": "awq"}),
    ("vllm", "0.17.1", {"swap-space": 4, "block-size": 32}),
    ("vllm", "0.33.0", {"block-size": 48, "collect-detailed-traces": "model,worker"}),
    ("vllm", "0.6.4.post1", {"swap-space": 4, "enable-prefix-caching": True, "worker-use-ray": True}),
    ("vllm", "v0.33.0", {"no-enable-prefix-caching": True, "disable-prefix-caching": True}),
    ("vllm", "0.33.0", {"disable-log-requests": True}),
    ("vllm", "0.33.0", {"compilation-config.mode": 3, "compilation-config": {"mode": 3}, "O": 2}),
    ("vllm", "0.33.0", {"speculative-config": {"method": "ngram"}, "allowed-origins": '["*"]', "seed": "None"}),
    ("vllm", "0.33.0", {"max-num-batched-tokens": "8k", "max-model-len": "auto"}),
    ("vllm", "0.33.0", {"VLLM_USE_SOMETHING": 1, "NCCL_DEBUG": "INFO"}),
    ("vllm", "0.33.0", {"enforce-eager": False}),
    ("llama.cpp", "b11669", {"fa": True, "flash-attn": "auto", "ngl": 99, "jinja": True, "load-mode": "mmap+mlock"}),
    ("llama.cpp", "b11669", {"n-gpu-layers": "all", "tensor-split": "3,1", "cache-type-k": "q8_0", "c": 4096}),
    ("llama.cpp", "b4747", {"mlock": True, "fa": True, "draft-max": 8}),
    ("tgi", "3.3.7", {"sharded": True, "num-shard": 2, "quantize": "awq", "cuda-memory-fraction": 0.8}),
    ("tgi", "3.1.0", {"payload-limit": 2000000, "usage-stats": False}),
    ("ollama", "0.32.15", {"OLLAMA_FLASH_ATTENTION": True, "CUDA_VISIBLE_DEVICES": 0, "GGML_CUDA_X": 1}),
    ("ollama", "0.24.0", {"OLLAMA_NEW_ENGINE": 1}),
    ("exo", "1.0.71", {"no-worker": True, "no-fast-synch": True}),
    ("an engine without a table", "1", {"anything": 1}),
]

ONLY_TOLD = [
    ("vllm", "0.18.0", {"swap-space": 4}, "last seen in 0.17.1, gone by 0.18.1"),
    ("vllm", "0.28.0", {"calculate-kv-scales": True}, "last seen in 0.27.1, gone by 0.29.0"),
    ("vllm", "0.28.0", {"quantization": "bitsandbytes"}, "last seen in 0.27.1, gone by 0.29.0"),
    ("vllm", "0.40.0", {"brand-new": 1}, "no version up to 0.33.0 had it"),
    ("vllm", "0.5.0", {"kv-offloading-size": 1}, "first seen in 0.12.0"),
    ("vllm", "0.33.0", {"mamba-cache-mode": "align"}, "announced for removal"),
    ("vllm", "0.33.0", {"quantization": "fp_quant"}, "deprecated"),
    ("llama.cpp", "b10500", {"mlock": True}, "last seen in af6528e6d (a build from b9409 to b9637)"),
    ("llama.cpp", "b10500", {"load-mode": "mlock"}, "first seen in 0c1e57098"),
]


@pytest.mark.parametrize(("engine", "version", "arguments", "fault", "found", "instead"), REFUSED)
def test_an_argument_that_the_version_does_not_take_is_refused_with_what_to_write(
    engine: str, version: str, arguments: dict[str, object], fault: Fault, found: str, instead: str
) -> None:
    problems = check_arguments(engine, version, arguments)

    assert [(each.fault, each.is_certain) for each in problems] == [(fault, True)]
    assert found in problems[0].found
    assert instead in problems[0].instead
    assert problems[0].flag in arguments


@pytest.mark.parametrize(("engine", "version", "arguments"), TAKEN)
def test_an_argument_that_the_version_takes_is_let_through(
    engine: str, version: str, arguments: dict[str, object]
) -> None:
    assert check_arguments(engine, version, arguments) == ()


@pytest.mark.parametrize(("engine", "version", "arguments", "found"), ONLY_TOLD)
def test_what_nobody_looked_into_is_told_and_not_refused(
    engine: str, version: str, arguments: dict[str, object], found: str
) -> None:
    problems = check_arguments(engine, version, arguments)

    assert [each.is_certain for each in problems] == [False]
    assert found in problems[0].found


def test_a_flag_that_was_removed_stays_removed_in_versions_newer_than_the_table() -> None:
    (problem,) = check_arguments("vllm", "0.99.0", {"swap-space": 4})

    assert problem.fault is Fault.REMOVED
    assert problem.is_certain


def test_a_version_that_is_not_known_refuses_only_what_no_version_has() -> None:
    problems = check_arguments("llama.cpp", "", {"mlock": True, "load-mode": "dio", "frobnicate": 1})

    assert [each.flag for each in problems] == ["frobnicate"]


@pytest.mark.parametrize(
    ("engine", "version", "arguments", "key"),
    [
        ("vllm", "0.33.0", {"max-model-len": 8192}, "context"),
        ("vllm", "0.33.0", {"max_num_seqs": 8}, "parallel"),
        ("llama.cpp", "b11669", {"c": 8192}, "context"),
        ("llama.cpp", "b11669", {"ngl": 20}, "gpu_layers"),
        ("tgi", "3.3.7", {"max-total-tokens": 8192}, "context"),
        ("ollama", "0.32.15", {"OLLAMA_NUM_PARALLEL": 4}, "parallel"),
    ],
)
def test_what_a_key_of_the_mode_says_is_not_said_again(
    engine: str, version: str, arguments: dict[str, object], key: str
) -> None:
    assert check_arguments(engine, version, arguments) == ()

    (problem,) = check_arguments(engine, version, arguments, keys={key})

    assert problem.fault is Fault.TWICE
    assert key in problem.found


@pytest.mark.parametrize(
    ("engine", "version", "given", "said"),
    [
        ("vllm", "0.33.0", {"tp": 2, "enforce_eager": True}, {"tensor-parallel-size": 2, "enforce-eager": True}),
        ("vllm", "0.33.0", {"enable-prefix-caching": False}, {"no-enable-prefix-caching": True}),
        ("vllm", "0.6.4.post1", {"enable-prefix-caching": False}, {"enable-prefix-caching": False}),
        ("vllm", "0.33.0", {"O": 3}, {"optimization-level": 3}),
        ("vllm", "0.10.2", {"O": 3}, {"O": 3}),
        ("vllm", "0.33.0", {"compilation_config.mode": 3}, {"compilation-config.mode": 3}),
        ("vllm", "0.33.0", {"VLLM_X": 1, "frobnicate": 2}, {"VLLM_X": 1, "frobnicate": 2}),
        ("llama.cpp", "b11669", {"fa": True, "ngl": 9, "c": 5}, {"flash-attn": "on", "gpu-layers": 9, "ctx-size": 5}),
        ("llama.cpp", "b4747", {"fa": True}, {"flash-attn": True}),
        ("llama.cpp", "b11669", {"jinja": False, "no-webui": True}, {"no-jinja": True, "no-webui": True}),
        ("tgi", "3.3.7", {"sharded": True, "usage-stats": False}, {"sharded": "true", "usage-stats": "off"}),
        ("none", "1", {"a": False}, {"a": False}),
    ],
)
def test_arguments_are_said_as_the_version_understands_them(
    engine: str, version: str, given: dict[str, object], said: dict[str, object]
) -> None:
    assert canonical_arguments(engine, version, given) == said
    assert check_arguments(engine, version, said) == check_arguments(engine, version, given)


def test_no_value_of_a_secret_is_repeated() -> None:
    problems = check_arguments("vllm", "0.33.0", {"hf-token": "hf_very_secret", "api-key": ["very_secret"]})

    assert len(problems) == 2
    assert "very_secret" not in repr(problems)
