"""VMs: lists, configuration, power, cloning."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from provisioner.lab.access import ROOT
from provisioner.lab.refusals import bad_parameters, failed
from provisioner.lab.routes import views
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.tasks import Task, Worker
from provisioner.lab.vm import cloudinit, create, lifecycle, power, update
from provisioner.lab.vm.config import digest, drives, is_cdrom, is_cloudinit, with_pending
from provisioner.lab.volume_names import split_volume_id

if TYPE_CHECKING:
    from provisioner.lab.core import Lab
    from provisioner.lab.model import Guest

_VMS = "/nodes/{node}/qemu"
_VM = _VMS + "/{vmid}"
_ROOT_ONLY = {
    "start": (
        "stateuri",
        "skiplock",
        "migratedfrom",
        "migration_type",
        "migration_network",
        "targetstorage",
        "force-cpu",
        "nets-host-mtu",
        "with-conntrack-state",
    ),
    "stop": ("skiplock", "keepActive", "migratedfrom"),
    "shutdown": ("skiplock", "keepActive"),
    "reset": ("skiplock",),
    "suspend": ("skiplock",),
    "resume": ("skiplock", "nocheck"),
}


@serves("GET", _VMS)
async def list_vms(lab: Lab, call: Call) -> object:
    """List the VMs of a node that the caller may see."""
    return [
        {**views.guest_facts(lab, guest), "cpus": views.vcpus(guest)} | _process(lab, guest)
        for guest in lab.cluster.guests.values()
        if guest.kind == "qemu"
        and guest.node == call.node
        and lab.access.may(call.who, f"/vms/{guest.vmid}", ("VM.Audit",))
    ]


@serves("POST", _VMS)
async def create_vm(lab: Lab, call: Call) -> object:
    """Make a VM."""
    return create.create(lab, call.who, call.params)


@serves("GET", _VM)
async def vm_index(lab: Lab, call: Call) -> object:
    """List what can be asked of a VM."""
    return [
        {"subdir": name}
        for name in ("config", "pending", "status", "agent", "clone", "resize", "template", "cloudinit")
    ]


@serves("DELETE", _VM)
async def destroy_vm(lab: Lab, call: Call) -> object:
    """Destroy a VM."""
    if call.on("skiplock") and call.who != ROOT:
        raise bad_parameters({"skiplock": "Only root may use this option."})
    return lifecycle.destroy(
        lab,
        call.who,
        call.node,
        call.vmid,
        skip_lock=call.on("skiplock"),
        purge=call.on("purge"),
        unreferenced=call.on("destroy-unreferenced-disks"),
    )


@serves("GET", _VM + "/config")
async def read_config(lab: Lab, call: Call) -> object:
    """Return the configuration, with pending changes applied unless asked for the current one."""
    guest = lab.cluster.vm(call.node, call.vmid)
    if "snapshot" in call.params:
        raise failed(f"snapshot '{call.text('snapshot')}' does not exist")
    config = guest.config if call.on("current") else with_pending(guest)
    shown = {key: lab.vm_options.shown(key, value) for key, value in config.items()}
    return {**shown, "digest": digest(guest)}


@serves("PUT", _VM + "/config")
async def update_config(lab: Lab, call: Call) -> object:
    """Change the configuration before the call returns."""
    await update.update(lab, call.who, call.params)(None)
    return None


@serves("POST", _VM + "/config")
async def update_config_in_task(lab: Lab, call: Call) -> object:
    """Change the configuration in a task."""
    work = update.update(lab, call.who, call.params)
    upid = lab.tasks.start(call.node, "qmconfig", str(call.vmid), call.who, work)
    if "background_delay" in call.params:
        finished = asyncio.ensure_future(lab.tasks.finished(upid))
        done, _ = await asyncio.wait({finished}, timeout=call.number("background_delay"))
        if not done:
            finished.cancel()
            return upid
        record = finished.result()
        if record.exitstatus != "OK":
            raise failed(str(record.exitstatus))
        return None
    return upid


@serves("GET", _VM + "/pending")
async def pending(lab: Lab, call: Call) -> object:
    """Return every option with its current and its pending value."""
    guest = lab.cluster.vm(call.node, call.vmid)
    # The digest stands among the options, as it does in the configuration the real thing reads.
    lines: list[dict[str, object]] = [{"key": "digest", "value": digest(guest)}]
    for key in sorted({*guest.config, *guest.pending}):
        line: dict[str, object] = {"key": key}
        if key in guest.config:
            line["value"] = lab.vm_options.shown(key, guest.config[key])
        if key in guest.pending:
            waiting = guest.pending[key]
            if waiting is None:
                line["delete"] = 1
            else:
                line["pending"] = lab.vm_options.shown(key, waiting)
        lines.append(line)
    return lines


@serves("GET", _VM + "/snapshot")
async def snapshots(lab: Lab, call: Call) -> object:
    """List snapshots: there is only the present."""
    guest = lab.cluster.vm(call.node, call.vmid)
    return [
        {
            "name": "current",
            "description": "You are here!",
            "digest": digest(guest),
            "running": int(lab.is_running(guest)),
        }
    ]


@serves("PUT", _VM + "/resize")
async def resize(lab: Lab, call: Call) -> object:
    """Grow a disk."""
    _require_root(call, "skiplock")
    return lifecycle.resize(lab, call.who, call.params)


@serves("GET", _VM + "/status")
async def status_index(lab: Lab, call: Call) -> object:
    """List what can be done with a VM's power."""
    return [
        {"subdir": name} for name in ("current", "start", "stop", "shutdown", "reboot", "reset", "suspend", "resume")
    ]


