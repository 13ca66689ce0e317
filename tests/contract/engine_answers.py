"""What each engine answers, in the shapes of its own sources and documents; one entry per engine.

Ollama: docs/api.md, server/routes.go. vLLM: v1/metrics/loggers.py, entrypoints of the wheel 0.33.0. TGI:
docs/source/reference/metrics.md. llama.cpp: tools/server/README.md. exo: src/exo/shared/types/state.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from provisioner.domain.activity import EngineActivity
from provisioner.domain.names import EngineName

NOW = 1_800_000_000.0
"""When the answers came, in UNIX seconds."""


def _moment(seconds: float) -> str:
    """Write a time as Go does, with nanoseconds."""
    at = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S") + ".123456789Z"


def _loaded(**expiries: float) -> str:
    models = [
        {
            "name": f"{name}:8b",
            "model": f"{name}:8b",
            "size": 6_654_289_920,
            "digest": "365c0bd3c000",
            "details": {"family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_K_M"},
            "expires_at": _moment(seconds),
            "size_vram": 6_654_289_920,
            "context_length": 8192,
        }
        for name, seconds in expiries.items()
    ]
    return json.dumps({"models": models})


def _vllm(running: int, waiting: int, stopped: int) -> str:
    labels = 'engine="0",model_name="Qwen/Qwen2.5-7B-Instruct-AWQ"'
    return (
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
        "# TYPE vllm:num_requests_running gauge\n"
        f"vllm:num_requests_running{{{labels}}} {running}.0\n"
        f"vllm:num_requests_waiting{{{labels}}} {waiting}.0\n"
        f'vllm:request_success_total{{{labels},finished_reason="stop"}} {stopped}.0\n'
        f'vllm:request_success_total{{{labels},finished_reason="length"}} 2.0\n'
        f"vllm:generation_tokens_total{{{labels}}} 1.234e+03\n"
        f"vllm:generation_tokens_created{{{labels}}} 1.8e+09\n"
    )


def _tgi(running: int, waiting: int) -> str:
    return (
        "# TYPE tgi_request_count counter\ntgi_request_count 17\n\n"
        f"# TYPE tgi_batch_current_size gauge\ntgi_batch_current_size {running}\n\n"
        f"# TYPE tgi_queue_size gauge\ntgi_queue_size {waiting}\n\n"
        '# TYPE tgi_batch_inference_count counter\ntgi_batch_inference_count{method="decode"} 40\n'
    )


def _llama(running: int, waiting: int) -> str:
    return (
        "# HELP llamacpp:requests_processing Number of requests processing.\n"
        "# TYPE llamacpp:requests_processing gauge\n"
        f"llamacpp:requests_processing {running}\nllamacpp:requests_deferred {waiting}\n"
        "llamacpp:tokens_predicted_total 41\nllamacpp:n_decode_total 12\n"
    )


def _exo(*statuses: str, runner: str = "RunnerReady") -> str:
    tasks = {f"task-{at}": {"TextGeneration": {"taskStatus": status}} for at, status in enumerate(statuses)}
    assignments = {"modelId": "mlx-community/small", "runnerToShard": {"r1": {"PipelineShardMetadata": {}}}}
    return json.dumps(
        {
            "instances": {"i1": {"MlxRingInstance": {"instanceId": "i1", "shardAssignments": assignments}}},
            "runners": {"r1": {runner: {}}},
            "tasks": tasks,
            "lastEventAppliedIdx": 9,
        }
    )


def _openai_models(name: str) -> str:
    return json.dumps({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "x"}]})


def _tags(*names: str) -> str:
    return json.dumps({"models": [{"name": name, "model": name, "size": 4_920_753_328} for name in names]})


@dataclass(frozen=True)
class Answers:
    """One engine's answers, and what is to be read in them."""

    quiet: str
    quiet_is: EngineActivity
    busy: str
    busy_is: EngineActivity
    models: str
    served: tuple[str, ...]
    unreadable_numbers: tuple[str, ...] = ("", "<html>", "a 1\n")
    unreadable_models: tuple[str, ...] = ("", "null", "[]", "{}", '{"data": 3}', '{"data": [{}]}')
    loaded: str = ""
    loaded_is: tuple[tuple[str, int, int], ...] = ()
    resting: str = ""
    awake: str = ""
    pulls: tuple[str, ...] = field(default=())


ANSWERS = {
    EngineName("ollama"): Answers(
        quiet='{"models":[]}',
        quiet_is=EngineActivity(0, 0, 0.0),
        busy=_loaded(llama=-30),
        busy_is=EngineActivity(1, 0, NOW - 30),
        models=_tags("llama3.1:8b", "mistral:latest"),
        served=("llama3.1:8b", "mistral:latest", "mistral"),
        unreadable_numbers=(
            "",
            "<html>",
            "[]",
            "{}",
            '{"models": 3}',
            '{"models": [3]}',
            '{"models": [{"name": "x"}]}',
        ),
        unreadable_models=("", "null", "[]", "{}", '{"models": 3}', '{"models": [{}]}'),
        loaded=_loaded(llama=60),
        loaded_is=(("llama:8b", 6_654_289_920, 6_654_289_920),),
        resting='{"models":null}',
        awake=_loaded(llama=60),
    ),
    EngineName("vllm"): Answers(
        quiet=_vllm(0, 0, 5),
        quiet_is=EngineActivity(0, 0, 1241.0),
        busy=_vllm(1, 2, 5),
        busy_is=EngineActivity(1, 2, 1241.0),
        models=_openai_models("Qwen/Qwen2.5-7B-Instruct-AWQ"),
        served=("Qwen/Qwen2.5-7B-Instruct-AWQ",),
        unreadable_numbers=("", "<html>", "a 1\n", "vllm:num_requests_running\n"),
        resting='{"is_sleeping": true}',
        awake='{"is_sleeping": false}',
    ),
    EngineName("tgi"): Answers(
        quiet=_tgi(0, 0),
        quiet_is=EngineActivity(0, 0, 57.0),
        busy=_tgi(1, 2),
        busy_is=EngineActivity(1, 2, 57.0),
        models=_openai_models("tiiuae/falcon-7b"),
        served=("tiiuae/falcon-7b",),
    ),
    EngineName("llama.cpp"): Answers(
        quiet=_llama(0, 0),
        quiet_is=EngineActivity(0, 0, 53.0),
        busy=_llama(1, 2),
        busy_is=EngineActivity(1, 2, 53.0),
        models=_openai_models("gemma-2-2b-it.gguf"),
        served=("gemma-2-2b-it.gguf",),
        unreadable_numbers=("", "<html>", "llamacpp:requests_processing\n", "a 1\n"),
        resting='{"is_sleeping": true, "total_slots": 4}',
        awake='{"total_slots": 4}',
    ),
    EngineName("exo"): Answers(
        quiet=_exo("Complete", "Failed"),
        quiet_is=EngineActivity(0, 0, 2.0),
        busy=_exo("Complete", "Running", "Pending", "Pending"),
        busy_is=EngineActivity(1, 2, 4.0),
        models=_openai_models("mlx-community/small"),
        served=("mlx-community/small",),
        unreadable_numbers=("", "<html>", "[]", "{}", '{"tasks": {}}', '{"tasks": 3, "lastEventAppliedIdx": 1}'),
        loaded=_exo(),
        loaded_is=(("mlx-community/small", 0, 0),),
    ),
}
NOT_LOADED = {EngineName("exo"): _exo(runner="RunnerLoading"), EngineName("ollama"): '{"models": []}'}
LISTED_WITH_TIME_LEFT = _loaded(llama=60, mistral=9e9)
