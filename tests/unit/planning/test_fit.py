"""The judgement: verdicts, ways out, how models are laid over cards; and laws that hold for every request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.models.cards import CARDS, find_card
from provisioner.domain.models.catalogue import MODELS, find_model, near_names
from provisioner.domain.models.shape import implausible, parameters
from provisioner.domain.quantities import GIB
from provisioner.planning.fit.cache import CacheRequest, Cells, cache_bytes
from provisioner.planning.fit.engines import ENGINES, default_context, memory_use
from provisioner.planning.fit.judge import LEAST_CONTEXT, FitReport, Verdict, judge, largest_context
from provisioner.planning.fit.request import FitRequest, Gpu
from provisioner.planning.fit.split import lay
from provisioner.planning.fit.subjects import default_quantization, from_catalogue
from provisioner.planning.fit.words import arithmetic, reason


def request(
    name: str,
    *,
    gib: int = 24,
    gpus: int = 1,
    engine: str = "ollama",
    context: int = 8192,
    parallel: int = 1,
    kind: str = "",
    ram_gib: int | None = None,
) -> FitRequest:
    use, named = ENGINES[engine], find_model(name)
    assert named is not None
    card = Gpu(f"{gib} GiB", gib * GIB, gib * GIB)
    return FitRequest(
        subject=from_catalogue(named.model, name, kind or default_quantization(named.model, use), use),
        engine=use,
        context=context,
        parallel=parallel,
        cache_type=use.cache_types[0],
        gpus=(card,) * gpus,
        share=use.share,
        ram_bytes=None if ram_gib is None else ram_gib * GIB,
    )


def judged(name: str, **how: object) -> FitReport:
    return judge(request(name, **how))  # type: ignore[arg-type]


class TestVerdicts:
    def test_a_small_model_fits(self) -> None:
        report = judged("llama3.1:8b")
        assert (report.verdict, report.fits, report.gpus_needed, report.changes) == (Verdict.FITS, True, 1, ())

    def test_a_long_context_is_shortened_to_one_that_fits(self) -> None:
        report = judged("llama3.1:8b", gib=12, context=131072)
        assert report.verdict is Verdict.LESS_CONTEXT
        assert LEAST_CONTEXT <= report.largest_context < 131072
        assert f"up to {report.largest_context} tokens fit" in reason(report)
        shorter = replace(report.request, context=report.largest_context)
        assert judge(shorter).fits
        assert not judge(replace(shorter, context=report.largest_context + 256)).fits

    def test_a_big_model_needs_more_of_the_cards(self) -> None:
        report = judged("llama3.1:70b")
        assert (report.verdict, report.gpus_needed) == (Verdict.MORE_GPUS, 2)
        assert judge(replace(report.request, gpus=report.request.gpus * 2)).fits

    def test_what_no_sixteen_cards_hold_goes_to_the_cpu(self) -> None:
        report = judged("llama3.1:405b", gib=8)
        assert (report.verdict, report.gpus_needed) == (Verdict.CPU_ONLY, None)
        assert report.ram_needed_bytes is not None
        assert judge(replace(report.request, gpus=(), ram_bytes=report.ram_needed_bytes)).fits

    def test_nothing_holds_it_where_the_vm_has_too_little_memory_too(self) -> None:
        assert judged("llama3.1:405b", gib=8, ram_gib=64).verdict is Verdict.NOT_AT_ALL

    def test_vllm_has_no_way_to_the_cpu(self) -> None:
        report = judged("llama3.1:405b", gib=8, engine="vllm")
        assert (report.verdict, report.ram_needed_bytes) == (Verdict.NOT_AT_ALL, None)

    def test_vllm_without_a_gpu_is_refused_however_much_memory_there_is(self) -> None:
        report = judged("llama3.2:1b", gpus=0, engine="vllm", ram_gib=512)
        assert report.fits is False
        assert reason(report) == "vllm serves on GPUs only"

    def test_a_node_without_gpu_is_judged_by_its_memory(self) -> None:
        assert judged("llama3.1:8b", gpus=0, ram_gib=16).fits
        short = judged("llama3.1:8b", gpus=0, ram_gib=5)
        assert not short.fits
        assert any(change.option.startswith("--ram") for change in short.changes)

    def test_without_a_place_there_is_a_need_and_no_verdict(self) -> None:
        report = judged("llama3.1:8b", gpus=0)
        assert (report.fits, report.gpus_needed) == (None, None)
        assert report.laid.total_bytes > 5 * GIB


class TestWaysOut:
    def test_the_least_change_comes_first(self) -> None:
        report = judged("llama3.1:8b", gib=12, context=32768, parallel=3)
        assert [change.option.split()[0] for change in report.changes][:1] == ["--parallel"]

    @pytest.mark.parametrize("name", ["llama3.1:70b", "qwen2.5:32b", "mixtral:8x7b", "gemma2:27b", "phi3"])
    @pytest.mark.parametrize("engine", ["ollama", "vllm"])
    def test_every_way_out_leads_out(self, name: str, engine: str) -> None:
        report = judged(name, gib=16, engine=engine, context=4096)
        for change in report.changes:
            option, value = change.option.split()
            assert tried(report.request, option, value).fits, change

    def test_a_quantisation_is_only_named_where_it_can_be_had(self) -> None:
        report = judged("deepseek-r1:14b", engine="vllm", gib=16, context=4096)
        names = [change.text for change in report.changes if change.option.startswith("--quantization")]
        assert names == ["weights in awq (casperhansen/deepseek-r1-distill-qwen-14b-awq)"]


def tried(asked: FitRequest, option: str, value: str) -> FitReport:
    """The request with one way out taken."""
    if option == "--quantization":
        entry = asked.subject.entry
        assert entry is not None
        return judge(replace(asked, subject=from_catalogue(entry, entry.name, value, asked.engine)))
    if option == "--gpu":
        return judge(replace(asked, gpus=asked.gpus[:1] * int(value.split("x")[0])))
    if option == "--ram":
        return judge(replace(asked, gpus=(), ram_bytes=int(value.removesuffix("GiB")) * GIB))
    field = {"--context": "context", "--parallel": "parallel", "--kv-dtype": "cache_type"}[option]
    return judge(replace(asked, **{field: value if field == "cache_type" else int(value)}))  # type: ignore[arg-type]


class TestSplitting:
    def test_tensor_parallel_halves_weights_and_cache(self) -> None:
        one = lay(request("llama3.1:8b", engine="vllm"), request("llama3.1:8b", engine="vllm").gpus)
        two_cards = request("llama3.1:8b", engine="vllm", gpus=2)
        two = lay(two_cards, two_cards.gpus)
        assert (two.tensor, two.weights_bytes, two.cache_bytes) == (2, one.weights_bytes, one.cache_bytes)
        assert two.fullest_bytes < one.fullest_bytes

    def test_heads_that_are_fewer_than_cards_are_kept_twice(self) -> None:
        asked = request("qwen2.5:3b", engine="vllm", gpus=4)
        single = request("qwen2.5:3b", engine="vllm")
        # It has two key-value heads.
        assert lay(asked, asked.gpus).cache_bytes == 2 * lay(single, single.gpus).cache_bytes

    def test_heads_that_cannot_be_dealt_out_are_a_reason(self) -> None:
        report = judged("qwen2.5:7b", engine="tgi", gpus=3)
        assert reason(report).startswith("its 28 attention heads cannot be dealt out to 3 GPUs")

    def test_vllm_deals_layers_to_three_cards(self) -> None:
        assert judged("qwen2.5:14b", engine="vllm", gpus=3, context=4096).fits

    def test_latent_attention_is_kept_whole_on_every_card(self) -> None:
        asked = request("deepseek-v3", engine="vllm", gpus=8, gib=192)
        single = request("deepseek-v3", engine="vllm")
        assert lay(asked, asked.gpus).cache_bytes == 8 * lay(single, single.gpus).cache_bytes

    def test_llama_cpp_fills_cards_of_different_sizes(self) -> None:
        asked = request("llama3.1:70b", context=4096)
        big, small = Gpu("48", 48 * GIB, 48 * GIB), Gpu("8", 8 * GIB, 8 * GIB)
        assert lay(replace(asked, gpus=(small, big)), (small, big)).fits
        assert not lay(replace(asked, gpus=(small, small)), (small, small)).fits


class TestCaches:
    def test_a_window_stops_growing(self) -> None:
        shape = MODELS[[model.name for model in MODELS].index("gemma3:27b")].shape
        short, long = (
            cache_bytes(shape, CacheRequest(tokens, 1, "f16", Cells.UNIFORM, 512)) for tokens in (32768, 65536)
        )
        # Ten of its 62 layers look at everything.
        assert long - short == 32768 * 10 * 2 * 16 * 128 * 2

    def test_eight_bits_take_half_of_sixteen(self) -> None:
        shape = MODELS[0].shape
        wide, narrow = (cache_bytes(shape, CacheRequest(8192, 2, kind, Cells.PAGED, 512)) for kind in ("f16", "fp8"))
        assert wide == 2 * narrow


class TestEngines:
    def test_vllm_takes_more_of_a_card_from_0_20_on(self) -> None:
        shares = [use.share for use in (memory_use("vllm", version) for version in ("0.19.1", "0.20.2", "")) if use]
        assert shares == [0.9, 0.92, 0.92]

    def test_ollamas_own_context_follows_the_gpu_memory(self) -> None:
        shape = MODELS[0].shape
        assert [default_context("ollama", shape, gib * GIB) for gib in (16, 24, 48)] == [4096, 32768, 131072]

    def test_an_engine_nobody_described_is_unknown(self) -> None:
        assert memory_use("exo") is None


class TestCatalogue:
    def test_it_has_every_model_of_the_usual_lists(self) -> None:
        assert len(MODELS) >= 20
        for name in (
            "Qwen/Qwen2.5-7B-Instruct-AWQ",
            "casperhansen/deepseek-r1-distill-qwen-7b-awq",
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
            "llama3.1:8b",
            "mistral:7b",
            "gemma-2-2b-it.gguf",
        ):
            assert find_model(name) is not None, name

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
    def test_every_entry_has_sources_and_as_many_weights_as_its_publisher_says(self, model: object) -> None:
        entry = next(each for each in MODELS if each is model)
        assert entry.sources
        assert not implausible(entry.shape)
        assert parameters(entry.shape) == pytest.approx(entry.parameters, rel=0.015)

    def test_names_are_distinct(self) -> None:
        names = [name.lower() for model in MODELS for name in (model.name, model.repository, *model.also)]
        assert len(names) == len(set(names))

    @pytest.mark.parametrize(
        ("name", "means", "kind"),
        [
            ("llama3.1:8b-instruct-q8_0", "llama3.1:8b", "q8_0"),
            ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "llama3.1:8b", "q4_k_m"),
            ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "llama3.1:8b", "awq"),
            ("Qwen/Qwen2.5-32B-Instruct-GPTQ-Int8", "qwen2.5:32b", "gptq-int8"),
            ("bartowski/gemma-2-9b-it-GGUF", "gemma2:9b", ""),
        ],
    )
    def test_a_name_says_model_and_quantisation(self, name: str, means: str, kind: str) -> None:
        found = find_model(name)
        assert found is not None
        assert (found.model.name, found.quantization) == (means, kind)

    @pytest.mark.parametrize("name", ["llama3:8b", "gpt2", "llama", "qwen2.5:8b", "mistral-7b-of-my-own-x"])
    def test_another_model_is_not_taken_for_one_of_ours(self, name: str) -> None:
        assert find_model(name) is None

    def test_a_mistyped_name_finds_its_neighbours(self) -> None:
        assert near_names("lama3.1:8b")[0] == "llama3.1:8b"


class TestCards:
    def test_a_card_is_found_however_it_is_spelt(self) -> None:
        for name in ("rtx3090", "3090", "RTX 3090", "NVIDIA GeForce RTX 3090"):
            found = find_card(name)
            assert found is not None
            assert found.name == "RTX 3090"

    def test_no_card_has_more_than_is_written_on_it_says(self) -> None:
        for card in CARDS:
            assert 0.9 * card.nominal_gib * GIB < card.usable_bytes < 1.02 * card.nominal_gib * GIB, card.name


requests = st.builds(
    request,
    st.sampled_from([model.name for model in MODELS]),
    gib=st.sampled_from([6, 8, 12, 24, 48, 80]),
    gpus=st.integers(1, 4),
    engine=st.sampled_from(sorted(ENGINES)),
    context=st.integers(1, 200_000),
    parallel=st.integers(1, 8),
)


class TestLaws:
    @given(asked=requests)
    def test_the_sum_is_the_sum(self, asked: FitRequest) -> None:
        report = judge(asked)
        parts = report.laid.weights_bytes + report.laid.cache_bytes + report.laid.overhead_bytes
        assert report.laid.total_bytes == parts
        assert {name for name, _, _ in arithmetic(report)} >= {"weights", "KV cache", "overhead", "total"}
        assert reason(report)

    @given(asked=requests, more=st.integers(1, 100_000))
    def test_more_context_never_needs_less(self, asked: FitRequest, more: int) -> None:
        longer = replace(asked, context=asked.context + more)
        assert lay(longer, longer.gpus).total_bytes >= lay(asked, asked.gpus).total_bytes
        assert lay(asked, asked.gpus).fits or not lay(longer, longer.gpus).fits

    @given(asked=requests)
    def test_more_requests_never_need_less(self, asked: FitRequest) -> None:
        more = replace(asked, parallel=asked.parallel + 1)
        assert lay(more, more.gpus).total_bytes > lay(asked, asked.gpus).total_bytes

    @given(asked=requests)
    def test_a_bigger_card_never_holds_less(self, asked: FitRequest) -> None:
        bigger = tuple(replace(gpu, usable_bytes=2 * gpu.usable_bytes) for gpu in asked.gpus)
        assert lay(replace(asked, gpus=bigger), bigger).fits or not lay(asked, asked.gpus).fits

    @given(asked=requests.filter(lambda each: each.engine.splits_layers))
    def test_another_card_never_takes_layers_away(self, asked: FitRequest) -> None:
        more = (*asked.gpus, asked.gpus[0])
        assert lay(replace(asked, gpus=more), more).fits or not lay(asked, asked.gpus).fits

    @given(asked=requests)
    def test_the_longest_context_fits_and_a_longer_one_does_not(self, asked: FitRequest) -> None:
        longest = largest_context(asked)
        if longest:
            assert lay(replace(asked, context=longest), asked.gpus).fits
        top = max(asked.context, asked.subject.shape.context)
        if longest + 512 < top:
            assert not lay(replace(asked, context=longest + 512), asked.gpus).fits

    @given(asked=requests)
    def test_as_many_cards_as_are_needed_are_enough_and_fewer_are_not(self, asked: FitRequest) -> None:
        needed = judge(asked).gpus_needed
        if needed is not None:
            cards = asked.gpus[:1] * needed
            assert lay(replace(asked, gpus=cards), cards).fits
            assert needed == 1 or not lay(replace(asked, gpus=cards[1:]), cards[1:]).fits
