"""All rules of a plan, and what they make of one request, one task, one guest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from provisioner.lab.faults.reading import read_plan, read_rule
from provisioner.lab.faults.reasons import REASONS
from provisioner.lab.faults.rules import FaultRule, Happening
from provisioner.lab.model import TaskRecord
from provisioner.lab.tasks import TaskFault


@dataclass(frozen=True, slots=True)
class RequestFault:
    """What befalls one request: seconds of delay, happenings in order, and at most one rule that ends it."""

    delay_seconds: float = 0.0
    happens: tuple[Happening, ...] = ()
    ending: FaultRule | None = None


@dataclass
class FaultPlan:
    """The rules, and the dice for their chances and delays."""

    rules: list[FaultRule] = field(default_factory=list)
    seed: int = 0
    _dice: Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._dice = Random(self.seed)  # noqa: S311 - faults, not secrets

    @classmethod
    def read(cls, document: object) -> FaultPlan:
        """Make a plan of a parsed document. Raises InputError that names the rule and what is allowed."""
        rules, seed = read_plan(document)
        return cls(rules, seed)

    def add(self, **rule: object) -> FaultRule:
        """Append a rule; return it, so that its `acted` can be looked at."""
        made = read_rule(rule, len(self.rules) + 1)
        self.rules.append(made)
        return made

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self.rules.clear()

    def for_request(self, method: str, path: str) -> RequestFault | None:
        """Return what befalls a request, if anything."""
        acting = [rule for rule in self.rules if rule.fits_request(method, path) and rule.spend(self._dice)]
        if not acting:
            return None
        return RequestFault(
            sum(rule.seconds(self._dice) for rule in acting),
            tuple(rule.happens for rule in acting if rule.happens is not None),
            next((rule for rule in acting if rule.status or rule.says or rule.drop or rule.answers), None),
        )

    def for_task(self, record: TaskRecord) -> TaskFault | None:
        """Return what befalls a task, if anything."""
        acting = [
            rule
            for rule in self.rules
            if rule.fits_task(record.type, record.id, record.node) and rule.spend(self._dice)
        ]
        if not acting:
            return None
        ending = next((rule for rule in acting if rule.fails or rule.says or rule.ends or rule.hangs), None)
        return TaskFault(
            delay_seconds=sum(rule.seconds(self._dice) for rule in acting),
            ends_with=self._end_of(ending, record) if ending is not None and not ending.hangs else None,
            hangs=ending is not None and ending.hangs,
            work_is_done=ending is not None and ending.work == "done",
            warnings=tuple(warning for rule in acting for warning in rule.warns),
            vanishes=any(rule.vanishes for rule in acting),
            happens=tuple((rule.happens.name, rule.happens.arguments) for rule in acting if rule.happens is not None),
        )

    def guest_faults(self, vmid: int) -> frozenset[str]:
        """Return what is wrong with a guest; looked up at each power on."""
        return frozenset(
            rule.guest for rule in self.rules if rule.guest and rule.fits_guest(vmid) and rule.spend(self._dice)
        )

    @staticmethod
    def _end_of(rule: FaultRule, record: TaskRecord) -> str:
        if rule.says is not None:
            values: Mapping[str, object] = {"vmid": record.id, "node": record.node}
            return REASONS[rule.says].words(values)
        return rule.fails or rule.ends or ""


def values_in(path: str) -> dict[str, object]:
    """Return the server, storage and VM that a path speaks of, for the texts of refusals."""
    parts: Sequence[str] = path.split("/")
    found: dict[str, object] = {}
    for name, key in (("nodes", "node"), ("storage", "storage"), ("qemu", "vmid")):
        if name in parts[:-1]:
            found[key] = parts[parts.index(name) + 1]
    return found
