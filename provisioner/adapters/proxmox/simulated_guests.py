"""Ways into the embedded lab's simulated guests, which run no software: through the guest agent alone.

Wired only where the fleet file says ``guests: simulated``. A simulated guest
understands a handful of commands; what would be a playbook is one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, cast

from provisioner.adapters.proxmox.session import ProxmoxSession
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.model_keeping import MODEL_FOLDER
from provisioner.errors import HostKeyError, HypervisorError, PlaybookError
from provisioner.ports.clock import Clock
from provisioner.ports.guest_shell import CommandResult, GuestAway, GuestShell
from provisioner.ports.playbooks import PlaybookOutcome
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

_CONFIGURE_SECONDS = 60.0
_PUBLIC_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
_LINES_SECONDS = 30.0


class AgentShells:
    """Opens shells that are guest agent calls."""

    def __init__(self, session: ProxmoxSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    def open(self, node: NodeSpec, host_key: str) -> GuestShell:
        """Ask the agent for the guest's host key, and refuse another one than the expected, as SSH would."""
        shell = AgentShell(self._session, self._clock, f"nodes/{node.hypervisor}/qemu/{node.vmid}/agent")
        shown = shell.host_key()
        if shown.split()[:2] != host_key.split()[:2]:
            raise HostKeyError(
                f"cannot log in: the simulated guest has host key {shown}, expected was {host_key}",
                subject=node.subject,
                next_step=f"provisioner destroy {node.name}, then: provisioner up {node.name}",
            )
        return shell


class AgentShell:
    """Runs commands through the guest agent of one VM."""

    def __init__(self, session: ProxmoxSession, clock: Clock, path: str) -> None:
        self._session = session
        self._clock = clock
        self._path = path

    def host_key(self) -> str:
        """Return the guest's public SSH host key, a line. Raises GuestAway."""
        try:
            answer = self._session.call("GET", f"{self._path}/file-read", file=_PUBLIC_KEY)
        except HypervisorError as error:
            raise GuestAway(error.summary) from error
        return str(answer.get("content", "")).strip()

    def run(
        self, command: Sequence[str], *, seconds: float, privileged: bool = False, stdin: str | None = None
    ) -> CommandResult:
        """Run a program; the agent is root anyway."""
        try:
            started = self._session.call("POST", f"{self._path}/exec", command=list(command), input_data=stdin)
            if not isinstance(started, dict) or "pid" not in started:
                raise GuestAway(f"{command[0]} was not started")
            pid = started["pid"]

            def look() -> dict[str, Any] | NotYet:
                status: dict[str, Any] = self._session.call("GET", f"{self._path}/exec-status", pid=pid)
                return status if int(status["exited"]) else NotYet("running")

            status = wait_until(look, clock=self._clock, seconds=seconds, pace=Pace(longest=0.5))
        except WaitedInVain as waited:
            raise GuestAway(f"{command[0]} took longer than {seconds:g} s") from waited
        except HypervisorError as error:
            raise GuestAway(error.summary) from error
        return CommandResult(
            int(status.get("exitcode", -1)), str(status.get("out-data", "")), str(status.get("err-data", ""))
        )

    def lines(self, command: Sequence[str], *, privileged: bool = False) -> Iterator[str]:
        """Yield what the program has to say now: in a simulated guest nothing goes on."""
        yield from self.run(command, seconds=_LINES_SECONDS).out.splitlines()

    def __enter__(self) -> AgentShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""


