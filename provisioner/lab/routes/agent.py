"""The guest agent: plain commands, and programs run inside the guest."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from provisioner.lab.guests.base import AgentRefused, AgentSilent
from provisioner.lab.refusals import failed
from provisioner.lab.routes.registry import Call, Handler, serves
from provisioner.lab.schema.endpoints_qemu import AGENT_COMMANDS

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

# What Proxmox reads at most, and at once (qemu-server, API2/Qemu/Agent.pm).
_MOST_BYTES = 16 << 20
_PART_BYTES = 1 << 20
_AGENT = "/nodes/{node}/qemu/{vmid}/agent"


async def ask(lab: Lab, call: Call, command: str, arguments: dict[str, object] | None = None) -> object:
    """Run one agent command. Raises Refusal when there is nobody to ask."""
    guest = lab.cluster.vm(call.node, call.vmid)
    option = guest.config.get("agent")
    if option is None or lab.vm_options.parts("agent", option).get("enabled") != "1":
        raise failed("No QEMU guest agent configured")
    if not lab.is_running(guest):
        raise failed(f"VM {call.vmid} is not running")
    if guest.paused:
        raise failed("QEMU guest agent is not running")
    try:
        return await lab.backend.agent(call.vmid, command, arguments)
    except AgentSilent:
        raise failed("QEMU guest agent is not running") from None
    except AgentRefused as refusal:
        raise failed(f"Agent error: {refusal}") from None


def _plain(command: str) -> Handler:
    async def handle(lab: Lab, call: Call) -> object:
        return {"result": await ask(lab, call, f"guest-{command}")}

    return handle


for _method, _command, _ in AGENT_COMMANDS:
    serves(_method, f"{_AGENT}/{_command}")(_plain(_command))


@serves("POST", _AGENT)
async def any_command(lab: Lab, call: Call) -> object:
    """Run a plain command by name."""
    return {"result": await ask(lab, call, f"guest-{call.text('command')}")}


@serves("POST", _AGENT + "/exec")
async def run_program(lab: Lab, call: Call) -> object:
    """Start a program in the guest and return its process id."""
    command = call.params["command"]
    words = command if isinstance(command, list) else [str(command)]
    arguments: dict[str, object] = {"path": words[0], "arg": words[1:], "capture-output": True}
    if "input-data" in call.params:
        arguments["input-data"] = base64.b64encode(call.text("input-data").encode()).decode()
    answer = await ask(lab, call, "guest-exec", arguments)
    return {"pid": answer["pid"]} if isinstance(answer, dict) else {}


@serves("GET", _AGENT + "/file-read")
async def read_file(lab: Lab, call: Call) -> object:
    """Return a file of the guest, opened, read and closed as Proxmox does it."""
    handle = await ask(lab, call, "guest-file-open", {"path": call.text("file"), "mode": "rb"})
    if "offset" in call.params:
        await ask(lab, call, "guest-file-seek", {"handle": handle, "offset": call.number("offset"), "whence": 0})
    left = call.number("count") if "count" in call.params else _MOST_BYTES
    content, at_end = b"", False
    while left > 0 and not at_end:
        part = await ask(lab, call, "guest-file-read", {"handle": handle, "count": min(left, _PART_BYTES)})
        assert isinstance(part, dict)  # noqa: S101 - the agent's protocol
        data = base64.b64decode(str(part.get("buf-b64", "")))
        content, left, at_end = content + data, left - len(data), bool(part.get("eof"))
        if not data:
            break
    await ask(lab, call, "guest-file-close", {"handle": handle})
    encoded = str(call.params.get("decode", "1")) == "0"
    shown: dict[str, object] = {
        "content": base64.b64encode(content).decode() if encoded else content.decode("utf-8", "replace")
    }
    if not at_end:
        shown["truncated"] = 1
    return shown


@serves("GET", _AGENT + "/exec-status")
async def program_status(lab: Lab, call: Call) -> object:
    """Return how a program is doing, its output decoded."""
    answer = await ask(lab, call, "guest-exec-status", {"pid": call.number("pid")})
    if not isinstance(answer, dict):
        return {}
    shown: dict[str, object] = {"exited": int(bool(answer.get("exited")))}
    for key in ("exitcode", "signal"):
        if key in answer:
            shown[key] = answer[key]
    for key in ("out-data", "err-data"):
        if key in answer:
            shown[key] = base64.b64decode(str(answer[key])).decode("utf-8", "replace")
    for key in ("out-truncated", "err-truncated"):
        if answer.get(key):
            shown[key] = 1
    return shown
