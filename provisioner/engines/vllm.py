"""vLLM: one model from Hugging Face, on all of the node's GPUs, or on several nodes' at once.

Its port is bound but refuses until the model is loaded, and ``/health`` stays
200 while the engine sleeps, so a model is ready when ``/v1/models`` lists it
too. Versions, what each holds code for and what each is told: the released
wheels themselves, 0.6.4 to 0.33.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod

from provisioner.domain.activity import EngineActivity
from provisioner.domain.mode import ArgumentValue, EngineSpec, EngineTraits, ModeSpec, Software
from provisioner.domain.names import EngineName
from provisioner.domain.refusal import Refusal
from provisioner.engines import metrics_text
from provisioner.engines.arguments import command_line, flags_of, variables_of
from provisioner.engines.base import (
    DATA,
    FOLDER,
    AnswerUnreadable,
    Installation,
    JsonRequest,
    Launch,
    Setting,
    Span,
)
from provisioner.engines.huggingface import marks, model_repository, tokenizer_repository
from provisioner.engines.limits import cpu_quota_percent, memory_max_bytes
from provisioner.engines.one_model import OneModelEngine
from provisioner.engines.parallelism import BETWEEN_GPUS, shape_of
from provisioner.engines.secrets import secrets_of
from provisioner.engines.versions import numbers

# Below it `auto` takes float16 too, but only after a checkpoint in bfloat16 was refused.
_BFLOAT16_FLOOR = (8, 0)
_NATIVE_NODES = (0, 12)
# METADATA of the wheels: 0.17.1 is the last one that asks for Ray.
_WITHOUT_RAY = (0, 18)
_PLACES = {
    "HF_HOME": f"{DATA}/huggingface",
    "VLLM_CACHE_ROOT": f"{DATA}/vllm/cache",
    # Finds the compiler that Triton calls, and the environment's own tools.
    "PATH": f"{FOLDER}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
_SLEEP = "enable-sleep-mode"
_TENSOR, _PIPELINE, _DATA = "tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"
# entrypoints/serve/middleware/authenticate.py of the wheel 0.33.0; earlier ones know /v1 alone.
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")


class Vllm(OneModelEngine):
    """``vllm serve``, run as a systemd unit from a virtual environment of its own."""

    name = EngineName("vllm")
    traits = EngineTraits(
        software=Software.VERSION,
        serves_files=False,
        serves_many=False,
        knows=frozenset({"context", "parallel", "tokenizer", "pull", "ray"}),
        port=8000,
        published="releases: https://github.com/vllm-project/vllm/releases",
        takes_key=True,
        spans_nodes=True,
        needs_equal_gpus=True,
        needs_cuda=True,
    )
    port = traits.port
    playbook = "deploy-vllm"
    health_path = "/health"
    activity_path = "/metrics"
    resting_path = "/is_sleeping"
    key_variable = "VLLM_API_KEY"

    def installation(self, software: EngineSpec) -> Installation:
        """Return the package, and Ray where it is wanted; a file with hashes pins all that they depend on."""
        return Installation(
            # The extra is what vLLM itself asked for while it brought Ray.
            packages=(f"vllm=={software.version}", *([f"ray[cgraph]=={software.ray}"] if software.ray else [])),
            requirements=str(software.requirements) if software.requirements else "",
        )

    def refusal(self, setting: Setting) -> Refusal | None:
        """Refuse a node without a GPU, sleep where nobody would reach the engine, and silence about its use."""
        if not setting.gpus:
            return Refusal(
                "vLLM's packages are built for GPUs, and the node has none",
                f"write gpus: for {setting.node.name}, or take ollama or llama.cpp, which serve on the CPU too",
            )
        if _is_given(setting, _SLEEP) and not setting.node.reach.address.startswith("127."):
            return Refusal(
                "with enable-sleep-mode vLLM opens calls that let whoever reaches it run code, so it listens on the "
                f"guest's loopback alone, and nobody reaches it at {setting.node.reach.address}",
                "take enable-sleep-mode out of the mode's arguments, or reach the node through a tunnel "
                "(connect: {address: 127.0.0.1})",
            )
        if _is_given(setting, "disable-log-stats"):
            return Refusal(
                "with disable-log-stats vLLM tells no numbers, and a node whose use nobody sees never sleeps",
                "take disable-log-stats out of the mode's arguments",
            )
        return refusal_of_span(setting.software, with_ray=setting.span.with_ray) if setting.span.is_shared else None

    def cautions(self, setting: Setting) -> tuple[str, ...]:
        """Say what the name of a model hints at on an old GPU, and what a key leaves open."""
        told = []
        if setting.compute is not None and setting.compute < (7, 5) and "awq" in setting.mode.model.lower():
            told.append("AWQ needs compute capability 7.5; on this GPU only GPTQ checkpoints are quantised ones")
        if setting.node.api_key is not None:
            told.append("vLLM asks for the API key under /v1 only: /invocations and /metrics answer without it")
        if setting.span.is_shared:
            told.append(
                "what its nodes say to each other is not encrypted and can carry code: keep it to a network of yours"
            )
        return tuple(told)

    def guards(self, path: str) -> bool:
        """Return whether a path is of one of the APIs; health, numbers and ``/invocations`` are open to all."""
        return path.startswith(_GUARDED)

    def launch(self, setting: Setting) -> Launch:
        """Return the command line; tensor and pipeline parallel follow the number of GPUs."""
        mode, span = setting.mode, setting.span
        if span.is_shared and span.with_ray and span.rank > 0:
            return self._ray_worker(setting)
        sleeps = _is_given(setting, _SLEEP)
        own: dict[str, ArgumentValue] = {
            "host": "127.0.0.1" if sleeps else "0.0.0.0",  # noqa: S104 - clients are on other machines
            "port": self.port,
            "served-model-name": mode.model,
        }
        if mode.tokenizer is not None:
            own["tokenizer"] = mode.tokenizer
        if mode.context is not None:
            own["max-model-len"] = mode.context
        if mode.parallel is not None:
            own["max-num-seqs"] = mode.parallel
        if setting.compute is not None and setting.compute < _BFLOAT16_FLOOR:
            own["dtype"] = "half"
        own |= self._parallel(setting)
        several = len(setting.gpus) > 1 or span.is_shared
        return Launch(
            argv=(f"{FOLDER}/bin/vllm", "serve", mode.model, *command_line(own, mode.arguments)),
            environment={
                **_PLACES,
                **({"VLLM_SERVER_DEV_MODE": "1"} if sleeps else {}),
                **({"RAY_ADDRESS": _meeting_place(span)} if span.is_shared and span.with_ray else {}),
                **(_between_gpus(setting) if several else {}),
                **variables_of(mode.arguments),
            },
            secrets=secrets_of(setting, self.key_variable),
            needs_gpu=True,
            memory_max_bytes=memory_max_bytes(mode),
            cpu_quota_percent=cpu_quota_percent(mode),
            shared_memory=several,
            beside=(self._ray_head(setting),) if span.is_shared and span.with_ray else (),
            # One that lost the others ends, well or not, and they come back.
            always=span.is_shared,
        )

    def pulls(self, mode: ModeSpec) -> tuple[str, ...]:
        """Return the model's repository, and that of its tokenizer where it is another."""
        return tuple(filter(None, (model_repository(mode), tokenizer_repository(mode))))

    def fetched(self, setting: Setting) -> tuple[str, ...]:
        """Return the marks that the jobs leave which fetch them from Hugging Face."""
        return marks(f"{DATA}/huggingface/pulled", self.pulls(setting.mode))

    def _parallel(self, setting: Setting) -> Mapping[str, ArgumentValue]:
        span, nodes = setting.span, max(1, len(setting.span.addresses))
        own: dict[str, ArgumentValue] = {name: size for name, size in _division(setting, nodes).items() if size > 1}
        if span.is_shared and span.with_ray:
            own["distributed-executor-backend"] = "ray"
        elif span.is_shared:
            own |= {
                "nnodes": nodes,
                "node-rank": span.rank,
                "master-addr": span.addresses[0],
                "master-port": span.port,
                "headless": span.rank > 0,
            }
        return own

    def _ray_head(self, setting: Setting) -> Launch:
        span = setting.span
        words = ("--head", "--block", f"--node-ip-address={span.addresses[0]}", f"--port={span.port}")
        return self._ray(setting, words, role="ray")

    def _ray_worker(self, setting: Setting) -> Launch:
        span = setting.span
        words = ("--block", f"--node-ip-address={span.addresses[span.rank]}", f"--address={_meeting_place(span)}")
        return self._ray(setting, words)

    def _ray(self, setting: Setting, words: tuple[str, ...], *, role: str = "") -> Launch:
        """Return how Ray is started; what it starts on this node for vLLM has its environment, and answers nobody."""
        return Launch(
            argv=(f"{FOLDER}/bin/ray", "start", *words),
            environment={**_PLACES, **_between_gpus(setting)},
            secrets=secrets_of(setting, ""),
            needs_gpu=True,
            shared_memory=True,
            role=role,
            always=True,
        )

    def sleep(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return the call that moves the weights to main memory once what runs has ended; aborting is its default."""
        return (JsonRequest("/sleep?level=1&mode=wait"),)

    def wake(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return the call that brings the weights back."""
        return (JsonRequest("/wake_up"),)

    def is_resting(self, answer: str) -> bool:
        """Read ``/is_sleeping``."""
        try:
            return bool(json.loads(answer)["is_sleeping"])
        except (ValueError, KeyError, TypeError) as error:
            raise AnswerUnreadable(f"no word on sleep in: {answer[:200]}") from error

    def activity(self, answer: str, now: float) -> EngineActivity:
        """Read ``/metrics``; the names have been the same in all versions."""
        running, waiting, ended, written = metrics_text.values(
            answer,
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:request_success_total",
            "vllm:generation_tokens_total",
        )
        return EngineActivity(int(running), int(waiting), ended + written)


def _division(setting: Setting, nodes: int) -> dict[str, int]:
    """Return how many GPUs share each layer, and how many groups of them the layers, as far as the mode does not say.

    The engine multiplies its words with ours, and wants as many GPUs: so we deal out those that its words leave.
    """
    given = [_given(setting, name) for name in (_TENSOR, _PIPELINE, _DATA)]
    if given == [None, None, None]:
        shape = shape_of(len(setting.gpus))
        return {_TENSOR: shape.tensor, _PIPELINE: shape.pipeline * nodes}
    tensor, pipeline, _ = given
    cards, said = len(setting.gpus) * nodes, prod(int(str(size)) for size in given if str(size).isdigit())
    left = cards // said if said and cards % said == 0 else 1
    if tensor is None and pipeline is None:
        shape = shape_of(left)
        return {_TENSOR: shape.tensor, _PIPELINE: shape.pipeline}
    return {name: left for name, size in ((_TENSOR, tensor), (_PIPELINE, pipeline)) if size is None}


def refusal_of_span(software: EngineSpec, *, with_ray: bool) -> Refusal | None:
    """Return why a version cannot serve one model from several nodes, or None."""
    version, at = software.version, numbers(software.version)[:2]
    if with_ray and at >= _WITHOUT_RAY and not software.ray and software.requirements is None:
        return Refusal(
            f"vLLM {version} does not bring Ray",
            "take ray: true out of the mode, since 0.12 vLLM needs no Ray for several nodes; or write the version of "
            "Ray under engines.vllm.ray",
        )
    if with_ray or at >= _NATIVE_NODES:
        return None
    return Refusal(
        f"vLLM {version} serves from several nodes through Ray only; by itself it does since 0.12",
        "write ray: true in the mode, or pin engines.vllm.version to 0.12.0 or later",
    )


def _meeting_place(span: Span) -> str:
    return f"{span.addresses[0]}:{span.port}"


def _between_gpus(setting: Setting) -> dict[str, str]:
    """Return what processes are told that share a model; those on several nodes also by which address they are met."""
    own = {"VLLM_HOST_IP": setting.span.addresses[setting.span.rank]} if setting.span.is_shared else {}
    return {**BETWEEN_GPUS, **own}


def _given(setting: Setting, flag: str) -> ArgumentValue | None:
    return flags_of(setting.mode.arguments).get(flag)


def _is_given(setting: Setting, flag: str) -> bool:
    return _given(setting, flag) not in (None, False)
