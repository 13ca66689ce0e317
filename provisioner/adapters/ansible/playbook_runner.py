"""Runs ansible-playbook on one machine and reports each task; the port `Playbooks` for guests.

Everything Ansible needs lies in a private folder for the time of the run:
inventory, variables (they may hold secrets, so never on a command line) and
the machine's host key.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from provisioner.adapters.ansible.model_sizes import size_question
from provisioner.adapters.ansible.variables import variables_text
from provisioner.adapters.files.shipped import shipped_folder
from provisioner.adapters.processes import dying_with_us
from provisioner.adapters.ssh.command_line import ssh_command
from provisioner.adapters.ssh.login_key import LoginKey
from provisioner.domain.fleet import NodeSpec, SshAccess
from provisioner.errors import InputError, PlaybookError
from provisioner.planning.playbook_diagnosis import failed_task
from provisioner.ports.playbooks import OnTaskEvent, PlaybookOutcome, TaskEvent, TaskPhase

_CALLBACK = "provisioner_events"
# Words of Ansible's stderr that we pass on when it died without naming a task.
_LONGEST_WORDS = 2000
# One takes about 100 MB here and a third of a core; nodes that come up side by side take turns.
MOST_PLAYBOOKS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class PlaybookTarget:
    """A machine to play on: its name in messages, and how the OpenSSH client reaches it.

    Without `private_key` the client tries the agent and the user's own keys. `ssh_options` say whom to trust.
    """

    name: str
    address: str
    port: int
    user: str
    ssh_options: tuple[str, ...]
    private_key: Path | None = None

    @property
    def inventory(self) -> str:
        """Ansible's inventory, with this one machine."""
        host: dict[str, object] = {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_ssh_common_args": shlex.join(self.ssh_options),
        }
        if self.private_key is not None:
            host["ansible_ssh_private_key_file"] = str(self.private_key)
        return yaml.safe_dump({"all": {"hosts": {self.name: host}}})


class PlayFailed(Exception):
    """A play ended early: at which task, in whose words, and whether that was because nobody answered (any more)."""

    def __init__(self, task: str, reason: str, *, is_unreachable: bool) -> None:
        super().__init__(reason)
        self.task = task
        self.reason = reason
        self.is_unreachable = is_unreachable


@dataclass(slots=True)
class _Run:
    """What the event lines of one run add up to."""

    tasks: int = 0
    changed: list[str] = field(default_factory=list)
    failure: PlayFailed | None = None
    began: float = 0.0

    def take(self, line: str, on_event: OnTaskEvent) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if event["event"] == "task":
            self.began = time.monotonic()
            on_event(TaskEvent(event["task"], TaskPhase.STARTED))
        elif event["event"] == "ok":
            self.tasks += 1
            if event["changed"]:
                self.changed.append(event["task"])
            seconds = time.monotonic() - self.began
            on_event(TaskEvent(event["task"], TaskPhase.DONE, bool(event["changed"]), seconds))
        elif event["event"] == "waiting":
            on_event(TaskEvent(event["task"], TaskPhase.WAITING, detail=event["detail"]))
        elif event["event"] == "skipped":
            on_event(TaskEvent(event["task"], TaskPhase.SKIPPED))
        elif event["event"] in ("failed", "unreachable"):
            self.failure = PlayFailed(event["task"], event["reason"], is_unreachable=event["event"] == "unreachable")


class AnsiblePlaybooks:
    """Runs the shipped playbooks through ansible-core."""

    def __init__(self, access: SshAccess, login_key: LoginKey) -> None:
        self._access = access
        self._login_key = login_key
        self._turns = threading.BoundedSemaphore(MOST_PLAYBOOKS_AT_ONCE)

    def recipe(self, playbook: str, variables: Mapping[str, object]) -> str:
        """Return a digest of the playbook, of the templates and tasks that it names, and of the variables."""
        books = shipped_folder("playbooks")
        text = (books / f"{playbook}.yml").read_text(encoding="utf-8")
        parts = [text, json.dumps(variables, sort_keys=True, default=str)]
        named = (file for folder in ("tasks", "templates") for file in sorted((books / folder).glob("*")))
        parts += [file.read_text(encoding="utf-8") for file in named if file.name in text]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def size_question(self, playbook: str, variables: Mapping[str, object]) -> tuple[str, ...]:
        """Return the command that tells in a guest how many bytes of models a playbook has still to fetch."""
        return size_question(playbook, variables)

    def run(
        self,
        playbook: str,
        node: NodeSpec,
        host_key: str,
        variables: Mapping[str, object],
        on_task: Callable[[str], None],
    ) -> PlaybookOutcome:
        """Run one playbook on one node."""
        with self._turns:
            return self._run(playbook, node, host_key, variables, on_task)

    def _run(
        self,
        playbook: str,
        node: NodeSpec,
        host_key: str,
        variables: Mapping[str, object],
        on_task: Callable[[str], None],
    ) -> PlaybookOutcome:
        verify_local_files(variables)
        with private_folder() as folder:
            command = ssh_command(node, self._access, host_key, self._login_key.path, folder)
            target = PlaybookTarget(
                str(node.name), command.address, command.port, command.user, command.options, command.private_key
            )

            def tell(event: TaskEvent) -> None:
                if event.phase is TaskPhase.STARTED:
                    on_task(event.name)
                elif event.phase is TaskPhase.WAITING:
                    on_task(f"{event.name}: {event.detail}")

            try:
                return play(target, playbook, variables_text(variables), tell, folder)
            except PlayFailed as failure:
                raise _explained(failure, playbook, node) from failure


