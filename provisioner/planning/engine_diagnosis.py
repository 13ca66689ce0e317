"""Why does an engine not answer? What its own journal says, as a named cause with a next step. Pure.

The words to look for are the engines', their libraries' and systemd's own, as they stand in public reports; each cause
is tried in an order in which the root comes before what follows from it: a card that fell off the bus also looks like a
CUDA error, and a machine without network like a model that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from provisioner.engines.flags import replacement

# systemd's own words at the start of each attempt. The last one may have only just begun, so two are looked at.
_ATTEMPT = re.compile(r"^(?:\S.*?: )?(?:Starting|Started) \S+\.service\b.*$", re.MULTILINE)
_ATTEMPTS = 2
_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_EVIDENCE_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Silence:
    """Which engine does not answer, in the words that a next step needs."""

    node: str
    engine: str
    unit: str
    model: str
    port: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A named cause, the line of the journal that shows it, and what to do about it."""

    cause: str
    sentence: str
    evidence: str
    next_step: str

    def as_dict(self) -> dict[str, str]:
        """Return plain values for ``--json``."""
        return {
            "cause": self.cause,
            "sentence": self.sentence,
            "evidence": self.evidence,
            "next_step": self.next_step,
        }


@dataclass(frozen=True, slots=True)
class _Rule:
    """A cause and the words that show it. Groups that the pattern names may be used in `sentence`."""

    cause: str
    pattern: re.Pattern[str]
    sentence: str
    next_step: str


def diagnose(journal: str, silence: Silence) -> Diagnosis | None:
    """Return the cause that the journal shows, or None where it shows none.

    Args:
        journal: the unit's journal, systemd's own lines included, oldest first.
        silence: whose.
    """
    recent = _last_attempts(journal)
    for rule in _RULES:
        matches = list(rule.pattern.finditer(recent))
        if matches:
            return _diagnosis(rule, matches[-1], recent, silence)
    return None


def _last_attempts(journal: str) -> str:
    """Return the journal from the last but one start on: what an earlier deployment died of is history."""
    starts = [match.start() for match in _ATTEMPT.finditer(journal)]
    return journal[starts[-_ATTEMPTS] :] if len(starts) > _ATTEMPTS else journal


def _diagnosis(rule: _Rule, match: re.Match[str], text: str, silence: Silence) -> Diagnosis:
    begin = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.start())
    line = text[begin : end if end >= 0 else len(text)].strip()
    found = {name: (value or "").strip() for name, value in match.groupdict().items()}
    values = {
        "node": silence.node,
        "engine": silence.engine,
        "unit": silence.unit,
        "model": silence.model,
        "port": silence.port,
        **found,
    }
    next_step = _replacements(rule, match[0], silence.engine) + rule.next_step.format(**values)
    # What a pattern did not find leaves no dangling sign behind.
    sentence = rule.sentence.format(**values).replace(" ()", "").rstrip(" :")
    return Diagnosis(rule.cause, sentence, line[:_EVIDENCE_LENGTH], next_step)


def _replacements(rule: _Rule, words: str, engine: str) -> str:
    """Return what took the place of flags that an engine no longer knows, before the step that follows from it."""
    if rule.cause != "argument_unknown":
        return ""
    known = ((flag, replacement(engine, flag)) for flag in dict.fromkeys(_FLAG.findall(words)))
    return "".join(f"instead of {flag}, {instead}; " for flag, instead in known if instead)


def causes() -> Iterator[str]:
    """Yield the name of every cause that can be told."""
    yield from dict.fromkeys(rule.cause for rule in _RULES)


def _rule(cause: str, pattern: str, sentence: str, next_step: str) -> _Rule:
    return _Rule(cause, re.compile(pattern, re.IGNORECASE | re.MULTILINE), sentence, next_step)


_TEST = "provisioner test {node} looks at card and driver"

