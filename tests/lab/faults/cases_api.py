"""The way to Proxmox: silence, cut connections, strange answers, logins, rights."""

from __future__ import annotations

import time
import urllib.error

from provisioner.errors import (
    HypervisorError,
    LoginRefusedError,
    PermissionMissingError,
    UnreachableError,
    UntrustedError,
)
from provisioner.lab.initial import PROVISIONER_TOKEN
from provisioner.lab.model import Token
from tests.lab.faults.bench import Case, Yard

CREATE, START, UPLOAD = "^/nodes/pve1/qemu$", "/status/start$", "/upload$"
HASTY = {"retry_for": "3s"}


def made_once(yard: Yard) -> None:
    assert len(yard.done("qmcreate")) == 1


def started_once(yard: Yard) -> None:
    assert len(yard.done("qmstart")) == 1
    assert yard.count("POST", START) == 1


def secret_file(yard: Yard, secret: str) -> None:
    yard.site.fleet_file.with_suffix(".secret").write_text(secret)


def rotate(yard: Yard) -> None:
    yard.lab.befall("token_rotated")


def rotate_and_tell(yard: Yard) -> None:
    rotate(yard)
    write_secret(yard)


def write_secret(yard: Yard) -> None:
    secret_file(yard, yard.lab.token())


def issue_token(yard: Yard) -> None:
    yard.lab.lab.cluster.tokens.save(PROVISIONER_TOKEN, Token(PROVISIONER_TOKEN, "a-new-secret"))
    write_secret(yard)


def expire(yard: Yard) -> None:
    token = yard.lab.lab.cluster.tokens[PROVISIONER_TOKEN]
    token.expire = int(time.time()) + 3600


def unexpire(yard: Yard) -> None:
    yard.lab.lab.cluster.tokens[PROVISIONER_TOKEN].expire = 0
    yard.lab.befall("clock_jumps", seconds=-7200)


def api_back(yard: Yard) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            yard.lab.get("/version")
        except (urllib.error.URLError, OSError):
            continue
        return
    raise AssertionError("the API never came back")


def first_certificate(yard: Yard) -> None:
    yard.lab.run(yard.lab.served.show_first_certificate())


def grant(*, role: str, privilege: str) -> object:
    def give_back(yard: Yard) -> None:
        found = yard.lab.lab.cluster.roles[role]
        found.privileges = [*found.privileges, privilege]
        yard.lab.lab.cluster.roles.save(role, found)
        yard.lab.lab.access.changed()

    return give_back


def lost(path: str, method: str, when: str) -> dict[str, object]:
    return {"method": method, "path": path, "drop": when, "times": 1}


LOST = (
    ("up", "absent", "create", "POST", CREATE),
    ("up", "absent", "start", "POST", START),
    ("up", "absent", "seed upload", "POST", UPLOAD),
    ("up", "absent", "disk growth", "PUT", "/resize$"),
    ("up", "absent", "notes", "PUT", "/qemu/5001/config$"),
    ("up", "absent", "look at a task", "GET", "/tasks/[^/]+/status$"),
    ("wake", "asleep", "start", "POST", START),
    ("sleep", "awake", "shutdown", "POST", "/status/shutdown$"),
    ("destroy", "awake", "power cut", "POST", "/status/stop$"),
    ("destroy", "asleep", "deletion", "DELETE", "^/nodes/pve1/qemu/5001$"),
    ("destroy", "asleep", "deletion of the seed", "DELETE", "/content/local:iso/"),
)
LEFT = {"up": "running", "wake": "running", "sleep": "stopped", "destroy": "absent"}
ENDS = {"create": made_once}

