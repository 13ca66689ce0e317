"""The tables themselves: whole, in order, and in agreement with what is known from elsewhere."""

from __future__ import annotations

import itertools

import pytest

from provisioner.engines.flags.table import FILES, FlagTable, State, table_of
from provisioner.engines.flags.versions import version_of

ENGINES = sorted(FILES)

# Last release with a flag and first without, found by reading the same wheels in another way.
GONE = """
--worker-use-ray 0.6.4.post1 0.8.5
--quantization-param-path 0.6.4.post1 0.8.5
--speculative-model 0.6.4.post1 0.8.5
--num-speculative-tokens 0.6.4.post1 0.8.5
--chat-template-text-format 0.6.4.post1 0.8.5
--device 0.9.2 0.10.0
--enable-reasoning 0.9.2 0.10.0
--use-v2-block-manager 0.9.2 0.10.0
--prompt-adapters 0.9.2 0.10.0
--long-lora-scaling-factors 0.9.2 0.10.0
--qlora-adapter-name-or-path 0.9.2 0.10.0
--num-scheduler-steps 0.10.0 0.10.2
--multi-step-stream-outputs 0.10.0 0.10.2
--enable-prompt-adapter 0.10.0 0.10.2
--guided-decoding-backend 0.10.2 0.11.0
--preemption-mode 0.10.2 0.11.0
--scheduler-delay-factor 0.10.2 0.11.0
--disable-async-output-proc 0.10.2 0.11.0
--max-seq-len-to-capture 0.10.2 0.11.0
--rope-scaling 0.11.0 0.12.0
--rope-theta 0.11.0 0.12.0
--override-pooler-config 0.11.0 0.12.0
--num-lookahead-slots 0.11.0 0.12.0
--lora-extra-vocab-size 0.11.0 0.12.0
--num-redundant-experts 0.11.0 0.12.0
--task 0.12.0 0.13.0
--cuda-graph-sizes 0.12.0 0.13.0
--disable-mm-preprocessor-cache 0.12.0 0.13.0
--disable-log-requests 0.16.0 0.17.1
--logits-processor-pattern 0.16.0 0.17.1
--swap-space 0.17.1 0.18.1
--disable-frontend-multiprocessing 0.18.1 0.19.1
--max-long-partial-prefills 0.25.1 0.27.1
--max-num-partial-prefills 0.25.1 0.27.1
--calculate-kv-scales 0.27.1 0.29.0
--override-attention-dtype 0.27.1 0.29.0
"""

ALWAYS = [
    "--host",
    "--port",
    "--model",
    "--served-model-name",
    "--tokenizer",
    "--tokenizer-mode",
    "--revision",
    "--trust-remote-code",
    "--download-dir",
    "--load-format",
    "--dtype",
    "--quantization",
    "-q",
    "--kv-cache-dtype",
    "--max-model-len",
    "--gpu-memory-utilization",
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--tensor-parallel-size",
    "-tp",
    "--pipeline-parallel-size",
    "-pp",
    "--distributed-executor-backend",
    "--enforce-eager",
    "--enable-prefix-caching",
    "--enable-chunked-prefill",
    "--enable-lora",
    "--block-size",
    "--cpu-offload-gb",
    "--seed",
    "--api-key",
    "--chat-template",
    "--enable-auto-tool-choice",
    "--tool-call-parser",
    "--root-path",
    "--uvicorn-log-level",
]

SINCE = {
    "--data-parallel-size": "0.8.5",
    "--reasoning-parser": "0.8.5",
    "--hf-token": "0.8.5",
    "--enable-sleep-mode": "0.8.5",
    "--kv-cache-memory-bytes": "0.10.2",
    "--async-scheduling": "0.10.0",
    "--nnodes": "0.12.0",
    "--headless": "0.9.1",
    "--attention-backend": "0.13.0",
    "--allow-deprecated-quantization": "0.14.1",
    "--disable-access-log-for-endpoints": "0.16.0",
    "--shutdown-timeout": "0.18.1",
}


def _table(engine: str) -> FlagTable:
    table = table_of(engine)
    assert table is not None
    return table


