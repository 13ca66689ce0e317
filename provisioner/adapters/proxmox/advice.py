"""What Proxmox's own error texts mean: whose business each is, what to do, and whether it passes by itself.

One row each, first match wins. The texts are those of qemu-server, pve-storage,
pve-guest-common, pve-cluster and pve-common; a few are QEMU's, LVM's or wget's,
which Proxmox hands through.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from provisioner.errors import (
    ConfigChangedError,
    GpuTakenError,
    GpuUnusableError,
    HypervisorError,
    PermissionMissingError,
    StorageFullError,
    VmLockedError,
    VmMissingError,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a text calls for. `passes_soon` means that the same call, a moment later, may well succeed."""

    kind: type[HypervisorError]
    next_step: str
    passes_soon: bool = False

    def error(self, summary: str, subject: str) -> HypervisorError:
        """Return the error to raise."""
        made = self.kind(summary, subject=subject, next_step=self.next_step, retryable=self.passes_soon)
        if isinstance(made, GpuTakenError) and (holder := _HOLDER.search(summary)):
            made.holder = int(holder[1])
        return made


_HOLDER = re.compile(r"(?:already in use|reserved for use) by VMID '(\d+)'")
_FREE_IT = "free space on that storage, or name another one in the fleet file; then run the same command again"
_FETCH_IT = "the server must be able to fetch the image's URL: check it from there, and its proxy settings"
_SEE_HOST = "see what is wrong with the server: provisioner doctor"
_CARD_LOST = (
    "the card did not come back when its last VM stopped: restart the server, and write survives_stop: false for "
    "this gpu in the fleet file if it happens again"
)
_REBOOT = "somebody, or a restart of the server, ended the task: run the same command again, it looks first"

