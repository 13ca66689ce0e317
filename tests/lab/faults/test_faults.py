"""Every failure ends in a named diagnosis and a safe state, and once the fault is gone the next run succeeds."""

from __future__ import annotations

import pytest

from provisioner.services.fleet_view import NodeState
from tests.lab.faults.bench import Case, Yard
from tests.lab.faults.cases import CASES
from tests.lab.faults.conftest import Yards
from tests.lab.support import NODE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_is_named_and_safe_and_recovered_from(case: Case, yards: Yards, table: list[dict[str, object]]) -> None:
    yard = yards.take()
    yard.bring(case.given)
    row: dict[str, object] = {
        "fault": f"{case.fault} ({case.verb})",
        "diagnosis": "",
        "end_state": "",
        "recovered": False,
    }
    table.append(row)
    row["diagnosis"] = strike(case, yard)
    yard.rest()
    yard.assert_safe()
    assert case.left in (None, yard.power())
    case.ends(yard)
    row["end_state"] = yard.end_state()
    yard.lab.faults.clear()
    case.mend(yard)
    yard.mark()
    assert yard.patient.up(NODE).reply
    assert yard.state() is NodeState.SERVING
    yard.rest()
    yard.assert_safe()
    row["recovered"] = True
    yards.give_back(yard)


def strike(case: Case, yard: Yard) -> str:
    """Run the verb into the fault; return what it says of it."""
    fleet = yard.fleet(**case.times)
    if not case.is_first_contact:
        fleet.status()
    yard.mark()
    for rule in case.rules:
        yard.lab.faults.add(**rule)
    case.before(yard)
    if case.error is None:
        result = yard.run(case.verb, fleet)
        said = f"{result}\n{yard.told()}"
        for words in case.says:
            assert words in said
        return result if case.verb in ("idle", "plan", "status") else f"borne: {result}"
    with pytest.raises(case.error) as caught:
        yard.run(case.verb, fleet)
    error = caught.value
    assert type(error) is case.error
    assert error.summary.startswith("cannot ")
    for words in case.says:
        assert words in error.summary
    for words in case.then:
        assert words in error.next_step
    assert not any(secret in str(error) for secret in yard.lab.credentials.values())
    return f"{type(error).__name__}: {error.summary.splitlines()[0]}; next: {error.next_step}"


def test_the_table_is_long_enough_and_says_each_thing_once() -> None:
    assert len(CASES) >= 60
    assert len({str(case) for case in CASES}) == len(CASES)
    named = [case for case in CASES if case.error is not None]
    assert all(case.says and case.then for case in named), "a diagnosis without words cannot be wrong"
