"""Tasks: those that fail, hang, warn, die without a word, vanish; storages that are full or wrong."""

from __future__ import annotations

from provisioner.errors import (
    HypervisorError,
    OutcomeUnknownError,
    ShutdownIgnoredError,
    StorageFullError,
    TaskOverdueError,
)
from tests.lab.faults.bench import Case, Yard
from tests.lab.faults.cases_api import CREATE, HASTY, START, UPLOAD, made_once, started_once

BRIEF = {"task_within": "3s"}


def no_image(yard: Yard) -> None:
    """Take the cloud image off the storage, so that it is fetched anew."""
    storage = yard.lab.lab.cluster.storages["local"]
    for entry in yard.lab.lab.storages.content(storage):
        if entry.content == "import":
            yard.lab.befall("volume_deleted", volume=entry.volid)


def hide_image(yard: Yard) -> None:
    """Let the publisher lose its file."""
    no_image(yard)
    path = yard.site.material.image.path
    path.rename(path.with_suffix(".hidden"))


def show_image(yard: Yard) -> None:
    path = yard.site.material.image.path
    path.with_suffix(".hidden").rename(path)


def other_image(yard: Yard) -> None:
    """Let the publisher change its file."""
    no_image(yard)
    path = yard.site.material.image.path
    path.with_suffix(".right").write_bytes(path.read_bytes())
    path.write_bytes(b"another image")


def right_image(yard: Yard) -> None:
    path = yard.site.material.image.path
    path.with_suffix(".right").replace(path)


def abort_all(yard: Yard) -> None:
    """Stop what hangs, as an admin would."""
    for record in list(yard.lab.lab.cluster.tasks.values()):
        if record.exitstatus is None:
            yard.lab.call("DELETE", f"/nodes/pve1/tasks/{record.upid}")


def root_removes(yard: Yard) -> None:
    """Do on the server what the next step says."""
    yard.lab.finish(yard.lab.call("DELETE", "/nodes/pve1/qemu/5001", skiplock="1"))


def full(storage: str, free: int = 0) -> dict[str, object]:
    return {"storage_full": {"storage": storage, "free": free}}


def emptied(storage: str) -> object:
    return lambda yard: yard.lab.befall("storage_emptied", storage=storage)


def task_is_gone(yard: Yard) -> None:
    assert yard.tasks("qmcreate") == []


