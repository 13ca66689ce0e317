"""Text Generation Inference: one model from Hugging Face, run from its container image.

In maintenance since December 2025; building it outside its image is not
practical. Its router listens only once all shards are loaded and warm, so an
answer of ``/health`` is the model's.
"""

from __future__ import annotations

from provisioner.domain.activity import EngineActivity
from provisioner.domain.mode import ArgumentValue, EngineSpec, EngineTraits, ModeSpec, Software
from provisioner.domain.names import EngineName
from provisioner.domain.refusal import Refusal
from provisioner.engines import metrics_text
from provisioner.engines.arguments import command_line, flags_of, variables_of
from provisioner.engines.base import DATA, AnswerUnreadable, Installation, Launch, Setting
from provisioner.engines.huggingface import marks, model_repository
from provisioner.engines.limits import cpu_quota_percent, memory_max_bytes
from provisioner.engines.one_model import OneModelEngine
from provisioner.engines.parallelism import BETWEEN_GPUS
from provisioner.engines.secrets import secrets_of

_LOG_LEVEL = "LOG_LEVEL"
# router/src/server.rs: these routes stand outside of the layer that asks for the key.
_OPEN = frozenset({"/health", "/ping", "/metrics", "/info", "/v1/models", "/docs"})


class Tgi(OneModelEngine):
    """``text-generation-launcher`` in its container, run as a systemd unit."""

    name = EngineName("tgi")
    traits = EngineTraits(
        software=Software.IMAGE,
        serves_files=False,
        serves_many=False,
        knows=frozenset({"context", "parallel", "pull"}),
        port=3000,
        published="digests: docker buildx imagetools inspect ghcr.io/huggingface/text-generation-inference:VERSION",
        takes_key=True,
        needs_cuda=True,
    )
    port = traits.port
    playbook = "deploy-tgi"
    health_path = "/health"
    activity_path = "/metrics"
    key_variable = "API_KEY"

    def installation(self, software: EngineSpec) -> Installation:
        """Return its image."""
        return Installation(image=software.image)

    def refusal(self, setting: Setting) -> Refusal | None:
        """Refuse a node without a GPU, and two names of one limit."""
        flags = flags_of(setting.mode.arguments)
        if not setting.gpus:
            return Refusal(
                "TGI's image is built for GPUs, and the node has none",
                f"write gpus: for {setting.node.name}, or take ollama or llama.cpp, which serve on the CPU too",
            )
        if "max-input-length" in flags and ("max-input-tokens" in flags or setting.mode.context is not None):
            return Refusal(
                "TGI takes max-input-length as another name of max-input-tokens, and refuses both",
                "take max-input-length out of the mode's arguments; context says it all",
            )
        if setting.node.api_key is not None and _LOG_LEVEL in setting.mode.arguments:
            return Refusal(
                "with an API key we set LOG_LEVEL ourselves: TGI's launcher logs its arguments, the key among them",
                "take LOG_LEVEL out of the mode's arguments",
            )
        return None

    def cautions(self, setting: Setting) -> tuple[str, ...]:
        """Say what becomes of the key inside the guest."""
        if setting.node.api_key is not None:
            return ("TGI hands its API key to its router as an argument: who lists processes in the guest reads it",)
        return ()

    def guards(self, path: str) -> bool:
        """Return that everything is but its health, numbers and lists."""
        return path.partition("?")[0] not in _OPEN

    def launch(self, setting: Setting) -> Launch:
        """Return the words after the image's entry point; one shard for each GPU. Its playbook adds the container."""
        mode = setting.mode
        variables = variables_of(mode.arguments)
        own: dict[str, ArgumentValue] = {"model-id": mode.model, "hostname": "0.0.0.0", "port": self.port}  # noqa: S104
        if mode.context is not None:
            # A request and its answer share the context, and the request must leave room for one token at least.
            own |= {"max-input-tokens": mode.context - 1, "max-total-tokens": mode.context}
        if mode.parallel is not None:
            own["max-batch-size"] = mode.parallel
        several = len(setting.gpus) > 1
        if several:
            own |= {"sharded": "true", "num-shard": len(setting.gpus)}
        own["usage-stats"] = "off"
        # At level info its launcher begins its log with all its arguments, the key among them.
        quiet = {_LOG_LEVEL: "info,text_generation_launcher=warn"} if setting.node.api_key else {}
        return Launch(
            argv=command_line(own, mode.arguments),
            environment={
                "HF_HOME": f"{DATA}/huggingface",
                **quiet,
                **(BETWEEN_GPUS if several else {}),
                **variables,
            },
            secrets=secrets_of(setting, self.key_variable),
            needs_gpu=True,
            memory_max_bytes=memory_max_bytes(mode),
            cpu_quota_percent=cpu_quota_percent(mode),
            shared_memory=several,
        )

    def pulls(self, mode: ModeSpec) -> tuple[str, ...]:
        """Return the model's repository."""
        return (model_repository(mode),)

    def fetched(self, setting: Setting) -> tuple[str, ...]:
        """Return the mark that the job leaves which fetches it with what the image brings."""
        return marks(f"{DATA}/tgi/pulled", self.pulls(setting.mode))

    def activity(self, answer: str, now: float) -> EngineActivity:
        """Read ``/metrics``. What nothing has happened to yet is not listed, but the rest of its numbers are."""
        found = metrics_text.sums(
            answer, "tgi_batch_current_size", "tgi_queue_size", "tgi_request_count", "tgi_batch_inference_count"
        )
        if not found and "tgi_" not in answer:
            raise AnswerUnreadable("metrics without any of TGI's own")
        return EngineActivity(
            int(found.get("tgi_batch_current_size", 0)),
            int(found.get("tgi_queue_size", 0)),
            found.get("tgi_request_count", 0.0) + found.get("tgi_batch_inference_count", 0.0),
        )