_ROWS: tuple[tuple[str, type[HypervisorError], str, bool], ...] = (
    # GPUs
    (
        r"PCI device '\S+' already in use by VMID '(\d+)'",
        GpuTakenError,
        "the GPU is with VM {0}: shut that one down first, then try again",
        False,
    ),
    (
        r"is currently reserved for use by VMID '(\d+)'",
        GpuTakenError,
        "VM {0} is starting with this GPU; try again in a moment",
        True,
    ),
    (
        r"could not find a free device for '(\w+)'",
        GpuTakenError,
        "every card of the mapping is with another running VM ({0}): shut one of them down first",
        False,
    ),
    (
        r"device '(\S+)' assigned more than once",
        HypervisorError,
        "two gpus of this node are the same card {0}: give each its own mapping in the fleet file",
        False,
    ),
    (
        r"no PCI device found|pci device '\S+' not found|no pci device info",
        GpuUnusableError,
        "the card is gone or has moved to another slot: compare `lspci` on the server with the mapping",
        False,
    ),
    (
        r"PCI device mapping invalid",
        GpuUnusableError,
        "edit the PCI mapping so that it names the device as it is now (Datacenter > Resource Mappings)",
        False,
    ),
    (
        r"PCI device mapping not found",
        GpuUnusableError,
        "add an entry for this server to the PCI mapping (Datacenter > Resource Mappings)",
        False,
    ),
    (r"IOMMU not present", GpuUnusableError, "turn on VT-d or AMD-Vi in the server's firmware setup", False),
    (
        r"can't unbind/bind PCI group|[Cc]annot bind \S+ to vfio",
        GpuUnusableError,
        f"a driver of the server holds the card or its neighbours: {_SEE_HOST}",
        False,
    ),
    (r"vfio \S+: error getting device|stuck in D3|failed to reset PCI device", GpuUnusableError, _CARD_LOST, False),
    # Rights: some are looked at only once the task runs, such as those for tags
    (
        r"Permission check failed \(([^,()]+), ([^)]+)\)",
        PermissionMissingError,
        "give the token, and its user, {1} on {0} (Datacenter > Permissions)",
        False,
    ),
    # Storages
    (
        r"No space left on device|not enough free space|out of space|reached threshold|insufficient free space",
        StorageFullError,
        _FREE_IT,
        False,
    ),
    (
        r"storage '([^']+)' does not exist",
        HypervisorError,
        "name a storage that exists under clusters.*.storage (found: no {0})",
        False,
    ),
    (
        r"No such storage",
        HypervisorError,
        "name a storage that this server has under clusters.*.storage (Datacenter > Storage)",
        False,
    ),
    (
        r"storage '([^']+)' is not online|could not activate storage '([^']+)'|unable to activate storage '([^']+)'",
        HypervisorError,
        "storage {0} does not answer: see that its server is up and its share mounted (Proxmox > storage > Summary)",
        False,
    ),
    (
        r"storage '([^']+)' is (?:disabled|not available on node)",
        HypervisorError,
        "enable storage {0} for this server (Datacenter > Storage), or name another one in the fleet file",
        False,
    ),
    (
        r"checksum mismatch: got|checksum.*wrong|wrong checksum|mismatching checksum",
        HypervisorError,
        "the file at the image's URL is not the one pinned: check url and sha256 under images",
        False,
    ),
    (
        r"refusing to override existing file",
        HypervisorError,
        "a file of that name lies on the storage; delete it or check its sum",
        False,
    ),
    (
        r"download failed|(?:got|can't connect|failed|unable).*(?:resolve|Connection refused|404|timed out)",
        HypervisorError,
        _FETCH_IT,
        False,
    ),
    (
        r"shrinking disks is not supported|unable to skrink disk size",
        HypervisorError,
        "the image is larger than the wanted disk: raise disk in the fleet file",
        False,
    ),
    # Locks and the cluster
    (
        r"can't lock file '[^']*lock-(\d+)\.conf'",
        VmLockedError,
        "another task works on VM {0}; wait for it (Proxmox > Tasks), then run the same command again",
        True,
    ),
    (
        r"VM is locked \((create|clone)\)",
        VmLockedError,
        "it is being made by another task ({0}); wait for it (Proxmox > Tasks), then run the same command again",
        True,
    ),
    (
        r"VM is locked \((suspended|suspending)\)",
        VmLockedError,
        "it was put to disk ({0}): start it once in Proxmox, then run the same command again",
        False,
    ),
    (
        r"VM is locked \(([\w-]+)\)",
        VmLockedError,
        "wait for the {0} to end (Proxmox > Tasks), then run the same command again; after a crash of the server: "
        "qm unlock VMID",
        False,
    ),
    (
        r"no quorum|/etc/pve/\S+' - Permission denied",
        HypervisorError,
        "most servers of the cluster are out of sight, so it takes no change: bring them back "
        "(pvecm status shows which are missing), then run the same command again",
        False,
    ),
    (
        # What was meant for another state of the VM is not sent again: it may be wrong now.
        r"checksum mismatch \(file change by other user",
        ConfigChangedError,
        "somebody changed the VM since it was looked at, and nothing was written; run the same command again, it looks "
        "first",
        False,
    ),
    (
        r"cfs-lock '([^']+)' error|detected modified configuration",
        HypervisorError,
        "another change was under way at the same moment; run the same command again",
        True,
    ),
    # VMs
    (
        r"Configuration file '\S+' does not exist|unable to find configuration file for VM",
        VmMissingError,
        "the VM is gone or has moved to another server; run the same command again, it looks first",
        False,
    ),
    (
        r"quit/powerdown failed",
        HypervisorError,
        "the guest did not shut down in time: look at its console",
        False,
    ),
    (
        r"VM is paused",
        HypervisorError,
        "somebody paused the VM: resume it (Proxmox > VM > Resume), then try again",
        False,
    ),
    (
        r"protection mode enabled",
        HypervisorError,
        "somebody protected this VM: switch that off first (Proxmox > VM > Options > Protection)",
        False,
    ),
    (
        r"VM \d+ is running - destroy failed",
        HypervisorError,
        "it was started meanwhile; run the same command again, it looks first",
        False,
    ),
    (
        r"can't start a vm if it's a template",
        HypervisorError,
        "somebody made a template of this VM, which never runs: destroy the node and make it anew",
        False,
    ),
    (
        r"is too old to run machine type '([^']+)'",
        HypervisorError,
        "somebody pinned the VM to machine {0}, which this server's QEMU does not know yet: "
        "choose q35, version Latest (Proxmox > VM > Hardware > Machine)",
        False,
    ),
    (
        r"MAX (\d+) vcpus allowed",
        HypervisorError,
        "the server has {0} threads: lower cores in the fleet file",
        False,
    ),
    (
        r"[Cc]annot allocate memory|cannot set up guest memory",
        HypervisorError,
        "the server has too little free memory: a VM with a GPU needs all of its memory at start",
        False,
    ),
    (
        r"volume '([^']+)' does not exist",
        HypervisorError,
        "{0} was deleted meanwhile: provisioner up makes what is missing",
        False,
    ),
    (
        r"interrupted by signal|received interrupt",
        HypervisorError,
        _REBOOT,
        False,
    ),
    (
        r"start failed: .*got timeout|^got timeout",
        HypervisorError,
        "the VM needed longer than Proxmox gives it, as with much memory and a GPU: "
        "see whether it runs (provisioner status), then run the same command again",
        False,
    ),
    (
        r"QEMU exited with code",
        HypervisorError,
        "QEMU refused to start; the task's log says why (Proxmox > Tasks): mostly memory, cores or the GPU",
        False,
    ),
    # The way there
    (
        r"for data too large",
        HypervisorError,
        "the request is beyond the 512 KiB that Proxmox takes: shorten the VM's notes",
        False,
    ),
    (
        r"hostname lookup '([^']+)' failed",
        HypervisorError,
        "the cluster knows no server {0}: name the hypervisor in the fleet file as Proxmox names the node",
        False,
    ),
    (
        r"agent is not running|No QEMU guest agent",
        HypervisorError,
        "the guest's agent is not up: the guest still boots, or hangs (Proxmox > VM > Console)",
        False,
    ),
)
_COMPILED = tuple((re.compile(pattern), kind, advice, soon) for pattern, kind, advice, soon in _ROWS)
_UNKNOWN = Verdict(
    HypervisorError, "Proxmox > Tasks shows the task with its log; mend what it names, then run the same command again"
)


def verdict_on(text: str, log: str = "") -> Verdict:
    """Judge one of Proxmox's texts; a task's `log` is asked only when its exit status says too little."""
    return _first_match(text, narrow=True) or _first_match(log) or _first_match(text) or _UNKNOWN


def _first_match(text: str, *, narrow: bool = False) -> Verdict | None:
    for pattern, kind, advice, soon in _COMPILED:
        # "QEMU exited" heads every failed start; the reason is in the log.
        if narrow and "QEMU exited" in pattern.pattern:
            continue
        match = pattern.search(text)
        if match:
            groups = [group for group in match.groups() if group is not None]
            return Verdict(kind, advice.format(*groups), soon)
    return None
