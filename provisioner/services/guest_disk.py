"""Lets a guest's filesystems fill their disks, by a few small commands over SSH."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.domain.fleet import NodeSpec
from provisioner.errors import GuestError, NotReadyError
from provisioner.planning.guest_disk import LOOK, filling, filling_models
from provisioner.ports.guest_shell import CommandResult, GuestAway, GuestShell

_LOOK_SECONDS = 30.0
# Growing ext4 online writes a group descriptor for every 128 MiB gained; terabytes take minutes on slow storage.
_GROW_SECONDS = 900.0
_NO_SUCH_COMMAND = 127


@dataclass(frozen=True, slots=True)
class Grown:
    """What became of the filesystem."""

    changed: bool
    detail: str


def fill_disks(shell: GuestShell, node: NodeSpec) -> Grown:
    """Grow partition and filesystem where a disk has room: the root's, and that of the models.

    A guest that lacks the tools, or keeps its root where we cannot follow, is
    left alone and that is told: it serves as before.

    Raises:
        GuestError: a command failed; its words are in the summary.
        NotReadyError: the guest went away meanwhile.
    """
    try:
        look = shell.run(LOOK, seconds=_LOOK_SECONDS)
        if _is_missing(look):
            return Grown(False, "left alone: the guest has no lsblk")
        plan, models = filling(look.out), filling_models(look.out)
        done: list[str] = []
        for command in (*plan.commands, *models.commands):
            result = shell.run(command.words, seconds=_GROW_SECONDS, privileged=True)
            said = f"{result.out}\n{result.err}".strip()
            if command.idle_words in said:
                continue
            if _is_missing(result):
                return Grown(bool(done), f"left alone: the guest has no {command.words[0]}")
            if result.exit_code != 0:
                raise GuestError(
                    f"cannot grow a filesystem: {' '.join(command.words)}: {said}",
                    subject=node.subject,
                    next_step=f"grow it by hand (provisioner ssh {node.name}), then: provisioner up {node.name}",
                )
            done.append(command.words[0])
    except GuestAway as gone:
        raise NotReadyError(
            f"cannot grow the root filesystem: {gone}",
            subject=node.subject,
            next_step=f"provisioner up {node.name} continues where this run ended",
            retryable=True,
        ) from gone
    left = [f"left alone: {why}" for why in (plan.why_not, models.why_not) if why]
    return Grown(bool(done), ", ".join(done + left) or "it fills its disk")


def _is_missing(result: CommandResult) -> bool:
    # sudo reports it in words, with an exit code of its own.
    return result.exit_code == _NO_SUCH_COMMAND or "command not found" in result.err
