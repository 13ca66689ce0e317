"""Writes what an admin needs to play the playbooks by hand: inventory, host keys, variables. No secret is among it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from provisioner.adapters.ansible.playbook_runner import PlaybookTarget
from provisioner.adapters.ansible.variables import variables_text
from provisioner.adapters.files.shipped import shipped_folder
from provisioner.adapters.ssh.command_line import ssh_command
from provisioner.domain.fleet import SshAccess
from provisioner.domain.node_plays import NodePlays
from provisioner.errors import InputError

INVENTORY = "inventory.yml"
_HEADER = "# Written by provisioner export ansible-inventory; the fleet file is where it comes from.\n"


def write_export(
    folder: Path, nodes: Sequence[NodePlays], access: SshAccess, private_key: Path
) -> Mapping[str, tuple[str, ...]]:
    """Write the files, over those of an earlier export; return the command lines that play them, by node.

    Args:
        folder: made where it is not there.
        nodes: what is played on each.
        access: as whom one logs in.
        private_key: a file; its path is written, never what it holds.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = folder.absolute()
    try:
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        hosts: dict[str, object] = {}
        commands: dict[str, tuple[str, ...]] = {}
        for each in nodes:
            node = each.node
            command = ssh_command(node, access, each.host_key, private_key, folder)
            target = PlaybookTarget(
                str(node.name), command.address, command.port, command.user, command.options, command.private_key
            )
            hosts |= yaml.safe_load(target.inventory)["all"]["hosts"]
            commands[str(node.name)] = tuple(_write_play(folder, str(node.name), *play) for play in each.plays)
        (folder / INVENTORY).write_text(_HEADER + yaml.safe_dump({"all": {"hosts": hosts}}), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write the inventory: {error.strerror or error}",
            subject=str(folder),
            next_step="name a folder that can be written",
        ) from error
    return commands


def _write_play(folder: Path, node: str, playbook: str, variables: Mapping[str, object]) -> str:
    path = folder / "variables" / f"{node}-{playbook}.yml"
    path.write_text(_HEADER + variables_text(variables), encoding="utf-8")
    books = shipped_folder("playbooks")
    words = ("ansible-playbook", "-i", str(folder / INVENTORY), "-l", node, "-e", f"@{path}")
    return shlex.join(("env", f"ANSIBLE_CONFIG={books / 'ansible.cfg'}", *words, str(books / f"{playbook}.yml")))