@pytest.mark.parametrize("engine", ENGINES)
def test_opened_versions_stand_in_order(engine: str) -> None:
    opened = _table(engine).opened

    assert all(each.low <= each.high for each in opened)
    assert all(one.high < other.low for one, other in itertools.pairwise(opened))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_flag_is_named_as_it_is_written_and_its_main_name_is_there(engine: str) -> None:
    flags = _table(engine).flags

    assert flags
    for name, flag in flags.items():
        assert flag.name == name
        assert flag.main in flags, name
        assert name.startswith("-") or name.isupper() or name.replace("_", "").isupper(), name


@pytest.mark.parametrize("engine", ENGINES)
def test_every_text_is_about_a_flag_that_some_version_has_or_that_is_anothers(engine: str) -> None:
    table = _table(engine)
    known_elsewhere = {name for each in ENGINES if each != engine for name in _table(each).flags}
    secrets = {name for name, text in table.ours.items() if text.startswith("secret: ")}

    for name in (*table.replaced, *table.keys, *table.fading):
        assert name in table.flags or name in table.extra.get("quantization", {}), name
    assert set(table.ours) - set(table.flags) <= {name for name in secrets if name.isupper()}
    for name in table.foreign:
        assert name not in table.flags, name
        assert name in known_elsewhere or name == "--trust-remote", name
    for one, other, _why in table.together:
        assert one in table.flags
        assert other in table.flags


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_engine_says_of_anothers_flags_names_its_own(engine: str) -> None:
    table = _table(engine)
    newest = table.version(table.newest) or table.opened[-1].high
    here = {name.lstrip("-") for name in table.names_in(newest)}

    for text in (*table.foreign.values(), *table.replaced.values()):
        first = text.removeprefix("write ").split(" ")[0].rstrip(",:;")
        if text.startswith("write ") and "-" in first:
            assert first in here, text


@pytest.mark.parametrize("row", GONE.split("\n")[1:-1])
def test_a_flag_of_vllm_went_when_the_releases_say(row: str) -> None:
    name, last, gone = row.split()
    table = _table("vllm")
    seen = table.flags[name].seen

    there, absent = (table.sighting(seen, version) for version in (table.version(last), table.version(gone)) if version)

    assert there.state is State.HERE
    assert absent.state is State.GONE
    assert (absent.last, absent.gone_by) == (last, gone)


@pytest.mark.parametrize("name", ALWAYS)
def test_the_core_flags_of_vllm_are_in_every_release(name: str) -> None:
    table = _table("vllm")

    assert table.flags[name].seen == ((0, len(table.opened) - 1),)


@pytest.mark.parametrize(("name", "since"), SINCE.items())
def test_a_flag_of_vllm_came_when_the_releases_say(name: str, since: str) -> None:
    table = _table("vllm")

    assert table.opened[table.flags[name].seen[0][0]].label == since


def test_a_flag_that_came_back_as_anothers_opposite_is_known_in_both_times() -> None:
    table = _table("vllm")
    seen = table.flags["--disable-log-requests"].seen

    states = [
        table.sighting(seen, version).state
        for text in ("0.16.0", "0.20.2", "0.33.0")
        if (version := table.version(text))
    ]

    assert states == [State.HERE, State.GONE, State.HERE]


@pytest.mark.parametrize(
    ("smaller", "greater"),
    [
        ("0.6.4", "0.6.4.post1"),
        ("0.33.0-rc2", "0.33.0"),
        ("0.33.0rc1", "0.33.0rc2"),
        ("0.9.2", "0.10.0"),
        ("b4747", "b10884"),
        ("v0.32.15", "0.33"),
        ("1.0.60-alpha.1", "1.0.60"),
    ],
)
def test_versions_are_put_in_order(smaller: str, greater: str) -> None:
    one, other = version_of(smaller), version_of(greater)

    assert one is not None
    assert other is not None
    assert one < other


@pytest.mark.parametrize(("one", "other"), [("0.20.0", "v0.20"), ("0.20.0+cu129", "0.20.0"), ("b10", "10")])
def test_versions_that_are_written_differently_are_equal(one: str, other: str) -> None:
    assert version_of(one) == version_of(other)


@pytest.mark.parametrize("text", ["", "latest", "main", "x0.1", "1..2"])
def test_what_is_no_version_is_none(text: str) -> None:
    assert version_of(text) is None