@serves("GET", _VM + "/status/current")
async def current_status(lab: Lab, call: Call) -> object:
    """Return how a VM is."""
    guest = lab.cluster.vm(call.node, call.vmid)
    facts = {**views.guest_facts(lab, guest), "cpus": views.vcpus(guest)} | _process(lab, guest)
    running = facts["status"] == "running"
    facts["qmpstatus"] = "paused" if running and guest.paused else facts["status"]
    ha = lab.adversity.ha.get(call.vmid)
    facts["ha"] = {"managed": 0} if ha is None else {"managed": 1, "state": ha.state}
    config = guest.config
    if "agent" in config and lab.vm_options.parts("agent", config["agent"]).get("enabled") == "1":
        facts["agent"] = 1
    if running:
        from provisioner.lab.core import QEMU_VERSIONS

        started_with = (guest.run or {}).get("config")
        machine = str((started_with if isinstance(started_with, dict) else config).get("machine", "pc"))
        facts["running-qemu"] = QEMU_VERSIONS[lab.major]
        minor = QEMU_VERSIONS[lab.major].rpartition(".")[0]
        kind = "q35" if "q35" in machine else "i440fx"
        facts["running-machine"] = f"pc-{kind}-{minor}+pve0"
    if "serial0" in config:
        facts["serial"] = 1
    return facts


@serves("POST", _VM + "/status/start")
async def start(lab: Lab, call: Call) -> object:
    """Start a VM; everything about the VM itself is found out in the task."""
    _require_root(call, *_ROOT_ONLY["start"])
    lab.require_quorum()
    skip = call.on("skiplock")
    if call.vmid in lab.adversity.ha:
        return _ask_ha(lab, call, "hastart", lambda task: power.start(lab, task, call.node, call.vmid))
    return _task(lab, call, "qmstart", lambda task: power.start(lab, task, call.node, call.vmid, skip_lock=skip))


@serves("POST", _VM + "/status/stop")
async def stop(lab: Lab, call: Call) -> object:
    """Cut the power; with overrule-shutdown, ending a shutdown that waits."""
    _require_root(call, *_ROOT_ONLY["stop"])
    if call.on("overrule-shutdown"):
        for upid in lab.tasks.active_for("qmshutdown", str(call.vmid)):
            if views.sees_task(lab, call.who, lab.cluster.tasks[upid]):
                await lab.tasks.abort(upid)
    skip = call.on("skiplock")
    if call.vmid in lab.adversity.ha:
        if call.on("overrule-shutdown"):
            raise bad_parameters({"overrule-shutdown": "Not applicable for HA resources."})
        return _ask_ha(lab, call, "hastop", lambda task: power.stop(lab, task, call.node, call.vmid))
    return _task(lab, call, "qmstop", lambda task: power.stop(lab, task, call.node, call.vmid, skip_lock=skip))


