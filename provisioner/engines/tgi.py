"""Text Generation Inference: one model from Hugging Face, run from its container image.

In maintenance since December 2025; building it outside its image is not
practical. Its router listens only once all shards are loaded and warm, so an
answer of ``/health`` is the model's.
"""

from __future__ import annotations

from provisioner.domain.activity import EngineActivity
from provisioner.domain.mode import ArgumentValue, EngineSpec, EngineTraits, Software
from provisioner.domain.names import EngineName
from provisioner.domain.refusal import Refusal
from provisioner.engines import metrics_text
from provisioner.engines.arguments import command_line, flags_of, variables_of
from provisioner.engines.base import DATA, AnswerUnreadable, Installation, Launch, Setting
from provisioner.engines.limits import cpu_quota_percent, memory_max_bytes
from provisioner.engines.one_model import OneModelEngine


class Tgi(OneModelEngine):
    """``text-generation-launcher`` in its container, run as a systemd unit."""

    name = EngineName("tgi")
    traits = EngineTraits(
        software=Software.IMAGE,
        serves_files=False,
        serves_many=False,
        knows=frozenset({"context", "parallel"}),
        port=3000,
        published="digests: docker buildx imagetools inspect ghcr.io/huggingface/text-generation-inference:VERSION",
    )
    port = traits.port
    playbook = "deploy-tgi"
    health_path = "/health"
    activity_path = "/metrics"

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
        return None

    def cautions(self, setting: Setting) -> tuple[str, ...]:
        """Say nothing beside what its version says."""
        return ()

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
        if len(setting.gpus) > 1:
            own |= {"sharded": "true", "num-shard": len(setting.gpus)}
        own["usage-stats"] = "off"
        token = {"HF_TOKEN": setting.huggingface_token} if setting.huggingface_token else {}
        return Launch(
            argv=command_line(own, mode.arguments),
            environment={"HF_HOME": f"{DATA}/huggingface", **variables},
            secrets=token,
            needs_gpu=True,
            memory_max_bytes=memory_max_bytes(mode),
            cpu_quota_percent=cpu_quota_percent(mode),
            shared_memory=len(setting.gpus) > 1,
        )

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
