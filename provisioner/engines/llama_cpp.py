"""llama.cpp's server: one model from one GGUF file, OpenAI dialect, ready when ``/health`` says ok.

While it loads, every path answers 503. Its metrics need ``--metrics`` and hold
no request counter, so evidence of use is the growth of generated tokens and
decode calls; both reset when the process restarts.
"""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.activity import EngineActivity
from provisioner.domain.names import EngineName
from provisioner.engines import metrics_text, openai_dialect
from provisioner.engines.base import Deployment, JsonRequest

_DEFAULT_CONTEXT = 4096


class LlamaCpp:
    """llama-server, run as a systemd unit from its release archive."""

    name = EngineName("llama.cpp")
    port = 8080
    playbook = "deploy-llama-cpp"
    unit = "llama-server.service"
    health_path = "/health"
    models_path = "/v1/models"
    activity_path = "/metrics"
    api = "openai"
    api_path = "/v1"

    def variables(self, deployment: Deployment) -> Mapping[str, object]:
        """Return what ``playbooks/deploy-llama-cpp.yml`` lists in its header."""
        mode, archive, model = deployment.mode, deployment.archive, deployment.model
        parallel = mode.parallel or 1
        return {
            "llama_cpp_archive": archive.source,
            "llama_cpp_archive_sha256": archive.sha256,
            "llama_cpp_model": model.source,
            "llama_cpp_model_sha256": model.sha256,
            "llama_cpp_alias": mode.model,
            "llama_cpp_port": self.port,
            # Every request gets the context the mode promises, however many are served at once.
            "llama_cpp_context": (mode.context or _DEFAULT_CONTEXT) * parallel,
            "llama_cpp_parallel": parallel,
            "llama_cpp_threads": mode.threads or deployment.node.cores,
            # Without a GPU all layers stay on the CPU; with one, all of them must fit on it.
            "llama_cpp_gpu_layers": "all" if deployment.node.gpus else "0",
        }

    def served_models(self, answer: str) -> tuple[str, ...]:
        """Read ``/v1/models``."""
        return openai_dialect.served_models(answer)

    def chat(self, model: str, prompt: str, *, max_tokens: int) -> JsonRequest:
        """Return a chat request."""
        return openai_dialect.chat(model, prompt, max_tokens)

    def chat_reply(self, answer: str) -> str:
        """Read a chat reply."""
        return openai_dialect.chat_reply(answer)

    def activity(self, answer: str) -> EngineActivity:
        """Read ``/metrics``."""
        running, waiting, tokens, decodes = metrics_text.values(
            answer,
            "llamacpp:requests_processing",
            "llamacpp:requests_deferred",
            "llamacpp:tokens_predicted_total",
            "llamacpp:n_decode_total",
        )
        return EngineActivity(int(running), int(waiting), tokens + decodes)
