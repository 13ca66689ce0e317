"""The cluster: quorum, servers and storages away, clocks that jump, high availability."""

from __future__ import annotations

from collections.abc import Callable

from provisioner.errors import HypervisorError, RefusedError, TaskOverdueError, UnreachableError
from tests.lab.faults.bench import Case, Yard
from tests.lab.faults.cases_api import CREATE, HASTY, START


def befall(name: str, **arguments: object) -> Callable[[Yard], None]:
    return lambda yard: yard.lab.befall(name, **arguments)


def no_quorum(method: str, path: str) -> list[dict[str, object]]:
    return [{"method": method, "path": path, "happens": "quorum_lost", "times": 1}]


OFFLINE = {"happens": "node_offline", "times": 1}

CASES = (
    *(
        Case(
            f"the cluster loses its quorum before the {what}",
            verb,
            given,
            rules=no_quorum(method, path),
            times=HASTY,
            error=HypervisorError,
            says=[words],
            then=["most servers of the cluster are out of sight", "pvecm status"],
            left=left,
            mend=befall("quorum_back"),
        )
        for verb, given, what, method, path, words, left in (
            ("up", "absent", "creation", "POST", CREATE, "cluster not ready - no quorum?", "absent"),
            ("up", "absent", "disk growth", "PUT", "/resize$", "Permission denied", "stopped"),
            ("wake", "asleep", "start", "POST", START, "cluster not ready - no quorum?", "stopped"),
            ("destroy", "asleep", "deletion", "DELETE", "/qemu/5001$", "Permission denied", "stopped"),
        )
    ),
    Case(
        "the cluster has no quorum, which a shutdown does not need",
        "sleep",
        "awake",
        before=befall("quorum_lost"),
        left="stopped",
        mend=befall("quorum_back"),
    ),
    Case(
        "the server is away",
        "up",
        before=befall("node_offline"),
        error=RefusedError,
        says=["pve1 is offline"],
        then=["start the server"],
        left="absent",
        mend=befall("node_online"),
    ),
    Case(
        "the server goes away while the VM is being made",
        "up",
        rules=[{"method": "POST", "path": CREATE, **OFFLINE}],
        times=HASTY,
        error=UnreachableError,
        says=["hypervisor pve1 did not answer (595 No route to host)"],
        then=["see whether hypervisor pve1 is up"],
        left="absent",
        mend=befall("node_online"),
    ),
    Case(
        "the server is away",
        "wake",
        "asleep",
        before=befall("node_offline"),
        times=HASTY,
        error=UnreachableError,
        says=["hypervisor pve1 did not answer"],
        then=["see whether hypervisor pve1 is up"],
        left="stopped",
        mend=befall("node_online"),
    ),
    Case(
        "the server goes away while the node shuts down",
        "sleep",
        "awake",
        rules=[{"method": "POST", "path": "/status/shutdown$", **OFFLINE}],
        times=HASTY,
        error=UnreachableError,
        says=["hypervisor pve1 did not answer"],
        then=["it looks first"],
        left="running",
        mend=befall("node_online"),
    ),
    Case(
        "the server is away",
        "destroy",
        "asleep",
        before=befall("node_offline"),
        times=HASTY,
        error=UnreachableError,
        says=["hypervisor pve1 did not answer"],
        then=["see whether hypervisor pve1 is up"],
        left="stopped",
        mend=befall("node_online"),
    ),
    Case(
        "the server is away",
        "status",
        "awake",
        before=befall("node_offline"),
        says=["llm-gpu-01 unknown", "pve1 has not reported for a while"],
        left="running",
        mend=befall("node_online"),
    ),
    Case(
        "the server is away",
        "idle",
        "awake",
        before=befall("node_offline"),
        times=HASTY,
        says=["llm-gpu-01: stay", "whether its VM runs is unknown"],
        left="running",
        mend=befall("node_online"),
    ),
    Case(
        "the API says nothing",
        "status",
        "awake",
        rules=[{"says": "no_route"}],
        times=HASTY,
        says=["llm-gpu-01 unknown", "cannot look at the cluster", "595 No route to host"],
        left="running",
    ),
    Case(
        "the server is away for a moment",
        "wake",
        "asleep",
        before=befall("node_offline"),
        rules=[{"method": "GET", "path": "/qemu/5001/", "skip": 2, "happens": "node_online", "times": 1}],
        left="running",
    ),
    Case(
        "the disk storage is away",
        "up",
        before=befall("storage_offline", storage="local-lvm"),
        error=RefusedError,
        says=['storage "local-lvm" is not available'],
        then=["enable or mount it"],
        left="absent",
        mend=befall("storage_online", storage="local-lvm"),
    ),
    Case(
        "the disk storage goes away before the creation",
        "up",
        rules=[
            {"method": "POST", "path": CREATE, "happens": {"storage_offline": {"storage": "local-lvm"}}, "times": 1}
        ],
        error=HypervisorError,
        says=["storage 'local-lvm' is not online"],
        then=["storage local-lvm does not answer"],
        left="absent",
        mend=befall("storage_online", storage="local-lvm"),
    ),
    Case(
        "the ISO storage is away",
        "wake",
        "asleep",
        before=befall("storage_offline", storage="local"),
        error=HypervisorError,
        says=["storage 'local' is not online"],
        then=["storage local does not answer"],
        left="stopped",
        mend=befall("storage_online", storage="local"),
    ),
    Case(
        "the ISO storage goes away before the seed is sealed",
        "up",
        rules=[
            {
                "method": "POST",
                "path": "/upload$",
                "skip": 1,
                "happens": {"storage_offline": {"storage": "local"}},
                "times": 1,
            }
        ],
        error=HypervisorError,
        says=["storage 'local' is not online"],
        then=["storage local does not answer"],
        left="running",
        mend=befall("storage_online", storage="local"),
    ),
    *(
        Case(
            f"the server's clock jumps {words}",
            verb,
            given,
            rules=[{"method": "POST", "happens": {"clock_jumps": {"seconds": seconds}}, "times": 1}],
            left="running",
            mend=befall("clock_jumps", seconds=-seconds),
        )
        for verb, given, words, seconds in (
            ("up", "absent", "a day ahead", 86400),
            ("wake", "asleep", "a day back", -86400),
        )
    ),
    Case(
        "the VM came under high availability",
        "wake",
        "asleep",
        before=befall("ha_managed", vmid=5001),
        says=["the VM is managed by high availability"],
        left="running",
        mend=befall("ha_released", vmid=5001),
    ),
    Case(
        "the VM came under high availability",
        "sleep",
        "awake",
        before=befall("ha_managed", vmid=5001),
        says=["the VM is managed by high availability"],
        left="stopped",
        mend=befall("ha_released", vmid=5001),
    ),
    Case(
        "high availability has given the VM up",
        "up",
        "asleep",
        before=befall("ha_managed", vmid=5001, state="error"),
        error=HypervisorError,
        says=["managed by high availability, which has given it up"],
        then=["Datacenter > HA", "take the VM out of HA"],
        left="stopped",
        mend=befall("ha_released", vmid=5001),
    ),
    Case(
        "high availability takes the request and does nothing",
        "up",
        "asleep",
        before=befall("ha_managed", vmid=5001, acts=0),
        times={"task_within": "3s"},
        error=TaskOverdueError,
        says=["managed by high availability, which took the request but has not carried it out after 3 s"],
        then=["Datacenter > HA"],
        left="stopped",
        mend=befall("ha_released", vmid=5001),
    ),
)
