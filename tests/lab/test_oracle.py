"""Replays recorded requests and holds the lab's answers against those of the real handlers.

Every request meets the cluster in its first state: one that is accepted gets a
fresh lab afterwards, one that is refused must have left everything as it was.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provisioner.lab.core import Lab, LabOptions
from provisioner.lab.dispatch import Dispatcher
from provisioner.lab.guests.simulated import SimulatedBackend
from provisioner.lab.refusals import Refusal

ORACLE = Path(__file__).resolve().parents[2].parent / "shared" / "pve" / "oracle"
REQUESTS = ORACLE / "requests.jsonl"
FLAVOURS = {"8.4": "8.4", "9.2": "9.1"}
"""Recorded version to the flavour of the lab; between 9.1 and 9.2 these calls only gained parameters."""

FLOOR = {"accepted": 1.0, "status": 1.0, "errors": 1.0, "message": 1.0}
"""The least share of recorded answers that the lab gives too. It is what was reached; it only goes up."""

pytestmark = pytest.mark.skipif(not REQUESTS.exists(), reason="the recorded answers are not next to the checkout")


@dataclass(frozen=True)
class Outcome:
    """One replayed request: what was recorded, what the lab said, whether a refusal changed anything."""

    record: dict[str, Any]
    version: str
    accepted: bool
    status: int
    message: str
    errors: dict[str, str] | None
    changed_by_refusal: bool

    def agrees(self, field: str) -> bool:
        answer = self.record["answer"]
        if field == "accepted":
            return self.accepted is answer["accepted"]
        if answer["accepted"] or self.accepted:
            return self.accepted is answer["accepted"]
        if field == "errors":
            return sorted(self.errors or {}) == sorted(answer["errors"] or {})
        if field == "message":
            texts = {key: text.strip() for key, text in (self.errors or {}).items()}
            return self.message.strip() == answer["message"] and texts == (answer["errors"] or {})
        return self.status == answer["status"]

    def __str__(self) -> str:
        ours = "accepted" if self.accepted else f"{self.status} {self.message} {self.errors or ''}"
        return f"{self.record['id']} on {self.version}\n  recorded {self.record['answer']}\n  lab      {ours}"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    records = [json.loads(line) for line in REQUESTS.read_text().splitlines()]
    state = json.loads((ORACLE / "cluster.json").read_text())
    return asyncio.run(replay(records, state, tmp_path_factory.mktemp("oracle")))


@pytest.mark.parametrize("field", FLOOR)
def test_the_lab_answers_as_recorded(
    field: str, outcomes: list[Outcome], record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    total = Counter(outcome.record["kind"] for outcome in outcomes)
    agreeing = Counter(outcome.record["kind"] for outcome in outcomes if outcome.agrees(field))
    record_property(field, {kind: f"{agreeing[kind]}/{total[kind]}" for kind in sorted(total)})
    with capsys.disabled():
        print(f"\n{field}: " + ", ".join(f"{kind} {agreeing[kind]}/{total[kind]}" for kind in sorted(total)))
    differing = [str(outcome) for outcome in outcomes if not outcome.agrees(field)]
    assert sum(agreeing.values()) / len(outcomes) >= FLOOR[field], "\n".join(differing)


def test_a_refused_request_changes_nothing(outcomes: list[Outcome]) -> None:
    assert [outcome.record["id"] for outcome in outcomes if outcome.changed_by_refusal] == []


def test_there_is_something_to_compare(outcomes: list[Outcome]) -> None:
    assert len(outcomes) >= 300
    assert {outcome.accepted for outcome in outcomes} == {True, False}


async def replay(records: list[dict[str, Any]], state: dict[str, Any], folder: Path) -> list[Outcome]:
    found = []
    for version, flavour in FLAVOURS.items():
        labs = numbered_labs(flavour, state, folder / flavour)
        lab = next(labs)
        await lab.open()
        for record in records:
            if version not in record["pve"]:
                continue
            outcome = await ask(lab, record, version)
            found.append(outcome)
            if outcome.accepted:
                await lab.close(stop_guests=True)
                lab = next(labs)
                await lab.open()
        await lab.close(stop_guests=True)
    return found


def numbered_labs(flavour: str, state: dict[str, Any], folder: Path) -> Iterator[Lab]:
    number = 0
    while True:
        number += 1
        home = folder / str(number)
        options = LabOptions(home, pve=flavour, initial_state=state)
        yield Lab(options, SimulatedBackend(home / "guests"))


async def ask(lab: Lab, record: dict[str, Any], version: str) -> Outcome:
    before = lab.cluster.store.dump()
    try:
        await Dispatcher(lab).call(record["as"], record["method"], record["path"], arrays(record["params"]))
    except Refusal as refusal:
        changed = lab.cluster.store.dump() != before
        return Outcome(record, version, False, refusal.status, refusal.message, refusal.errors, changed)
    return Outcome(record, version, True, 200, "", None, False)


def arrays(params: dict[str, Any]) -> dict[str, Any]:
    """A single occurrence of an array parameter arrives as a list of one, as the server decodes it."""
    return {
        key: [value] if key in ("map", "command") and isinstance(value, str) else value for key, value in params.items()
    }
