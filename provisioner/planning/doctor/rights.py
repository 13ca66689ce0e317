"""The check on what the token may do: everything that `up`, `wake`, `sleep` and `destroy` will ask for; pure."""

from __future__ import annotations

from collections.abc import Iterable

from provisioner.planning.access import Right, missing_rights, needed_rights, rights_by_path
from provisioner.planning.doctor.facts import DoctorFacts
from provisioner.planning.host.steps import ok
from provisioner.planning.readiness import Check, CheckStatus


def token_may_do_its_work(facts: DoctorFacts) -> list[Check]:
    """A right that is missing is better found now than in the middle of `up`."""
    if facts.api is None:
        return []
    id_, why = "rights", "a command stops in the middle where Proxmox says no"
    release = facts.api.release or facts.host.pve
    if release is None:
        step = "run doctor again; if it stays so, look at the version under Datacenter > Summary"
        return [Check(id_, CheckStatus.UNKNOWN, "which version's rights are meant is unknown", why, step)]
    needed = [right for right in needed_rights(facts.fleet, facts.cluster, release.major) if _concerns(facts, right)]
    lacking = missing_rights(facts.api.permissions, (right for right in needed if not right.is_for_doctor_only))
    required = [right for right in lacking if not right.optional]
    who = facts.cluster.token_id
    if required:
        found = f"token {who} lacks {_text(required)}"
        verbs = ", ".join(dict.fromkeys(verb.value for right in required for verb in right.verbs))
        step = f"`provisioner prepare {facts.hypervisor.name} --only access` shows the steps and asks first; by hand: "
        step += f"give these to the token and to its user {who.partition('!')[0]} (Datacenter > Permissions > Add)"
        return [Check(id_, CheckStatus.FAIL, found, f"{why}; needed by: {verbs}", step)]
    left_out = f"; it can do without {_text(lacking)}" if lacking else ""
    return [ok(id_, f"token {who} may do all that nodes here need{left_out}", why)]


def _concerns(facts: DoctorFacts, right: Right) -> bool:
    """Leave out what only another hypervisor of the cluster needs."""
    if right.path.startswith("/nodes/"):
        return right.path == f"/nodes/{facts.hypervisor.name}"
    if right.path.startswith("/mapping/pci/"):
        return right.path.rpartition("/")[2] in {gpu.mapping for gpu in facts.hypervisor.gpus.values()}
    return True


def _text(rights: Iterable[Right]) -> str:
    return "; ".join(f"{' '.join(privileges)} on {path}" for path, privileges in rights_by_path(rights).items())
