"""One rule: what it fits, how often it acts, what it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from provisioner.lab.faults.delays import Delay

GUEST_FAULTS: Mapping[str, str] = {
    "never_boots": "has power, and nothing else ever comes of it",
    "dies_at_boot": "goes off by itself right after power on",
    "hangs": "boots, then answers nothing at all: no agent, no engine, no shutdown",
    "agent_silent": "boots and serves, but its agent does not answer",
    "ignores_powerdown": "boots and serves, and stays on when asked to shut down",
    "engine_never_answers": "boots, and nothing listens where the engine should",
    "engine_on_cpu": "boots and serves, but computes on its CPU though it has a card",
    "gpu_missing": "boots and serves without the card that it was given",
    "gpu_lost": "boots and serves; its card has fallen off the bus",
    "gpu_driver_mismatch": "boots and serves; its driver's library and module are of different versions",
    "engine_crashes": "boots; its engine starts and then dies, without a word",
    "engine_out_of_gpu_memory": "boots; its engine dies for want of GPU memory",
    "engine_model_missing": "boots; its engine finds no model and dies",
    "engine_model_gated": "boots; its engine is not let in to its model and dies",
    "engine_port_taken": "boots; its engine finds its port taken and dies",
    "engine_disk_full": "boots; its engine finds the disk full and dies",
    "engine_no_network": "boots; its engine finds no way to the place of models and dies",
    "engine_driver_mismatch": "boots; its engine finds library and module of different versions and dies",
    "engine_card_lost": "boots; its engine dies because the card has fallen off the bus",
    "engine_gpu_too_old": "boots; its engine has no code for such a card and dies",
    "engine_model_unknown": "boots; its engine is told by the place of models that there is no such model, and dies",
    "engine_unknown_argument": "boots; its engine does not know an argument and dies",
    "engine_hangs": "boots; its engine takes connections and never answers",
    "engine_loads_forever": "boots; its engine says for ever that the model is loading",
    "engine_fails": "boots; its engine answers every question with 500",
    "engine_garbage": "boots; its engine answers with something that is no JSON",
    "engine_wrong_model": "boots; its engine serves another model",
    "engine_wants_key": "boots; its engine asks for an API key that nobody was told of",
    "engine_silent_numbers": "boots and serves, but does not tell how busy it is",
}
"""Guest fault -> what such a guest does. Looked up at each power on."""

ANSWERS = ("html", "nothing", "garbage", "truncated")


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that befalls the cluster, with its arguments."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass
class FaultRule:
    """One rule; `seen` and `acted` count while the lab runs."""

    number: int = 0
    method: str | None = None
    path: str | None = None
    task: str | None = None
    guest: str | None = None
    vmid: int | None = None
    node: str | None = None
    skip: int = 0
    times: int | None = None
    chance: float = 1.0
    delay: Delay | None = None
    status: int | None = None
    reason: str | None = None
    says: str | None = None
    drop: Literal["before", "after"] | None = None
    answers: str | None = None
    fails: str | None = None
    ends: str | None = None
    hangs: bool = False
    warns: tuple[str, ...] = ()
    vanishes: bool = False
    work: Literal["done", "undone"] | None = None
    happens: Happening | None = None
    seen: int = 0
    acted: int = 0

    @property
    def kind(self) -> str:
        """What triggers it: ``request``, ``task`` or ``guest``."""
        return "task" if self.task is not None else "guest" if self.guest is not None else "request"

    def fits_request(self, method: str, path: str) -> bool:
        """Say whether a request is one of those it is about."""
        # Plans hold hundreds of rules for tasks, and every request passes by here.
        if self.task is not None or self.guest is not None or self.method not in (None, method):
            return False
        parts = path.split("/")
        if self.vmid is not None and str(self.vmid) not in parts:
            return False
        if self.node is not None and parts[1:3] != ["nodes", self.node]:
            return False
        return self.path is None or re.search(self.path, path) is not None

    def fits_task(self, kind: str, subject: str, node: str) -> bool:
        """Say whether a task is one of those it is about."""
        if self.task is None or re.fullmatch(self.task, kind) is None:
            return False
        return self.vmid in (None, int(subject) if subject.isdigit() else -1) and self.node in (None, node)

    def fits_guest(self, vmid: int) -> bool:
        """Say whether a guest is one of those it is about."""
        return self.guest is not None and self.vmid in (None, vmid)

    def spend(self, dice: Random) -> bool:
        """Say whether it acts this time, and count."""
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.acted >= self.times):
            return False
        if self.chance < 1.0 and dice.random() >= self.chance:
            return False
        self.acted += 1
        return True

    def seconds(self, dice: Random) -> float:
        """Draw how long it holds things up."""
        return self.delay.draw(dice) if self.delay is not None else 0.0