CASES = (
    *(
        Case(
            f"the connection breaks {when} the {what} is taken",
            verb,
            given,
            rules=[lost(path, method, when)],
            left=LEFT[verb],
            ends=ENDS.get(what, lambda yard: None),
        )
        for verb, given, what, method, path in LOST
        for when in ("before", "after")
    ),
    Case(
        "596 though the VM is being created",
        "up",
        rules=[{"method": "POST", "path": CREATE, "says": "out_of_time", "work": "done", "times": 1}],
        left="running",
        ends=made_once,
    ),
    Case(
        "599 though the VM is being started",
        "wake",
        "asleep",
        rules=[{"method": "POST", "path": START, "says": "too_many_redirections", "work": "done", "times": 1}],
        left="running",
        ends=started_once,
    ),
    Case(
        "596 at every creation",
        "up",
        rules=[{"method": "POST", "path": CREATE, "says": "connection_lost"}],
        times=HASTY,
        error=UnreachableError,
        says=["cannot create VM 5001", "hypervisor pve1 did not answer (596 Broken pipe)"],
        then=["see whether hypervisor pve1 is up", "it looks first"],
        left="absent",
    ),
    Case(
        "595 twice at every look",
        "up",
        rules=[{"method": "GET", "says": "no_route", "times": 2}],
        left="running",
    ),
    Case(
        "a web proxy in front says 502",
        "plan",
        rules=[{"says": "bad_gateway"}],
        times=HASTY,
        error=UnreachableError,
        says=["the server behind the API did not answer (502 Bad Gateway)"],
        then=["is up"],
        left="absent",
    ),
    Case(
        "a web proxy in front says 503",
        "wake",
        "asleep",
        rules=[{"says": "overloaded"}],
        times=HASTY,
        error=UnreachableError,
        says=["503 Service Unavailable"],
        then=["see whether"],
        left="stopped",
    ),
    Case(
        "another service answers with a web page",
        "up",
        rules=[{"answers": "html", "work": "undone"}],
        times=HASTY,
        error=UnreachableError,
        says=["it is not Proxmox's JSON"],
        then=["clusters.lab.api", "another service"],
        left="absent",
    ),
    Case(
        "answers that end in the middle",
        "up",
        rules=[{"method": "GET", "answers": "truncated", "times": 2}],
        left="running",
    ),
    Case(
        "the answer to the creation does not name its task",
        "up",
        rules=[{"method": "POST", "path": CREATE, "answers": "nothing", "times": 1}],
        left="running",
        ends=made_once,
    ),
    Case(
        "the answer to the start is garbage",
        "wake",
        "asleep",
        rules=[{"method": "POST", "path": START, "answers": "garbage", "times": 1}],
        left="running",
        ends=started_once,
    ),
    Case(
        "every look takes longer than we wait",
        "wake",
        "asleep",
        rules=[{"method": "GET", "path": "/status/current$", "delay": 1.0}],
        times={**HASTY, "answer_within": "0.2s"},
        error=UnreachableError,
        says=["Proxmox took longer than 0.2 s to answer"],
        then=["clusters.lab.answer_within"],
        left="stopped",
    ),
    Case(
        "the creation is taken long after we have given up on its answer",
        "up",
        rules=[{"method": "POST", "path": CREATE, "delay": 0.9, "times": 1}],
        times={"answer_within": "0.3s"},
        left="running",
        ends=made_once,
    ),
    Case(
        "answers that come now and then very late",
        "up",
        rules=[{"delay": {"lognormal": {"median": 0.002, "sigma": 2.0}}}],
        left="running",
    ),
    Case(
        "a request beyond the body limit",
        "up",
        rules=[{"method": "POST", "path": CREATE, "says": "too_large"}],
        error=HypervisorError,
        says=["cannot create VM 5001", "for data too large"],
        then=["512 KiB", "notes"],
        left="absent",
    ),
    Case(
        "nothing listens at the address",
        "up",
        before=lambda yard: yard.lab.befall("api_restarts", seconds=0.5),
        is_first_contact=True,
        error=UnreachableError,
        says=["cannot reach Proxmox", "refused"],
        then=["clusters.lab.api is its address"],
        left="absent",
        mend=api_back,
    ),
    Case(
        "the API restarts while the VM is being made",
        "up",
        rules=[{"method": "POST", "path": CREATE, "happens": {"api_restarts": {"seconds": 0.3}}, "times": 1}],
        left="running",
        ends=made_once,
    ),
    Case(
        "the API restarts while the node wakes",
        "wake",
        "asleep",
        rules=[{"method": "POST", "path": START, "happens": {"api_restarts": {"seconds": 0.3}}, "times": 1}],
        left="running",
    ),
    Case(
        "the API restarts and stays away",
        "sleep",
        "awake",
        rules=[{"method": "GET", "happens": {"api_restarts": {"seconds": 1.0}}, "times": 1}],
        times=HASTY,
        error=UnreachableError,
        says=["cannot reach Proxmox"],
        then=["check that the server is up"],
        left="running",
        mend=api_back,
    ),
    Case(
        "the server shows another certificate from one moment to the next",
        "up",
        rules=[{"method": "POST", "path": CREATE, "happens": "certificate_renewed", "times": 1}],
        error=UntrustedError,
        says=["its certificate is", "the fleet file pins"],
        then=["pvenode cert info", "clusters.lab.tls.fingerprint"],
        left="absent",
        mend=first_certificate,
    ),
    Case(
        "the token was rotated, and its file holds the new secret",
        "up",
        before=rotate_and_tell,
        left="running",
    ),
    Case(
        "the token is rotated while the node wakes, and nobody tells us",
        "wake",
        "asleep",
        rules=[{"method": "POST", "path": START, "happens": "token_rotated", "times": 1}],
        error=LoginRefusedError,
        says=["does not accept token provisioner@pve!fleet", "invalid token value"],
        then=["clusters.lab.token", "rotated token"],
        left="stopped",
        mend=write_secret,
    ),
    Case(
        "the token is revoked while the VM is being made",
        "up",
        rules=[{"method": "PUT", "path": "/resize$", "happens": "token_revoked", "times": 1}],
        error=LoginRefusedError,
        says=["does not accept token provisioner@pve!fleet", "no such token"],
        then=["clusters.lab.token"],
        left="stopped",
        mend=issue_token,
    ),
    Case(
        "the server's clock jumps past the token's end",
        "up",
        before=expire,
        rules=[{"method": "POST", "path": START, "happens": {"clock_jumps": {"seconds": 7200}}, "times": 1}],
        error=LoginRefusedError,
        says=["token expired"],
        then=["clusters.lab.token"],
        left="stopped",
        mend=unexpire,
    ),
    *(
        Case(
            f"the token loses {privilege} on the way",
            verb,
            given,
            rules=[
                {"method": method, "path": path, "happens": {"privilege_lost": {"privilege": privilege}}, "times": 1}
            ],
            error=PermissionMissingError,
            says=["Permission check failed", privilege],
            then=["Datacenter > Permissions"],
            left=left,
            mend=grant(role=role, privilege=privilege),
        )
        for privilege, role, verb, given, method, path, left in (
            ("VM.PowerMgmt", "ProvisionerVM", "up", "absent", "POST", START, "stopped"),
            ("VM.PowerMgmt", "ProvisionerVM", "wake", "asleep", "POST", START, "stopped"),
            ("VM.PowerMgmt", "ProvisionerVM", "sleep", "awake", "POST", "/status/shutdown$", "running"),
            ("VM.Config.HWType", "ProvisionerVM", "up", "absent", "POST", CREATE, "absent"),
            ("VM.Config.Disk", "ProvisionerVM", "up", "absent", "PUT", "/resize$", "stopped"),
            ("Mapping.Use", "ProvisionerGpu", "up", "absent", "POST", CREATE, "absent"),
            ("Datastore.AllocateTemplate", "ProvisionerImages", "up", "absent", "POST", UPLOAD, "absent"),
        )
    ),
)
