"""A plan of things that go wrong, for tests of those who must cope.

A plan is a list of rules. A rule matches requests (`method`, `path` as a regular
expression) or tasks (`task`), optionally of one `vmid`, and does its harm `times`
times (always, when left out):

    - {method: GET, path: /version, status: 596, reason: "Connection timed out", times: 2}
    - {path: /status/start, drop: before}          # or "after": done, but nobody hears of it
    - {path: /cluster/resources, delay: 3.5}
    - {task: qmstart, vmid: 5001, fails: "got timeout"}
    - {task: qmclone, hangs: true}
    - {task: qmcreate, warns: true}
    - {guest: never_boots, vmid: 5001}             # or engine_never_answers, ignores_powerdown
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from provisioner.errors import InputError
from provisioner.lab.model import TaskRecord
from provisioner.lab.tasks import TaskFault

GUEST_FAULTS = ("never_boots", "engine_never_answers", "ignores_powerdown")
_KEYS = {
    "method",
    "path",
    "task",
    "guest",
    "vmid",
    "times",
    "delay",
    "status",
    "reason",
    "drop",
    "fails",
    "hangs",
    "warns",
}


@dataclass
class FaultRule:
    """One rule, and how often it may still act (None for ever)."""

    method: str | None = None
    path: str | None = None
    task: str | None = None
    guest: str | None = None
    vmid: int | None = None
    times: int | None = None
    delay: float = 0.0
    status: int | None = None
    reason: str = "Internal Server Error"
    drop: Literal["before", "after"] | None = None
    fails: str | None = None
    hangs: bool = False
    warns: bool = False

    def spend(self) -> bool:
        """Say whether the rule still acts, and count it."""
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass
class FaultPlan:
    """All rules; the first that matches acts."""

    rules: list[FaultRule] = field(default_factory=list)

    @classmethod
    def read(cls, document: object) -> FaultPlan:
        """Make a plan of a parsed document. Raises InputError."""
        if not isinstance(document, Sequence) or isinstance(document, str):
            raise _wrong("the fault plan is no list of rules")
        return cls([_rule(entry, number) for number, entry in enumerate(document, 1)])

    def add(self, **rule: object) -> None:
        """Append a rule."""
        self.rules.append(_rule(rule, len(self.rules) + 1))

    def for_request(self, method: str, path: str) -> FaultRule | None:
        """Return the rule that spoils a request, if any."""
        for rule in self.rules:
            if rule.task or rule.guest or (rule.method and rule.method != method):
                continue
            if rule.vmid is not None and f"/{rule.vmid}" not in path:
                continue
            if (rule.path is None or re.search(rule.path, path)) and rule.spend():
                return rule
        return None

    def for_task(self, record: TaskRecord) -> TaskFault | None:
        """Return what happens to a task, if anything."""
        for rule in self.rules:
            fits = rule.task is not None and re.fullmatch(rule.task, record.type) is not None
            if fits and (rule.vmid is None or str(rule.vmid) == record.id) and rule.spend():
                return TaskFault(rule.delay, rule.fails, rule.hangs, rule.warns)
        return None

    def guest_faults(self, vmid: int) -> frozenset[str]:
        """Return what is wrong with a guest; looked up at each power on."""
        return frozenset(rule.guest for rule in self.rules if rule.guest and rule.vmid in (None, vmid) and rule.spend())


def _rule(entry: object, number: int) -> FaultRule:
    if not isinstance(entry, Mapping):
        raise _wrong(f"rule {number} of the fault plan is no mapping")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise _wrong(f"rule {number} of the fault plan has unknown keys: {', '.join(map(str, unknown))}")
    if entry.get("guest", "never_boots") not in GUEST_FAULTS:
        raise _wrong(f"rule {number} names the guest fault '{entry['guest']}'")
    if entry.get("drop", "before") not in ("before", "after"):
        raise _wrong(f"rule {number} drops '{entry['drop']}', not 'before' or 'after'")
    return FaultRule(**entry)


def _wrong(what: str) -> InputError:
    return InputError(
        f"cannot use the fault plan: {what}",
        subject="fault plan",
        next_step=f"write a list of mappings with the keys {', '.join(sorted(_KEYS))}",
    )