@serves("POST", _VM + "/status/shutdown")
async def shutdown(lab: Lab, call: Call) -> object:
    """Ask the guest to shut down."""
    _require_root(call, *_ROOT_ONLY["shutdown"])
    guest = lab.cluster.guests.get(str(call.vmid))
    force = call.on("forceStop")
    if guest is not None and guest.paused and lab.is_running(guest):
        if not force:
            raise failed("VM is paused - cannot shutdown")
        return _task(lab, call, "qmstop", lambda task: power.stop(lab, task, call.node, call.vmid))
    timeout = call.number("timeout") if "timeout" in call.params else None
    skip = call.on("skiplock")
    if call.vmid in lab.adversity.ha:
        # High availability gives a guest its time and then cuts the power.
        seconds = timeout if timeout is not None else power.DEFAULT_SHUTDOWN_SECONDS
        return _ask_ha(
            lab,
            call,
            "hastop",
            lambda task: power.shutdown(lab, task, call.node, call.vmid, timeout=seconds, force=True),
        )
    return _task(
        lab,
        call,
        "qmshutdown",
        lambda task: power.shutdown(lab, task, call.node, call.vmid, timeout=timeout, force=force, skip_lock=skip),
    )


@serves("POST", _VM + "/status/reboot")
async def reboot(lab: Lab, call: Call) -> object:
    """Shut down and start again, which applies pending changes."""
    guest = _running(lab, call)
    if guest.paused:
        raise failed("VM is paused - cannot shutdown")
    timeout = call.number("timeout") if "timeout" in call.params else None
    return _task(lab, call, "qmreboot", lambda task: power.reboot(lab, task, call.node, call.vmid, timeout=timeout))


@serves("POST", _VM + "/status/reset")
async def reset(lab: Lab, call: Call) -> object:
    """Push the reset button."""
    _require_root(call, *_ROOT_ONLY["reset"])
    _running(lab, call)
    return _task(lab, call, "qmreset", lambda task: power.reset(lab, task, call.node, call.vmid))


@serves("POST", _VM + "/status/suspend")
async def suspend(lab: Lab, call: Call) -> object:
    """Pause a VM, or write it to disk."""
    _require_root(call, *_ROOT_ONLY["suspend"])
    guest = _running(lab, call)
    if call.on("todisk"):
        lab.access.require(call.who, f"/vms/{call.vmid}", "VM.Config.Disk")
        if any(key.startswith("hostpci") for key in guest.config):
            raise failed(
                "cannot suspend VM to disk due to passed-through PCI device(s), "
                "which lack the possibility to save/restore their internal state"
            )
        storage = call.text("statestorage") or guest.config.get("vmstatestorage") or _state_storage(lab, guest)
        lab.access.require(call.who, f"/storage/{storage}", "Datastore.AllocateSpace")
        return _task(lab, call, "qmsuspend", lambda task: power.suspend_to_disk(lab, task, call.node, call.vmid))

    async def work(task: Task) -> None:
        async with lab.vm_lock(call.vmid):
            guest.paused = True
            lab.cluster.save_guest(guest)

    return _task(lab, call, "qmpause", work)


@serves("POST", _VM + "/status/resume")
async def resume(lab: Lab, call: Call) -> object:
    """Let a paused VM go on."""
    _require_root(call, *_ROOT_ONLY["resume"])
    guest = lab.cluster.existing_vm(call.node, call.vmid)
    if guest.config.get("lock") == "suspended":
        return _task(lab, call, "qmresume", lambda task: power.start(lab, task, call.node, call.vmid))
    _running(lab, call)

    async def work(task: Task) -> None:
        async with lab.vm_lock(call.vmid):
            guest.paused = False
            lab.cluster.save_guest(guest)

    return _task(lab, call, "qmresume", work)


