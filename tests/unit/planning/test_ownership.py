"""May this be done to that VM? Every row is a VM as seen, an act, and the objection."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.names import HypervisorName, Vmid
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import RefusedError
from provisioner.planning.ownership import Act, Why, free_vmid, objection, require

OURS = VmSeen(Vmid(5001), "llm-gpu-01", HypervisorName("pve1"), Power.RUNNING, frozenset({TAG, "ml"}))
FOREIGN = replace(OURS, tags=frozenset({"family"}), name="nextcloud")
ANOTHERS = replace(OURS, name="llm-gpu-09")
MOVED = replace(OURS, hypervisor=HypervisorName("pve2"))
BEING_MADE = replace(OURS, name="", tags=frozenset(), lock="create")
EVERY = tuple(Act)


@dataclass(frozen=True)
class Row:
    vm: VmSeen | None
    acts: tuple[Act, ...]
    why: Why | None
    words: str = ""
    adopt: bool = False


ROWS = [
    Row(OURS, EVERY, None),
    Row(None, (Act.PROVISION, Act.SLEEP, Act.DESTROY), None),
    Row(None, (Act.WAKE,), Why.MISSING, "does not exist"),
    Row(FOREIGN, EVERY, Why.FOREIGN, 'vmid 5001 belongs to VM "nextcloud" on pve1 (tags: family), not ours'),
    Row(ANOTHERS, EVERY, Why.FOREIGN, "made for another node"),
    Row(replace(FOREIGN, hypervisor=HypervisorName("pve2")), EVERY, Why.FOREIGN, "on pve2"),
    Row(MOVED, EVERY, Why.ELSEWHERE, "its VM is on pve2, not on pve1"),
    Row(replace(OURS, lock="backup"), EVERY, Why.LOCKED, "its VM is locked (backup)"),
    Row(replace(OURS, lock="suspended"), (Act.WAKE,), None),
    Row(replace(OURS, lock="suspended"), (Act.PROVISION, Act.SLEEP, Act.DESTROY), Why.LOCKED, "locked (suspended)"),
    Row(BEING_MADE, (Act.PROVISION,), None),
    Row(BEING_MADE, (Act.WAKE, Act.SLEEP, Act.DESTROY), Why.LOCKED, "locked (create)"),
    # Whose it is cannot be told yet, and it is not being made where the node should be.
    Row(replace(BEING_MADE, hypervisor=HypervisorName("pve2")), EVERY, Why.LOCKED, "locked (create)"),
    Row(FOREIGN, (Act.PROVISION, Act.WAKE, Act.SLEEP), None, adopt=True),
    Row(OURS, (Act.DESTROY,), Why.ADOPTED, "adopted", adopt=True),
    Row(FOREIGN, (Act.DESTROY,), Why.ADOPTED, "adopted", adopt=True),
    Row(None, (Act.DESTROY,), Why.ADOPTED, "adopted", adopt=True),
    Row(None, (Act.PROVISION, Act.WAKE, Act.SLEEP), Why.MISSING, "no VM 5001 to adopt", adopt=True),
    Row(MOVED, (Act.PROVISION, Act.WAKE, Act.SLEEP), Why.ELSEWHERE, "on pve2", adopt=True),
    Row(BEING_MADE, (Act.PROVISION, Act.WAKE, Act.SLEEP), Why.LOCKED, "locked (create)", adopt=True),
    # Adopting names one VMID; another VM gains nothing by it.
    Row(replace(FOREIGN, vmid=Vmid(200)), (Act.PROVISION, Act.WAKE, Act.SLEEP), Why.FOREIGN, "vmid 200", adopt=True),
]
CASES = [(row, act) for row in ROWS for act in row.acts]


@pytest.mark.parametrize(("row", "act"), CASES)
def test_every_act_on_every_vm_gets_one_answer(node: NodeSpec, row: Row, act: Act) -> None:
    found = objection(replace(node, adopt=row.adopt), row.vm, act)
    assert (found.why if found else None) is row.why
    if found is not None:
        assert row.words in found.reason
        assert found.next_step
        with pytest.raises(RefusedError, match=f"^cannot {act.value}: "):
            require(replace(node, adopt=row.adopt), row.vm, act)


def test_only_a_lock_passes_by_itself(node: NodeSpec) -> None:
    kinds = {(found.why, found.retryable) for row, act in CASES if (found := objection(node, row.vm, act))}
    assert {why for why, retryable in kinds if retryable} == {Why.LOCKED}


@pytest.mark.parametrize("act", [Act.PROVISION, Act.SLEEP, Act.DESTROY])
def test_a_vm_that_was_put_to_disk_is_to_be_woken_never_unlocked(node: NodeSpec, act: Act) -> None:
    vm = VmSeen(node.vmid, node.name, node.hypervisor, Power.STOPPED, frozenset({TAG}), lock="suspended")
    found = objection(node, vm, act)
    assert found is not None
    assert "provisioner wake" in found.next_step
    assert "unlock" not in found.next_step
    assert objection(node, vm, Act.WAKE) is None


@pytest.mark.parametrize(("halt", "words"), [("paused", "somebody paused it"), ("io-error", "free some")])
def test_a_vm_that_stands_still_is_named_before_its_guest_is_waited_for(node: NodeSpec, halt: str, words: str) -> None:
    vm = VmSeen(node.vmid, node.name, node.hypervisor, Power.RUNNING, frozenset({TAG}), halt=halt)
    for act in (Act.PROVISION, Act.WAKE):
        found = objection(node, vm, act)
        assert found is not None
        assert found.why is Why.HALTED
        assert words in found.next_step
    assert objection(node, vm, Act.DESTROY) is None


def test_a_free_vmid_is_found_behind_the_taken_ones(node: NodeSpec) -> None:
    taken = {Vmid(5001): FOREIGN, Vmid(5002): FOREIGN}
    assert free_vmid(node, taken) == 5003
    assert free_vmid(node, {}) == node.vmid


def test_a_vmid_that_another_node_is_to_get_is_not_free(node: NodeSpec) -> None:
    assert free_vmid(node, {Vmid(5001): FOREIGN}, wanted=[Vmid(5001), Vmid(5002)]) == 5003
