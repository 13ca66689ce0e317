"""llama.cpp's server: one model from one GGUF file, OpenAI dialect, ready when ``/health`` says ok.

While it loads, every path answers 503. Its metrics need ``--metrics`` and hold
no request counter, so evidence of use is the growth of generated tokens and
decode calls; both reset when the process restarts. ``/slots`` would wake a
server that sleeps, so nobody here asks for it; ``/props`` does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from provisioner.domain.activity import EngineActivity
from provisioner.domain.mode import ArgumentValue, EngineSpec, EngineTraits, Software
from provisioner.domain.names import EngineName
from provisioner.domain.refusal import Refusal
from provisioner.engines import metrics_text
from provisioner.engines.arguments import command_line, variables_of
from provisioner.engines.base import FOLDER, MODELS, AnswerUnreadable, Installation, Launch, Setting
from provisioner.engines.limits import cpu_quota_percent, memory_max_bytes
from provisioner.engines.one_model import OneModelEngine
from provisioner.engines.secrets import secrets_of

_DEFAULT_CONTEXT = 4096


class LlamaCpp(OneModelEngine):
    """llama-server, run as a systemd unit from its release archive."""

    name = EngineName("llama.cpp")
    traits = EngineTraits(
        software=Software.ARCHIVES,
        serves_files=True,
        serves_many=False,
        knows=frozenset({"context", "parallel", "threads", "gpu_layers", "pull"}),
        port=8080,
        published="releases: https://github.com/ggml-org/llama.cpp/releases; of a file: sha256sum FILE",
        takes_key=True,
    )
    port = traits.port
    playbook = "deploy-llama-cpp"
    health_path = "/health"
    activity_path = "/metrics"
    resting_path = "/props"
    key_variable = "LLAMA_API_KEY"

    def installation(self, software: EngineSpec) -> Installation:
        """Return its archives: the release, and with CUDA the libraries beside it."""
        return Installation(archives=software.archives)

    def refusal(self, setting: Setting) -> Refusal | None:
        """Refuse nothing: it serves on whatever there is."""
        return None

    def cautions(self, setting: Setting) -> tuple[str, ...]:
        """Say what is lost without a build for the card."""
        if setting.gpus and not any(re.search(r"cuda|vulkan|rocm", each.source) for each in setting.software.archives):
            return ("the archive's name does not say that it is built for a GPU",)
        return ()

    def guards(self, path: str) -> bool:
        """Return that everything is but its health, its own numbers too."""
        return path.partition("?")[0] not in ("/health", "/v1/health")

    def launch(self, setting: Setting) -> Launch:
        """Return the command line; several GPUs share the layers, as they do by default."""
        mode, node = setting.mode, setting.node
        parallel = mode.parallel or 1
        file = setting.files[mode.model]
        own: dict[str, ArgumentValue] = {
            "model": f"{MODELS}/{file.stored_name}",
            "alias": mode.model,
            "host": "0.0.0.0",  # noqa: S104 - clients are on other machines
            "port": self.port,
            # Every request gets the context the mode promises, however many are served at once.
            "ctx-size": (mode.context or _DEFAULT_CONTEXT) * parallel,
            "parallel": parallel,
            "threads": mode.threads or node.cores,
            "gpu-layers": _gpu_layers(setting),
        }
        if len(setting.gpus) > 1:
            own["split-mode"] = "layer"
            own |= _shares(setting)
        own |= {"metrics": True, "slots": True}
        return Launch(
            argv=(f"{FOLDER}/llama-server", *command_line(own, mode.arguments)),
            environment=variables_of(mode.arguments),
            secrets=secrets_of(setting, self.key_variable, fetches=False),
            needs_gpu=bool(setting.gpus),
            memory_max_bytes=memory_max_bytes(mode),
            cpu_quota_percent=cpu_quota_percent(mode),
        )

    def fetched(self, setting: Setting) -> tuple[str, ...]:
        """Return its file."""
        return tuple(f"{MODELS}/{file.stored_name}" for file in setting.files.values())

    def is_resting(self, answer: str) -> bool:
        """Read ``/props``: with ``sleep-idle-seconds`` it sleeps by itself, and the next request wakes it."""
        try:
            document = json.loads(answer)
            return bool(document.get("is_sleeping", False))
        except (ValueError, AttributeError) as error:
            raise AnswerUnreadable(f"no properties in: {answer[:200]}") from error

    def activity(self, answer: str, now: float) -> EngineActivity:
        """Read ``/metrics``."""
        running, waiting, tokens, decodes = metrics_text.values(
            answer,
            "llamacpp:requests_processing",
            "llamacpp:requests_deferred",
            "llamacpp:tokens_predicted_total",
            "llamacpp:n_decode_total",
        )
        return EngineActivity(int(running), int(waiting), tokens + decodes)


def _gpu_layers(setting: Setting) -> ArgumentValue:
    # Without a GPU all layers stay on the CPU; with one, all of them must fit on it unless the mode says how many.
    if not setting.gpus:
        return "0"
    return "all" if setting.mode.gpu_layers is None else str(setting.mode.gpu_layers)


def _shares(setting: Setting) -> Mapping[str, ArgumentValue]:
    """Return how unlike cards share the model: by their memory, where all of it is known."""
    sizes = [gpu.vram_bytes for gpu in setting.gpus]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or len(set(known)) == 1:
        return {}
    return {"tensor-split": ",".join(str(round(size / 2**30)) for size in known)}