CASES = (
    Case(
        "the thin pool is full when the VM is created",
        "up",
        rules=[{"method": "POST", "path": CREATE, "happens": full("local-lvm"), "times": 1}],
        error=StorageFullError,
        says=["cannot create VM 5001", "reached threshold"],
        then=["free space on that storage"],
        left="absent",
        mend=emptied("local-lvm"),
    ),
    Case(
        "LVM refuses a new thin volume",
        "up",
        rules=[{"task": "qmcreate", "says": "storage_full", "times": 1}],
        error=StorageFullError,
        says=["reached threshold"],
        then=["free space on that storage"],
        left="absent",
    ),
    Case(
        "the disk cannot be grown",
        "up",
        rules=[{"task": "resize", "fails": "No space left on device", "times": 1}],
        error=StorageFullError,
        says=["cannot grow the disk of VM 5001 to 3G"],
        then=["free space on that storage"],
        left="stopped",
        ends=made_once,
    ),
    Case(
        "the ISO storage is full",
        "up",
        rules=[{"method": "POST", "path": UPLOAD, "happens": full("local"), "times": 1}],
        error=StorageFullError,
        says=["cannot upload llm-gpu-01-5001-", "No space left on device"],
        then=["free space on that storage"],
        left="absent",
        mend=emptied("local"),
    ),
    Case(
        "the image storage is full",
        "up",
        before=no_image,
        rules=[{"method": "POST", "path": "/download-url$", "happens": full("local", 100), "times": 1}],
        error=StorageFullError,
        says=['cannot download image "lab"', "No space left on device"],
        then=["free space on that storage"],
        left="absent",
        mend=emptied("local"),
    ),
    Case(
        "the image is another one than was pinned",
        "up",
        before=other_image,
        error=HypervisorError,
        says=['cannot download image "lab"', "checksum mismatch"],
        then=["url and sha256 under images"],
        left="absent",
        mend=right_image,
    ),
    Case(
        "the image is not there",
        "up",
        before=hide_image,
        error=HypervisorError,
        says=["download failed", "404"],
        then=["able to fetch the image's URL"],
        left="absent",
        mend=show_image,
    ),
    *(
        Case(
            f"the connection breaks {when} the download is taken",
            "up",
            before=no_image,
            rules=[{"method": "POST", "path": "/download-url$", "drop": when, "times": 1}],
            left="running",
        )
        for when in ("before", "after")
    ),
    Case(
        "the creation hangs",
        "up",
        rules=[{"task": "qmcreate", "hangs": True, "times": 1}],
        times=BRIEF,
        error=TaskOverdueError,
        says=["cannot create VM 5001: the task still runs after 3 s"],
        then=["stop it if it hangs (Proxmox > Tasks)"],
        mend=abort_all,
    ),
    Case(
        "the start hangs",
        "up",
        rules=[{"task": "qmstart", "hangs": True, "times": 1}],
        times=BRIEF,
        error=TaskOverdueError,
        says=["cannot start VM 5001: the task still runs after 3 s"],
        then=["stop it if it hangs"],
        left="stopped",
        mend=abort_all,
    ),
    Case(
        "the start hangs",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "hangs": True, "times": 1}],
        times={"boot_within": "2s", "engine_within": "2s", "task_within": "1s"},
        error=TaskOverdueError,
        says=["cannot start VM 5001: the task still runs after 5 s"],
        then=["stop it if it hangs"],
        left="stopped",
        mend=abort_all,
    ),
    Case(
        "neither the agent nor QEMU hears of the shutdown",
        "sleep",
        "awake",
        rules=[{"task": "qmshutdown", "says": "shutdown_unheard", "times": 1}],
        error=ShutdownIgnoredError,
        says=["VM quit/powerdown failed"],
        then=["provisioner sleep llm-gpu-01 --force cuts the power"],
        left="running",
    ),
    Case(
        "neither the agent nor QEMU hears of the shutdown",
        "sleep --force",
        "awake",
        rules=[{"task": "qmshutdown", "says": "shutdown_unheard", "times": 1}],
        says=["power cut"],
        left="stopped",
    ),
    Case(
        "the shutdown hangs",
        "sleep",
        "awake",
        rules=[{"task": "qmshutdown", "hangs": True, "times": 1}],
        times=BRIEF,
        error=ShutdownIgnoredError,
        says=["cannot shut down VM 5001: the task still runs after 3 s"],
        then=["provisioner sleep llm-gpu-01 --force cuts the power"],
        left="running",
        mend=abort_all,
    ),
    Case(
        "the shutdown hangs",
        "sleep --force",
        "awake",
        rules=[{"task": "qmshutdown", "hangs": True, "times": 1}],
        times=BRIEF,
        says=["power cut"],
        left="stopped",
    ),
    Case(
        "the deletion hangs",
        "destroy",
        "asleep",
        rules=[{"task": "qmdestroy", "hangs": True, "times": 1}],
        times=BRIEF,
        error=TaskOverdueError,
        says=["cannot delete VM 5001: the task still runs after 3 s"],
        then=["stop it if it hangs"],
        left="stopped",
        mend=abort_all,
    ),
    Case(
        "the creation ends in a warning",
        "up",
        rules=[{"task": "qmcreate", "warns": "no efidisk configured! Using temporary efivars disk.", "times": 1}],
        says=["Proxmox warns: no efidisk configured!"],
        left="running",
        ends=made_once,
    ),
    Case(
        "the start ends in a warning",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "warns": ["the VM uses more memory than is free"], "times": 1}],
        says=["Proxmox warns: the VM uses more memory than is free"],
        left="running",
    ),
    Case(
        "the shutdown ends in a warning",
        "sleep",
        "awake",
        rules=[{"task": "qmshutdown", "warns": "TPM state not written", "times": 1}],
        says=["Proxmox warns: TPM state not written"],
        left="stopped",
    ),
    Case(
        "the creation's worker dies after its work",
        "up",
        rules=[{"task": "qmcreate", "ends": "unexpected status", "work": "done", "times": 1}],
        left="running",
        ends=made_once,
    ),
    Case(
        "the start's worker dies before its work",
        "up",
        rules=[{"task": "qmstart", "ends": "unexpected status", "times": 1}],
        left="running",
    ),
    Case(
        "every start's worker dies",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "ends": "unexpected status"}],
        times=HASTY,
        error=OutcomeUnknownError,
        says=["cannot tell whether Proxmox did start VM 5001", "unexpected status"],
        then=["whether the server was restarted", "it looks first"],
        left="stopped",
    ),
    Case(
        "the log of the shutdown's task is lost",
        "sleep",
        "awake",
        rules=[
            {
                "task": "qmshutdown",
                "ends": "unable to get last line from task log - No such file or directory",
                "work": "done",
                "times": 1,
            }
        ],
        left="stopped",
    ),
    Case(
        "the creation's task vanishes when it has ended",
        "up",
        rules=[{"task": "qmcreate", "vanishes": True, "times": 1}],
        left="running",
    ),
    Case(
        "the start's task vanishes when it has ended",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "vanishes": True, "times": 1}],
        left="running",
    ),
    Case(
        "the deletion's task vanishes when it has ended",
        "destroy",
        "asleep",
        rules=[{"task": "qmdestroy", "vanishes": True, "times": 1}],
        left="absent",
    ),
    Case(
        "somebody stops the creation",
        "up",
        rules=[{"task": "qmcreate", "says": "interrupted", "times": 1}],
        error=HypervisorError,
        says=["cannot create VM 5001", "interrupted by signal"],
        then=["it looks first"],
        left="absent",
    ),
    Case(
        "the creation's worker is killed half way",
        "up",
        rules=[{"task": "qmcreate", "delay": 0.05, "happens": "workers_killed", "times": 1}],
        times=HASTY,
        error=HypervisorError,
        says=["VM 5001 is locked (create)", "its creation died on the way"],
        then=["qm unlock 5001", "provisioner up llm-gpu-01"],
        left="stopped",
        mend=root_removes,
    ),
    Case(
        "the start runs out of time though the VM runs",
        "up",
        rules=[{"task": "qmstart", "says": "start_timeout", "work": "done", "times": 1}],
        says=["cannot start VM 5001", "got timeout; looked: it is as it should be all the same"],
        left="running",
    ),
    Case(
        "the start runs out of time",
        "up",
        rules=[{"task": "qmstart", "says": "start_timeout", "times": 1}],
        error=HypervisorError,
        says=["cannot start VM 5001", "got timeout"],
        then=["needed longer than Proxmox gives it"],
        left="stopped",
    ),
    Case(
        "QEMU refuses to start",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "says": "qemu_refused", "times": 1}],
        error=HypervisorError,
        says=["QEMU exited with code 1"],
        then=["the task's log says why"],
        left="stopped",
    ),
    Case(
        "the server has too little memory",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "says": "no_memory", "times": 1}],
        error=HypervisorError,
        says=["Cannot allocate memory"],
        then=["too little free memory"],
        left="stopped",
    ),
    Case(
        "the server has fewer threads than the VM has cores",
        "up",
        rules=[{"task": "qmstart", "says": "too_many_cpus", "times": 1}],
        error=HypervisorError,
        says=["MAX 8 vcpus allowed"],
        then=["lower cores in the fleet file"],
        left="stopped",
    ),
)
__all__ = ["CASES", "START", "abort_all", "started_once"]
