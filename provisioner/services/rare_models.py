"""Fetches the models of a mode that are to come only when it is first wanted, before its engine is started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import Pull
from provisioner.domain.model_keeping import MODEL_FOLDER
from provisioner.engines.base import DATA, MODELS
from provisioner.planning.launches import fetching_variables, setting_of, units_of
from provisioner.ports.guest_shell import GuestShell
from provisioner.services.engine_web import engine_web
from provisioner.services.entering import Entering, told
from provisioner.services.model_room import ModelRoom
from provisioner.services.playbook_secrets import with_secrets
from provisioner.services.world import World

_ASK_SECONDS = 30.0


class RareModels:
    """The models of modes with ``pull: demand`` whose engines do not fetch by themselves."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def are_missing(self, node: NodeSpec, shell: GuestShell) -> bool:
        """Say whether the models of a node's mode are to be fetched now. Raises GuestError.

        Args:
            node: in the mode that is wanted.
            shell: a way into its guest.
        """
        mode = self._fleet.mode_of(node)
        if mode.pull is Pull.UP:
            return False
        engine = self._world.engines[mode.engine]
        marks = engine.fetched(setting_of(self._fleet, node, mode))
        return not all(_is_there(shell, node, mark) for mark in marks)

    def fetch(
        self, node: NodeSpec, shell: GuestShell, say: Callable[[str], None], *, before: NodeSpec | None = None
    ) -> str:
        """Have the models of a node's mode in its guest, with room made for them first; return in words what came.

        The same job does it as at `up`, with the same checks; whatever serves meanwhile goes on.

        Args:
            node: in the mode that is wanted.
            shell: a way into its guest.
            say: told about the progress.
            before: the node in the mode that serves meanwhile.

        Raises:
            PlaybookError: they could not be fetched; the reason is named.
            RefusedError: what must stay leaves too little of the budget for them; none has come.
        """
        mode = self._fleet.mode_of(node)
        engine = self._world.engines[mode.engine]
        say(f'{", ".join(mode.models)} comes now that mode "{mode.name}" is first wanted')
        units = units_of(self._fleet, node, self._world.engines)
        variables = fetching_variables(self._fleet, node, engine, mode, units)
        given = with_secrets(variables, lambda reference: self._world.secret(reference, subject=node.subject))
        host_key = Entering(self._fleet, self._world).host_key(node)
        playbooks = self._world.playbooks[self._fleet.cluster_of(node).name]
        self._room(node, shell, say, before).make_for(playbooks, engine.playbook, variables)
        playbooks.run(engine.playbook, node, host_key, given, say)
        return f"fetched {', '.join(mode.models)}"

    def keep_to_budget(
        self, node: NodeSpec, shell: GuestShell, say: Callable[[str], None], *, before: NodeSpec | None = None
    ) -> None:
        """Hold the models of a node to their budget before it serves what came on demand, whoever fetched it and when.

        Nobody may have told how large that is, and a run that was killed has not looked afterwards.

        Args:
            node: in the mode that is wanted.
            shell: a way into its guest.
            say: told about what goes.
            before: the node in the mode that serves meanwhile.

        Raises:
            RefusedError: what must stay is more than the budget allows.
        """
        mode = self._fleet.mode_of(node)
        if mode.pull is Pull.DEMAND and not self._world.engines[mode.engine].stored_path:
            self._room(node, shell, say, before).keep_to_budget()

    def _room(
        self, node: NodeSpec, shell: GuestShell, say: Callable[[str], None], before: NodeSpec | None
    ) -> ModelRoom:
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        web = engine_web(self._fleet, self._world, node)
        return ModelRoom(
            self._fleet, node, engine, web, self._world.clock, lambda: nullcontext(shell), say, before=before
        )


def _is_there(shell: GuestShell, node: NodeSpec, mark: str) -> bool:
    path = mark.replace(MODELS, f"{MODEL_FOLDER}/models").replace(DATA, MODEL_FOLDER)
    with told(node):
        return shell.run(["test", "-e", path], seconds=_ASK_SECONDS, privileged=True).exit_code == 0