def _explained(failure: PlayFailed, playbook: str, node: NodeSpec) -> PlaybookError:
    # Where nobody answered the words are those of our own way there, not the guest's.
    found = None if failure.is_unreachable else failed_task(failure.reason, node.name)
    mend = f"mend what it names, then run again: provisioner up {node.name} continues"
    error = PlaybookError(
        f'cannot configure the guest: playbook {playbook} failed at "{failure.task}": {failure.reason}',
        subject=node.subject,
        next_step=found.next_step if found else mend,
    )
    error.diagnosis = found.cause if found else None
    return error


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for one run, readable by nobody else, gone afterwards."""
    # Short on purpose: a control socket lives in it, and socket paths end at 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix=f"prov-{os.getpid()}-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def play(target: PlaybookTarget, playbook: str, variables: str, on_event: OnTaskEvent, folder: Path) -> PlaybookOutcome:
    """Run a shipped playbook.

    Args:
        target: where.
        playbook: its name without folder or ending.
        variables: YAML.
        on_event: told about each task.
        folder: from `private_folder`.

    Raises:
        PlayFailed: a task failed, or the machine could not be reached.
    """
    (folder / "inventory.yml").write_text(target.inventory)
    (folder / "variables.yml").write_text(variables)
    run, exit_code, words = _ansible(folder, playbook, on_event)
    _close_connections(folder, target.address)
    if exit_code == 0:
        return PlaybookOutcome(run.tasks, tuple(run.changed))
    raise run.failure or PlayFailed(
        "before its first task", words[-_LONGEST_WORDS:] or f"exit code {exit_code}", is_unreachable=False
    )


def _ansible(folder: Path, playbook: str, on_event: OnTaskEvent) -> tuple[_Run, int, str]:
    books = shipped_folder("playbooks")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_CONFIG": str(books / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": _CALLBACK,
        "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "c"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_NOCOLOR": "1",
        # ansible-core insists on a UTF-8 locale.
        "LC_ALL": "C.UTF-8",
    }
    # A play must not outlive a run that was killed: the next run would play against it.
    command = dying_with_us(sys.executable, "-m", "ansible", "playbook", "-i", str(folder / "inventory.yml"))
    command += ["-e", f"@{folder / 'variables.yml'}", str(books / f"{playbook}.yml")]
    run = _Run()
    with (
        (folder / "stderr").open("w+", encoding="utf-8", errors="replace") as words,
        subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - asked for above
        try:
            for line in process.stdout:
                run.take(line, on_event)
        except BaseException:
            # Ctrl-C: a play that goes on without us would fight with the next run.
            process.terminate()
            raise
        exit_code = process.wait()
        words.seek(0)
        return run, exit_code, words.read().strip()


def _close_connections(folder: Path, address: str) -> None:
    """End the shared SSH connection that would otherwise linger for a minute."""
    for socket in (folder / "c").glob("*") if (folder / "c").is_dir() else ():
        subprocess.run(
            ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )


def verify_local_files(variables: Mapping[str, object]) -> None:
    """Check every local file that is about to be copied against its pinned checksum. Raises InputError.

    Args:
        variables: a playbook's; what is `{source: ..., sha256: ...}` in one of its lists is such a file.
    """
    for value in variables.values():
        for entry in value if isinstance(value, list) else ():
            if isinstance(entry, Mapping) and {"source", "sha256"} <= entry.keys():
                _verify(str(entry["source"]), str(entry["sha256"]))


def _verify(source: str, digest: str) -> None:
    if source.startswith(("http://", "https://")):
        return
    path = Path(source)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"cannot read {path.name}: {error.strerror}",
            subject=str(path),
            next_step="check `source` under engines and models in the fleet file",
        ) from error
    if found != digest:
        raise InputError(
            f"cannot use {path.name}: its checksum is {found}, the fleet file pins {digest}",
            subject=str(path),
            next_step="fetch the file again, or pin the new checksum if you trust the new file",
        )