@serves("POST", _VM + "/clone")
async def clone(lab: Lab, call: Call) -> object:
    """Make a VM after another one."""
    return lifecycle.clone(lab, call.who, call.params)


@serves("POST", _VM + "/template")
async def template(lab: Lab, call: Call) -> object:
    """Make a VM the pattern of others."""
    return lifecycle.to_template(lab, call.who, call.node, call.vmid)


@serves("GET", _VM + "/cloudinit")
async def cloudinit_pending(lab: Lab, call: Call) -> object:
    """Return the cloud-init options."""
    guest = lab.cluster.vm(call.node, call.vmid)
    keys = [
        key
        for key in sorted(guest.config)
        if key.startswith(("ci", "ipconfig")) or key in ("sshkeys", "nameserver", "searchdomain")
    ]
    return [{"key": key, "value": lab.vm_options.shown(key, guest.config[key])} for key in keys]


@serves("PUT", _VM + "/cloudinit")
async def regenerate_cloudinit(lab: Lab, call: Call) -> object:
    """Write the cloud-init drive anew."""
    guest = lab.cluster.vm(call.node, call.vmid)
    power.require_unlocked(guest)
    for _, parts in drives(guest.config, lab.vm_options):
        if is_cloudinit(parts):
            cloudinit.write_seed(lab, guest, lab.storages.path(parts["file"]))
    return None


@serves("GET", _VM + "/cloudinit/dump")
async def dump_cloudinit(lab: Lab, call: Call) -> object:
    """Return one generated document as text."""
    guest = lab.cluster.vm(call.node, call.vmid)
    names = {"user": "user-data", "network": "network-config", "meta": "meta-data"}
    return cloudinit.documents(lab, guest, custom=False)[names[call.text("type")]]


def _task(lab: Lab, call: Call, kind: str, work: Worker) -> str:
    return lab.tasks.start(call.node, kind, str(call.vmid), call.who, work)


def _ask_ha(lab: Lab, call: Call, kind: str, work: Worker) -> str:
    """Start a task that is over once the request is queued; the manager acts on it in a task of its own."""
    lab.cluster.vm(call.node, call.vmid)

    async def request(task: Task) -> None:
        task.log(f"Requesting HA {kind.removeprefix('ha')} for VM {call.vmid}")
        ha = lab.adversity.ha.get(call.vmid)
        if ha is not None and ha.acts:
            manager = "qmstart" if kind == "hastart" else "qmshutdown"
            lab.tasks.start(call.node, manager, str(call.vmid), ROOT, work)
            ha.state = "started" if kind == "hastart" else "stopped"

    return lab.tasks.start(call.node, kind, str(call.vmid), call.who, request)


def _require_root(call: Call, *names: str) -> None:
    if call.who == ROOT:
        return
    for name in names:
        if call.params.get(name):
            raise bad_parameters({name: "Only root may use this option."})


def _running(lab: Lab, call: Call) -> Guest:
    guest = lab.cluster.existing_vm(call.node, call.vmid)
    if not lab.is_running(guest):
        raise failed(f"VM {call.vmid} not running")
    return guest


def _state_storage(lab: Lab, guest: Guest) -> str:
    """Return where the memory of a VM would be written: next to its disks, shared storage first."""
    found = [
        lab.cluster.storage(split[0])
        for _, parts in drives(guest.config, lab.vm_options)
        if (split := split_volume_id(parts["file"])) is not None and not is_cdrom(parts)
    ]
    found.sort(key=lambda storage: not lab.storages.is_shared(storage))
    return found[0].name if found else "local"


def _process(lab: Lab, guest: Guest) -> dict[str, object]:
    pid = lab.backend.pid(guest.vmid) if lab.is_running(guest) else None
    return {"pid": pid} if pid is not None else {}
