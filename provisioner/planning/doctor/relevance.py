"""What a finding about the hardware means to this fleet: a card that nobody uses fails nobody; pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from provisioner.planning.readiness import Check, CheckStatus

# Checks about one GPU carry its address; those about a model (`ids_binding_10de:2204`) do not.
_ABOUT_A_GPU = re.compile(r"_([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])$")


def for_this_fleet(checks: Sequence[Check], *, used: Collection[str] | None, has_gpus: bool) -> Iterator[Check]:
    """Yield host checks as they concern a fleet.

    Args:
        checks: on the hypervisor itself.
        used: addresses of the GPUs that the fleet uses; None when that is not known, and all may be.
        has_gpus: the fleet file names GPUs of this hypervisor. Until it does nothing must be mended.
    """
    for check in checks:
        match = _ABOUT_A_GPU.search(check.id)
        if has_gpus and match is not None and used is not None and match[1] not in used:
            if check.status is CheckStatus.UNKNOWN:
                continue
            note = "" if check.status is CheckStatus.OK else "; no node uses this card"
            yield Check(check.id, CheckStatus.OK, f"{check.found}{note}", check.why, "")
        elif not has_gpus and check.status is CheckStatus.FAIL:
            yield replace(check, status=CheckStatus.WARN)
        else:
            yield check
