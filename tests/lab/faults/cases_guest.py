"""Guests and engines: those that never boot, hang, die, stay on, stay silent or talk nonsense."""

from __future__ import annotations

from provisioner.errors import EngineError, EngineKeyError, NotReadyError, RefusedError, ShutdownIgnoredError
from tests.lab.faults.bench import Case, Yard

BRIEF = {"boot_within": "2s", "engine_within": "2s"}


def reset(yard: Yard) -> None:
    """Do what a person does with a guest that hangs: cut its power, so that it starts anew."""
    yard.lab.befall("vm_stopped", vmid=5001)


def restarted_as(fault: str) -> object:
    """Start the node's guest anew with something wrong with it."""

    def act(yard: Yard) -> None:
        reset(yard)
        yard.lab.faults.add(guest=fault, vmid=5001)
        yard.lab.befall("vm_started", vmid=5001)

    return act


def guest(fault: str) -> list[dict[str, object]]:
    return [{"guest": fault, "vmid": 5001}]


CONSOLE = ["Proxmox > VM 5001 > Console"]
JOURNAL = ["journalctl -u llm-small"]

CASES = (
    Case(
        "the guest never boots",
        "up",
        rules=guest("never_boots"),
        times=BRIEF,
        error=NotReadyError,
        says=["cannot log in to the guest within 2 s"],
        then=CONSOLE,
        left="running",
        mend=reset,
    ),
    Case(
        "the guest boots without its agent",
        "up",
        rules=guest("agent_silent"),
        times=BRIEF,
        error=NotReadyError,
        says=["cannot log in to the guest within 2 s", "agent is not running"],
        then=CONSOLE,
        left="running",
        mend=reset,
    ),
    Case(
        "the guest dies while it boots",
        "up",
        rules=guest("dies_at_boot"),
        times=BRIEF,
        error=NotReadyError,
        says=["cannot log in to the guest within 2 s"],
        then=CONSOLE,
        left="stopped",
    ),
    Case(
        "the guest never boots",
        "wake",
        "asleep",
        rules=guest("never_boots"),
        times=BRIEF,
        error=EngineError,
        says=["cannot get an answer from llama.cpp within 4 s", "refused"],
        then=JOURNAL,
        left="running",
        mend=reset,
    ),
    *(
        Case(
            fault,
            verb,
            given,
            rules=guest(kind),
            times=BRIEF,
            error=EngineError,
            says=[words],
            then=JOURNAL,
            left="running",
            mend=reset,
        )
        for fault, kind, words in (
            ("the engine never answers", "engine_never_answers", "cannot get an answer from llama.cpp"),
            ("the engine loads its model for ever", "engine_loads_forever", "HTTP 503 Loading model"),
            ("the engine fails at every question", "engine_fails", "CUDA error"),
            ("the engine talks nonsense", "engine_garbage", "cannot read its list of models"),
            ("the engine serves another model", "engine_wrong_model", "it serves: another-model"),
        )
        for verb, given in (("up", "absent"), ("wake", "asleep"))
    ),
    *(
        Case(
            "the engine asks for an API key",
            verb,
            given,
            rules=guest("engine_wants_key"),
            times=BRIEF,
            error=EngineKeyError,
            says=["it answers HTTP 401 to /v1/models", "the fleet file names no API key"],
            then=["write api_key: env:NAME or file:PATH for node llm-gpu-01"],
            left="running",
            mend=reset,
        )
        for verb, given in (("up", "absent"), ("wake", "asleep"))
    ),
    *(
        Case(
            f"the engine dies: {words}",
            verb,
            given,
            rules=guest(kind),
            times=BRIEF,
            error=EngineError,
            says=["cannot get an answer from llama.cpp", "its log shows why", words],
            then=[step],
            left="running",
            mend=reset,
        )
        for kind, words, step in (
            ("engine_crashes", "starts and then dies", "provisioner logs llm-gpu-01"),
            ("engine_out_of_gpu_memory", "GPU memory ran out", "provisioner fit tiny.gguf"),
            ("engine_model_missing", "there is no model tiny.gguf", "spelling"),
            ("engine_model_gated", "the model is gated", "huggingface_token"),
            ("engine_port_taken", "another program has port 8080", "sport = :8080"),
            ("engine_disk_full", "a disk of the guest is full", "df -h"),
            ("engine_no_network", "no way to the place that models come from", "nameservers"),
            ("engine_driver_mismatch", "of different versions", "provisioner up llm-gpu-01"),
            ("engine_card_lost", "fallen off the bus", "provisioner sleep llm-gpu-01 --force"),
            ("engine_gpu_too_old", "the card is too old", "dtype: half"),
            ("engine_unknown_argument", "does not know an argument: --mlock", "arguments"),
        )
        for verb, given in (("up", "absent"), ("wake", "asleep"))
    ),
    Case(
        "the engine takes connections and says nothing",
        "wake",
        "asleep",
        rules=guest("engine_hangs"),
        times=BRIEF,
        error=EngineError,
        says=["cannot get an answer from llama.cpp", "last: no answer yet"],
        then=JOURNAL,
        left="running",
        mend=reset,
    ),
    Case(
        "the guest hangs",
        "sleep",
        "awake",
        before=restarted_as("hangs"),
        error=RefusedError,
        says=["its engine does not say whether it is busy"],
        then=["--force"],
        left="running",
        mend=reset,
    ),
    Case(
        "the guest hangs",
        "sleep --force",
        "awake",
        before=restarted_as("hangs"),
        times={"shutdown_within": "1s"},
        says=["power cut"],
        left="stopped",
    ),
    Case(
        "the guest hangs",
        "idle",
        "awake",
        before=restarted_as("hangs"),
        says=["llm-gpu-01: stay", "unknown counts as busy"],
        left="running",
        mend=reset,
    ),
    Case(
        "the guest ignores its shutdown",
        "sleep",
        "awake",
        before=restarted_as("ignores_powerdown"),
        times={"shutdown_within": "1s"},
        error=ShutdownIgnoredError,
        says=["VM quit/powerdown failed - got timeout"],
        then=["provisioner sleep llm-gpu-01 --force"],
        left="running",
        mend=reset,
    ),
    Case(
        "the engine does not tell how busy it is",
        "sleep",
        "awake",
        before=restarted_as("engine_silent_numbers"),
        error=RefusedError,
        says=["its engine does not say whether it is busy", "HTTP 501"],
        then=["--force"],
        left="running",
        mend=reset,
    ),
    Case(
        "the engine does not tell how busy it is",
        "idle",
        "awake",
        before=restarted_as("engine_silent_numbers"),
        says=["llm-gpu-01: stay", "unknown counts as busy"],
        left="running",
        mend=reset,
    ),
    Case(
        "the guest hangs",
        "destroy",
        "awake",
        before=restarted_as("hangs"),
        left="absent",
    ),
)