class SimulatedPlaybooks:
    """Tells a simulated guest what a playbook would have made of it."""

    def __init__(self, session: ProxmoxSession, clock: Clock) -> None:
        self._shells = AgentShells(session, clock)

    def recipe(self, playbook: str, variables: Mapping[str, object]) -> str:
        """Return a digest of the variables; what the guest pretends depends on nothing else."""
        return hashlib.sha256(json.dumps([playbook, variables], sort_keys=True, default=str).encode()).hexdigest()

    def size_question(self, playbook: str, variables: Mapping[str, object]) -> tuple[str, ...]:
        """Return the command that a simulated guest answers instead: with what leaves which of these files."""
        comes = cast("list[str]", _order(playbook, variables)["files"])
        return ("python3", "-c", "", "size", *comes) if comes else ()

    def run(
        self,
        playbook: str,
        node: NodeSpec,
        host_key: str,
        variables: Mapping[str, object],
        on_task: Callable[[str], None],
    ) -> PlaybookOutcome:
        """Have the guest pretend. Raises PlaybookError."""
        on_task(f"Pretend to run {playbook}")
        order = _order(playbook, variables)
        try:
            with self._shells.open(node, host_key) as shell:
                assert isinstance(shell, AgentShell)  # noqa: S101 - ours
                result = shell.run(
                    ["provisioner-simulated-configure"], seconds=_CONFIGURE_SECONDS, stdin=json.dumps(order)
                )
        except GuestAway as error:
            raise PlaybookError(
                f"cannot configure the simulated guest: {error}",
                subject=node.subject,
                next_step="run the same command again",
            ) from error
        if result.exit_code != 0:
            raise PlaybookError(
                f"cannot configure the simulated guest: {result.err.strip() or result.out.strip()}",
                subject=node.subject,
                next_step="this needs the embedded lab: see provisioner lab --help",
            )
        changed = int(json.loads(result.out).get("changed", 0))
        return PlaybookOutcome(1, (f"Pretend to run {playbook}",) if changed else ())


def _key_sum(secrets: Mapping[str, str]) -> str:
    """Return the checksum of the key that clients must send, "" for none; the key itself goes nowhere."""
    key = next((value for name, value in secrets.items() if name.endswith("API_KEY")), "")
    return hashlib.sha256(key.encode()).hexdigest() if key else ""


def _order(playbook: str, variables: Mapping[str, object]) -> dict[str, object]:
    """Return what a simulated guest needs to know of an engine's variables: its units, and which of them runs."""
    # Which unit runs is no part of what is laid down: the guest looks at that by itself.
    laid_down = {key: value for key, value in variables.items() if key != "engine_active"}
    wanted = json.dumps(laid_down, sort_keys=True, default=str)
    name = playbook.removeprefix("deploy-").replace("-cpp", ".cpp")
    order = {"engine": name, "digest": hashlib.sha256(wanted.encode()).hexdigest()}
    # A page in front of the engines serves no model, and nobody here would look at it.
    launches = [launch for launch in cast("list[dict[str, Any]]", variables["engine_launches"]) if launch["models"]]
    active = variables["engine_active"] if launches else ""
    return {
        **order,
        "units": {
            f"llm-{launch['unit']}.service": {
                "engine": name,
                "model": next(iter(launch["models"]), ""),
                "port": launch["port"],
                "key_sha256": _key_sum(launch["secrets"]),
            }
            for launch in launches
        },
        "active": f"llm-{active}.service" if active else "",
        "pulls": variables["engine_pulls"],
        "files": [*_files_of(variables), *_marks_of(name, variables)],
        "only_fetches": not variables["engine_launches"],
    }


def _files_of(variables: Mapping[str, object]) -> list[str]:
    files = cast("list[dict[str, str]]", variables["engine_files"])
    return [f"{MODEL_FOLDER}/models/{file['sha256'][:12]}.gguf" for file in files]


def _marks_of(engine: str, variables: Mapping[str, object]) -> list[str]:
    """Return what the jobs leave that fetch models from Hugging Face."""
    folder = {"vllm": "huggingface", "tgi": "tgi"}.get(engine)
    pulls = cast("list[str]", variables["engine_pulls"])
    return [f"{MODEL_FOLDER}/{folder}/pulled/{model.replace('/', '--')}" for model in pulls if folder]
