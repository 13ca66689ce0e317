"""Refusals in Proxmox's own words, by short names that a fault plan may use.

`{vmid}`, `{node}` and `{storage}` are those of the request or task; a VM that
is in the way is 200.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.lab.refusals import VERIFICATION_FAILED, Refusal


@dataclass(frozen=True, slots=True)
class Reason:
    """A status, its text, the parameter it is about if any, and which of Proxmox's packages says so."""

    status: int
    text: str
    source: str
    parameter: str | None = None

    def refusal(self, values: Mapping[str, object]) -> Refusal:
        """Return it as the lab says no."""
        text = self.words(values)
        if self.parameter is None:
            return Refusal(self.status, text)
        return Refusal(self.status, VERIFICATION_FAILED, {self.parameter: text})

    def words(self, values: Mapping[str, object]) -> str:
        """Return its text, which is also how a task ends that it befalls."""
        return self.text.format_map(_Known({"vmid": 100, "node": "pve1", "storage": "local", **values}))


class _Known(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


_QS, _GC, _ST, _CM, _CL, _HS, _AC = (
    "qemu-server",
    "pve-guest-common",
    "pve-storage",
    "pve-common",
    "pve-cluster",
    "pve-http-server",
    "pve-access-control",
)
_GPU = "0000:01:00.0"
_LOCKS = (
    "backup",
    "clone",
    "create",
    "migrate",
    "rollback",
    "snapshot",
    "snapshot-delete",
    "suspending",
    "suspended",
)

REASONS: Mapping[str, Reason] = {
    # Who asks
    "token_wrong": Reason(401, "invalid token value!", _AC),
    "token_expired": Reason(401, "token expired", _AC),
    "token_gone": Reason(401, "no such token 'fleet' for user 'provisioner@pve'", _AC),
    "no_ticket": Reason(401, "No ticket", _HS),
    "permission": Reason(403, "Permission check failed (/vms/{vmid}, VM.PowerMgmt)", _AC),
    # The way there
    "no_route": Reason(595, "No route to host", _HS),
    "connection_refused": Reason(595, "Connection refused", _HS),
    "connection_lost": Reason(596, "Broken pipe", _HS),
    "out_of_time": Reason(596, "Connection timed out", _HS),
    "too_many_redirections": Reason(599, "Too many redirections", _HS),
    "too_large": Reason(501, "for data too large", _HS),
    "bad_gateway": Reason(502, "Bad Gateway", "a web proxy in front"),
    "overloaded": Reason(503, "Service Unavailable", "a web proxy in front"),
    "gateway_out_of_time": Reason(504, "Gateway Timeout", "a web proxy in front"),
    # The cluster
    "no_quorum": Reason(500, "cluster not ready - no quorum?", _CL),
    "cluster_locked": Reason(500, "cfs-lock 'file-user_cfg' error: got lock request timeout", _CL),
    "read_only": Reason(
        500,
        "unable to open file '/etc/pve/nodes/{node}/qemu-server/{vmid}.conf.tmp.4711' - Permission denied",
        _CM,
    ),
    "unknown_node": Reason(
        500,
        "hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known",
        _CL,
    ),
    # VMs
    "lock_timeout": Reason(500, "can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout", _GC),
    **{f"locked_{lock.replace('-', '_')}": Reason(500, f"VM is locked ({lock})", _GC) for lock in _LOCKS},
    "config_missing": Reason(500, "Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist", _GC),
    "config_changed": Reason(500, "checksum mismatch (file change by other user?)", _QS),
    "vm_exists": Reason(500, "unable to create VM {vmid} - VM {vmid} already exists on node '{node}'", _QS),
    "vm_running": Reason(500, "VM {vmid} already running", _QS),
    "vm_paused": Reason(500, "VM is paused - cannot shutdown", _QS),
    "vm_runs_still": Reason(500, "VM {vmid} is running - destroy failed", _QS),
    "vm_protected": Reason(500, "can't remove VM {vmid} - protection mode enabled", _QS),
    "shutdown_ignored": Reason(500, "VM quit/powerdown failed - got timeout", _QS),
    "shutdown_unheard": Reason(500, "VM quit/powerdown failed", _QS),
    "start_timeout": Reason(500, "start failed: command '/usr/bin/kvm -id {vmid} ...' failed: got timeout", _QS),
    "qemu_refused": Reason(500, "start failed: QEMU exited with code 1", _QS),
    "no_memory": Reason(500, "start failed: kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory", "QEMU"),
    "too_many_cpus": Reason(500, "MAX 8 vcpus allowed per VM on this node", _QS),
    "agent_silent": Reason(500, "QEMU guest agent is not running", _QS),
    "interrupted": Reason(500, "interrupted by signal", _QS),
    # GPUs
    "gpu_in_use": Reason(500, f"PCI device '{_GPU}' already in use by VMID '200'", _QS),
    "gpu_reserved": Reason(500, f"PCI device '{_GPU}' is currently reserved for use by VMID '200'", _QS),
    "gpu_twice": Reason(500, f"device '{_GPU}' assigned more than once", _QS),
    "gpu_pool_empty": Reason(500, "could not find a free device for 'hostpci0'", _QS),
    "gpu_not_bound": Reason(500, f"can't unbind/bind PCI group to VFIO '{_GPU}'", _QS),
    "gpu_gone": Reason(500, "no PCI device found for '0000:01:00'", _QS),
    "no_iommu": Reason(500, "cannot prepare PCI pass-through, IOMMU not present", _QS),
    "mapping_gone": Reason(500, "PCI device mapping not found for 'rtx3090'", _QS),
    "mapping_stale": Reason(
        500,
        "PCI device mapping invalid (hardware probably changed): 'iommugroup' does not match for 'rtx3090' (17 != 15)",
        _QS,
    ),
    # Storages
    "storage_missing": Reason(400, "No such storage.", _ST, "storage"),
    "storage_unknown": Reason(500, "storage '{storage}' does not exist", _ST),
    "storage_offline": Reason(500, "storage '{storage}' is not online", _ST),
    "storage_disabled": Reason(500, "storage '{storage}' is disabled", _ST),
    "storage_elsewhere": Reason(500, "storage '{storage}' is not available on node '{node}'", _ST),
    "storage_locked": Reason(500, "cfs-lock 'storage-{storage}' error: got lock request timeout", _CL),
    "storage_full": Reason(
        500,
        "lvcreate 'pve/vm-{vmid}-disk-0' error:   Cannot create new thin volume, free space in thin pool pve/data "
        "reached threshold.",
        "LVM",
    ),
    "no_space": Reason(500, "unable to create image: No space left on device", _ST),
    "volume_gone": Reason(500, "volume '{storage}:iso/seed.iso' does not exist", _ST),
    "wrong_checksum": Reason(500, "checksum mismatch: got '00' != expect '11'", _CM),
    "file_exists": Reason(500, "refusing to override existing file 'image.qcow2'", _CM),
    "download_refused": Reason(500, "download failed: command '/usr/bin/wget ...' failed: exit code 8", _CM),
    # Tasks
    "no_such_task": Reason(400, "no such task", "pve-manager", "upid"),
}
