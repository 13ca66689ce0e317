"""Fetches models into an engine's store, with room made for them where the fleet gives models a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.model_keeping import MODEL_FOLDER, ModelsSeen, ModelStore
from provisioner.domain.quantities import GIB, size_text
from provisioner.engines.base import AnswerUnreadable, InferenceEngine, PullFailed
from provisioner.errors import EngineError, ProvisionerError, RefusedError
from provisioner.planning.model_budget import Eviction, Room, hot_models, room_for, without
from provisioner.ports.clock import Clock
from provisioner.ports.guest_shell import GuestAway, GuestShell
from provisioner.ports.playbooks import Playbooks
from provisioner.ports.web import NoAnswer, Web
from provisioner.services.entering import told
from provisioner.services.stored_models import delete_model, note_in_guest, stored_models

OpenShell = Callable[[], AbstractContextManager[GuestShell]]
_SECONDS = 10.0
_DELETE_SECONDS = 60.0
# Several questions to publishers, each of which has a minute.
_SIZE_SECONDS = 300.0
SPARE_BYTES = 256 * 1024**2
"""What the guest's jobs leave free beside what they fetch (playbooks/files/guest_job.py)."""


@dataclass(slots=True)
class ModelRoom:
    """The room for models on one node's disk. Called with a model and the bytes to come, it says how many fit.

    Without a budget it makes no room and only looks. `evicted` is what it took off the disk.
    """

    fleet: FleetSpec
    node: NodeSpec
    engine: InferenceEngine
    web: Web
    clock: Clock
    open_shell: OpenShell
    say: Callable[[str], None]
    before: NodeSpec | None = None
    """The node in the mode that is to come back should the wanted one not answer: what that needs stays too."""
    evicted: list[Eviction] = field(default_factory=list)
    left: str = ""
    """Why models take more than their budget, where they do for now."""

    def __call__(self, model: str, needed_bytes: int) -> int | None:
        """Return how many bytes there are for a model that is about to come; None where nobody can tell.

        Raises PullFailed when there is too little, whatever goes.
        """
        if self.node.models.budget_bytes is None or self.node.adopt:
            return _free_bytes(self.open_shell)
        room = self._make(needed_bytes, coming=model)
        if room.short_bytes:
            raise PullFailed(_too_little(self.node, room, f"the {needed_bytes / GIB:.2f} GiB of it that are to come"))
        return room.free_bytes

    def make_for(self, playbooks: Playbooks, playbook: str, variables: Mapping[str, object]) -> None:
        """Make room for the models that a playbook is about to fetch, where they have a budget.

        Raises:
            RefusedError: what must stay leaves too little; nothing has gone.
            GuestError: the guest does not tell what is there.
        """
        if self.node.models.budget_bytes is None or self.node.adopt:
            return
        question = playbooks.size_question(playbook, variables)
        coming_bytes = self._told_bytes(question) if question else 0
        if coming_bytes:
            self.keep_to_budget(coming_bytes)

    def _told_bytes(self, question: tuple[str, ...]) -> int:
        with self.open_shell() as shell, told(self.node):
            result = shell.run(question, seconds=_SIZE_SECONDS, privileged=True)
        if result.exit_code == 0 and result.out.strip().isdigit():
            return int(result.out)
        # Whoever cannot be asked can most likely not be fetched from either, and the playbook says why.
        why = (result.err.strip().splitlines() or ["no answer"])[-1]
        self.say(f"how much is to come cannot be told ({why}): room is made afterwards")
        return 0

    def keep_to_budget(self, coming_bytes: int = 0) -> None:
        """Bring what is there down to the budget, less what is about to come.

        Raises:
            RefusedError: what must stay is more than that; nothing has gone.
            GuestError: the guest does not tell what is there.
        """
        if self.node.models.budget_bytes is None or self.node.adopt:
            return
        room = self._make(coming_bytes, spare_bytes=SPARE_BYTES if coming_bytes else 0)
        what = f"the {coming_bytes / GIB:.2f} GiB that are to come" if coming_bytes else "them"
        if room.waits_for_engine:
            # No reason to do without what the node serves now.
            self.left = f"left above their budget: {_too_little(self.node, room, what)}"
            self.say(self.left)
        elif room.short_bytes:
            raise RefusedError(
                f"cannot keep its models to their budget: {_too_little(self.node, room, what)}",
                subject=self.node.subject,
                next_step=self._way_out(room),
            )

    def _way_out(self, room: Room) -> str:
        grow = "give the node a larger model_disk or disk" if room.is_for_disk else "raise model_budget"
        rest = ", or write pull: demand for a mode whose models are rarely used"
        if self.before is not None:
            rest += "; what is served now stays while it may have to come back, so another mode in between helps too"
        return grow + rest

    def _make(self, needed_bytes: int, coming: str = "", spare_bytes: int = 0) -> Room:
        with self.open_shell() as shell, told(self.node):
            # A fast line may have brought it before we look; what is to come is not counted twice.
            seen, is_up = self._with_loaded(without(stored_models(shell, self.node), coming))
            keep = hot_models(self.fleet, self.node)
            if self.before is not None:
                keep = hot_models(self.fleet, self.before) | keep
            room = room_for(
                needed_bytes,
                replace(seen, free_bytes=seen.free_bytes - spare_bytes),
                budget_bytes=self.node.models.budget_bytes or 0,
                keep=keep,
                unreachable=() if is_up else (ModelStore.OLLAMA,),
                now=self.clock.now(),
            )
            for eviction in room.evictions:
                # Told before it happens, here and in the guest's own journal.
                words = f"evicting model {eviction} from {MODEL_FOLDER}, to make room"
                self.say(words)
                if eviction.model.store is ModelStore.OLLAMA:
                    note_in_guest(shell, words)
                    self._delete_by_engine(eviction.model.name)
                else:
                    delete_model(shell, self.node, eviction.model, words)
                self.evicted.append(eviction)
        return room

    def _with_loaded(self, seen: ModelsSeen) -> tuple[ModelsSeen, bool]:
        """Return what is there with the models in memory marked as in use, and whether their store's engine runs."""
        if not self.engine.stored_path:
            return seen, False
        try:
            answer = self.web.get(self._address + self.engine.loaded_path, seconds=_SECONDS)
            loaded = {each.name for each in self.engine.loaded_models(answer.text)}
        except (NoAnswer, AnswerUnreadable):
            return seen, False
        models = tuple(
            replace(each, is_in_use=each.is_in_use or (each.store is ModelStore.OLLAMA and each.name in loaded))
            for each in seen.models
        )
        return replace(seen, models=models), True

    def _delete_by_engine(self, name: str) -> None:
        request = self.engine.delete(name)
        if request is None:
            raise AssertionError(f"{self.engine.name} keeps models that it cannot delete")
        try:
            url = self._address + request.path
            answer = self.web.send(request.method, url, request.body, seconds=_DELETE_SECONDS)
            said = "" if answer.status // 100 == 2 else f"HTTP {answer.status} {answer.text.strip()[:200]}"
        except NoAnswer as error:
            said = str(error)
        if said:
            raise EngineError(
                f'cannot take model "{name}" off its disk: {said}',
                subject=self.node.subject,
                next_step=f"provisioner logs {self.node.name}; then: provisioner up {self.node.name}",
                retryable=True,
            )

    @property
    def _address(self) -> str:
        return f"http://{self.node.reach.address}:{self.engine.port}"


def _too_little(node: NodeSpec, room: Room, what: str) -> str:
    bound = "its disk" if room.is_for_disk else f"model_budget {size_text(node.models.budget_bytes or 0)}"
    stays = f"; what stays: {', '.join(room.kept)}" if room.kept else ""
    return f"no space left for {what}: {room.short_bytes / GIB:.2f} GiB too much for {bound}{stays}"


def _free_bytes(open_shell: OpenShell) -> int | None:
    try:
        with open_shell() as shell:
            result = shell.run(["df", "--output=avail", "--block-size=1", MODEL_FOLDER], seconds=_SECONDS)
    except (ProvisionerError, GuestAway):
        return None
    last = result.out.split()[-1:]
    return int(last[0]) if result.exit_code == 0 and last and last[0].isdigit() else None