_RULES = (
    _rule(
        "gpu_fell_off_the_bus",
        r"fallen off the bus|GPU is lost|CUDA_ERROR_DEVICE_UNAVAILABLE|Xid \(PCI:[^)]*\): 79\b",
        "the card has fallen off the bus",
        "a reboot of the guest rarely brings it back: provisioner sleep {node} --force, then provisioner wake {node}; "
        "if it stays away, restart the server; " + _TEST,
    ),
    _rule(
        "driver_mismatch",
        r"driver/library version mismatch|API mismatch: the client has the version|"
        r"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|unsupported display driver / cuda driver combination",
        "the NVIDIA library and the loaded kernel module are of different versions",
        "an update replaced one under the other: provisioner up {node}, which restarts what must be restarted",
    ),
    _rule(
        "driver_too_old",
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient for CUDA runtime version|"
        r"unsatisfied condition: cuda\s*>=|forward compatibility was attempted on non supported HW",
        "the NVIDIA driver is older than this {engine} needs",
        "CUDA 13 builds need driver 580 or newer: in the fleet file set `driver: auto` for this GPU, or pin a version "
        "of {engine} that was built for CUDA 12; then provisioner up {node}",
    ),
    _rule(
        "gpu_too_old",
        r"no kernel image is available for execution|"
        r"only supported on GPUs with compute capability (?:of )?at least [\d.]+\.(?P<card> Your .*?\d\.\d)?|"
        r"is not compatible with the current PyTorch installation|"
        r"minimum capability: \d+\. Current capability: \d+",
        "the card is too old, or too new, for this version of {engine} or for the number format it was told to use",
        "give modes on this card `dtype: half` among their `arguments`, or pin a version of {engine} that has code "
        "for it (for a V100: vLLM 0.10.x, or Ollama or llama.cpp built for CUDA 12); then provisioner up {node}",
    ),
    _rule(
        "driver_too_new",
        r"supported through the NVIDIA (?P<what>\d+)\.xx Legacy drivers",
        "the NVIDIA driver is too new for the card, which needs branch {what}",
        "set `driver: {what}-server` (or auto) for this GPU in the fleet file; then provisioner up {node}",
    ),
    _rule(
        "no_gpu_visible",
        r"No CUDA GPUs are available|no CUDA-capable device is detected|Failed to infer device type|"
        r"Found no NVIDIA driver on your system|ggml_cuda_init: failed to initialize CUDA|"
        r"No HIP GPUs are available|libcuda\.so\.1: cannot open shared object file",
        "{engine} sees no GPU",
        "provisioner test {node} tells whether card, driver or permission is missing",
    ),
    _rule(
        "context_too_large",
        r"KV cache is needed, which is larger than the available|No available memory for the cache blocks|"
        r"(?:max seq len|model's max_model_len) \(\d+\) is larger than the maximum number of tokens|"
        r"failed to (?:allocate|create) (?:buffer for )?(?:the )?kv[ _]cache|"
        r"Not enough memory to handle \d+ (?:prefill|total) tokens",
        "the model fits on the card, its context does not",
        "ask for less `context` or `parallel` in the mode (provisioner fit {model} does the sum); "
        "then provisioner up {node}",
    ),
    _rule(
        "gpu_out_of_memory",
        r"CUDA out of memory|cudaMalloc failed: out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|"
        r"HIP out of memory|less than desired GPU memory utilization|"
        r"unable to allocate (?:CUDA|ROCm|Vulkan)(?!_Host)\w* buffer|"
        r"model requires more (?:GPU|system) memory",
        "GPU memory ran out while the model was loaded",
        "see what else holds the card (provisioner top {node} --once), or choose a smaller or more quantised model or "
        "more GPUs (provisioner fit {model}); then provisioner up {node}",
    ),
    _rule(
        "out_of_memory",
        r"Failed with result 'oom-kill'|killed by the OOM killer|signaled to shutdown with signal 9|"
        r"(?:failed|unable) to allocate (?:CPU|(?:CUDA|ROCm|Vulkan)_Host)\w* buffer|"
        r"std::bad_alloc|Cannot allocate memory",
        "the guest's memory ran out",
        "give the node more `memory` or the mode a smaller model, or raise `memory_limit`; then provisioner up {node}",
    ),
    _rule(
        "disk_full",
        r"No space left on device|ENOSPC|disk quota exceeded|"
        r"Not enough free disk space to download",
        "a disk of the guest is full",
        "provisioner ssh {node} -- df -h, then remove models nobody needs, or give the node a larger `disk` in the "
        "fleet file; then provisioner up {node}",
    ),
    _rule(
        "no_network",
        r"temporary failure in name resolution|Name or service not known|Failed to resolve|Could not resolve host|"
        r"Network is unreachable|No route to host|couldn't connect to 'https?://|"
        r"dial tcp: lookup \S+.*(?:no such host|server misbehaving|i/o timeout)|"
        r"dial tcp \S+: (?:i/o timeout|connect: connection timed out)|Max retries exceeded with url|"
        r"outgoing traffic has been disabled",
        "the guest has no way to the place that models come from",
        "provisioner ssh {node} -- getent hosts huggingface.co: check `gateway` and `nameservers` of the node in the "
        "fleet file, and what the firewall lets out; then provisioner up {node}",
    ),
    _rule(
        "model_gated",
        r"cannot access gated repo|You are trying to access a gated repo|GatedRepoError|"
        r"Access to model \S+ is restricted|awaiting a review from the repo authors|"
        r"40[13] Client Error: (?:Unauthorized|Forbidden) for url: \S*huggingface",
        "the model is gated, and the token is missing or its account was not let in",
        "accept the licence on the model's page with the account of the token, write `huggingface_token: env:HF_TOKEN` "
        "into the fleet file, then provisioner up {node}",
    ),
    _rule(
        "model_missing",
        r"is not a valid model identifier|RepositoryNotFoundError|Repository Not Found for url|"
        r"Invalid repository ID or local directory specified|pull model manifest: file does not exist|"
        r"failed to open GGUF file|RevisionNotFoundError|is not a valid git identifier|"
        r"does not appear to have a file named config\.json|Entry Not Found for url|"
        r"(?:HTTP |status code )404 .*(?:gguf|resolve)|model ['\"]?\S+ not found",
        "there is no model {model} where it was looked for",
        "check the spelling of `model` in the mode (a private one needs `huggingface_token`); "
        "then provisioner up {node}",
    ),
    _rule(
        "model_unknown_to_engine",
        r"unknown model architecture|Model architectures? \[.*\] (?:are|is) not supported|"
        r"does not recognize this architecture|Unsupported model type|unknown (?:quantization|file) type",
        "this version of {engine} does not know such a model",
        "pin a newer version of {engine} in the fleet file, or choose another model; then provisioner up {node}",
    ),
    _rule(
        "model_damaged",
        r"invalid magic|failed to read (?:magic|header|tensor|key)|bad GGUF version|"
        r"gguf_init_from_\w+: (?:failed|invalid)|data is not within the file bounds|"
        r"Error while deserializing header|SafetensorError|digest mismatch, file must be downloaded again",
        "the model's file is damaged or is no model",
        "check the file and its sha256 in the fleet file; then provisioner up {node}, which lays it down again",
    ),
    _rule(
        "port_taken",
        r"address already in use|couldn't bind HTTP server socket|couldn't bind to server socket",
        "another program has port {port}",
        "provisioner ssh {node} -- sudo ss -ltnp 'sport = :{port}' names it; stop it, then provisioner up {node}",
    ),
    _rule(
        "argument_unknown",
        r"unrecognized arguments?: (?P<what>.*)|error: invalid argument: (?P<invalid>.*)|"
        r"unexpected argument '(?P<unexpected>[^']*)' found|error: unknown (?:flag|argument):? (?P<unknown>.*)|"
        r"ambiguous option: (?P<ambiguous>.*)",
        "this version of {engine} does not know an argument: {what}{invalid}{unexpected}{unknown}{ambiguous}",
        "correct `arguments` of the mode, or pin a version of {engine} that knows it; then provisioner up {node}",
    ),
    _rule(
        "argument_refused",
        r"error while handling argument \"?(?P<what>[^\":]*)|error: argument (?P<argument>\S+): |"
        r"invalid value '(?P<value>[^']*)' for",
        "{engine} refuses the value of an argument: {what}{argument}{value}",
        "correct `arguments` of the mode; then provisioner up {node}",
    ),
    _rule(
        "no_compiler",
        r"Failed to find C compiler|Python\.h: No such file or directory",
        "{engine} compiles at start, and the guest has no C compiler or no Python headers",
        "provisioner up {node} installs them; if it did, see its playbook's list of packages",
    ),
    _rule(
        "cpu_lacks_instructions",
        r"status=4/ILL|signaled to shutdown with signal 4|Illegal instruction|"
        r"CPU does not support|F16C .*not supported",
        "the VM's CPU lacks instructions that {engine} was built with",
        "the VM needs CPU type host (provisioner plan {node} shows it), or a build for older processors",
    ),
    _rule(
        "library_missing",
        r"error while loading shared libraries: (?P<what>\S+?):|ImportError: (?P<import>lib\S+?):|"
        r"ModuleNotFoundError: No module named '(?P<module>[^']*)'",
        "a library is missing: {what}{module}{import}",
        "the archive lacks it (llama.cpp's CUDA builds need the cudart archive beside them); add it under `engines` in "
        "the fleet file, then provisioner up {node}",
    ),
    _rule(
        "program_missing",
        r"status=203/EXEC|Failed at step EXEC|Failed to locate executable (?P<what>\S+)",
        "{engine}'s program is not where its unit says {what}",
        "provisioner up {node} lays it down again",
    ),
    _rule(
        "model_not_loaded",
        r"error loading model: (?P<what>.*)|failed to load model",
        "{engine} could not load the model: {what}",
        "read what it said before: provisioner logs {node} -n 200",
    ),
    _rule(
        "gpu_failed",
        r"CUDA error: (?P<what>(?!out of memory).*)|CUDA_ERROR_\w+|NCCL error|Xid \(PCI:",
        "the card failed while {engine} worked with it: {what}",
        _TEST + "; a full stop and start resets it: provisioner sleep {node}, provisioner wake {node}",
    ),
    _rule(
        "engine_dies",
        r"Main process exited, (?P<what>code=\S+, status=\S+)|Failed with result '(?P<result>[^']*)'",
        "{engine} starts and then dies ({what}{result})",
        "read what it said before: provisioner logs {node} -n 200",
    ),
)
