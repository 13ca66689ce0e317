"""Who may set which option of a VM, and use which disk, bridge or device for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

from provisioner.lab.access import ROOT, Access
from provisioner.lab.cluster import Cluster
from provisioner.lab.refusals import bad_parameters, denied, failed
from provisioner.lab.storage import Storages
from provisioner.lab.vm.config import NEW_DISK, ConfigOptions, drives, is_cdrom, is_cloudinit
from provisioner.lab.volume_names import split_volume_id

_NEEDS = {
    "VM.Config.CPU": "cores cpu cpulimit cpuunits numa smp sockets vcpus",
    "VM.Config.Memory": "memory balloon shares allow-ksm",
    "VM.Config.HWType": "acpi hotplug kvm machine scsihw smbios1 tablet vga watchdog audio0 rng0",
    "VM.Config.Options": "agent autostart bios description keyboard localtime migrate_downtime migrate_speed name"
    " onboot ostype protection reboot startdate startup tdf template",
    "VM.PowerMgmt": "freeze",
    "VM.Config.Disk": "boot bootdisk vmstatestorage",
}
_NEEDED = {option: privilege for privilege, options in _NEEDS.items() for option in options.split()}
_CLOUDINIT = frozenset(
    ["cicustom", "cipassword", "citype", "ciuser", "ciupgrade", "nameserver", "searchdomain", "sshkeys"]
)
_ELSEWHERE = re.compile(
    r"(?:(?:ide|sata|scsi|virtio|unused|serial|usb|hostpci|virtiofs)\d+|efidisk0|tpmstate0|cdrom|tags)"
)
_SSH_KEY = re.compile(
    r"(?:[^#\s]\S*\s+)?(?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-\S+|sk-\S+)\s+[A-Za-z0-9+/]{20,}={0,3}(?:\s.*)?"
)


class VmRights:
    """Holds the settings of a VM against the rights of a caller."""

    def __init__(self, cluster: Cluster, access: Access, storages: Storages, options: ConfigOptions) -> None:
        self._cluster = cluster
        self._access = access
        self._storages = storages
        self._options = options

    def require_options(self, who: str, vmid: int, pool: str | None, keys: Iterable[str]) -> None:
        """Hold plain options against the caller's rights; drives and devices are looked at by value elsewhere."""
        if who == ROOT:
            return
        for key in keys:
            if _ELSEWHERE.fullmatch(key):
                continue
            if re.fullmatch(r"numa\d+", key):
                self._access.require_vm(who, vmid, pool, "VM.Config.CPU")
            elif re.fullmatch(r"net\d+", key):
                self._access.require_vm(who, vmid, pool, "VM.Config.Network")
            elif key in _CLOUDINIT or re.fullmatch(r"ipconfig\d+", key):
                self._access.require_vm(who, vmid, pool, "VM.Config.Cloudinit", "VM.Config.Network", any_of=True)
            elif key in _NEEDED:
                self._access.require_vm(who, vmid, pool, _NEEDED[key])
                if key == "startup":
                    self._access.require(who, "/", "Sys.Modify")
            else:
                raise failed(f"only root can set '{key}' config")

    def require_drives(
        self, who: str, vmid: int, config: Mapping[str, str], default_storage: str | None = None
    ) -> None:
        """Check access to every disk that settings speak of, and that its kind of content fits."""
        for key, parts in drives(config, self._options):
            file = parts.get("file", "")
            new = NEW_DISK.fullmatch(file)
            if file in ("", "none") or is_cloudinit(parts):
                pass
            elif is_cdrom(parts) and file == "cdrom":
                self._access.require(who, "/", "Sys.Console")
            elif not is_cdrom(parts) and new is not None:
                self._require_new_disk(who, new[1] or default_storage)
            else:
                self._require_volume(who, vmid, key, file)
            source = parts.get("import-from")
            if source is not None:
                self._require_source(who, vmid, key, source)
        if "vmstatestorage" in config:
            self._access.require(who, f"/storage/{config['vmstatestorage']}", "Datastore.AllocateSpace")

    def require_devices(self, who: str, vmid: int, pool: str | None, config: Mapping[str, str]) -> None:
        """Check serial ports, USB and PCI devices, and shared folders."""
        if who == ROOT:
            return
        for key in sorted(config):
            if re.fullmatch(r"serial\d+", key):
                self._require_serial(who, vmid, pool, key, config[key])
            elif re.fullmatch(r"usb\d+", key):
                self._require_usb(who, vmid, pool, key, config[key])
            elif re.fullmatch(r"hostpci\d+", key):
                self.require_pci(who, vmid, pool, key, config[key])
            elif re.fullmatch(r"virtiofs\d+", key):
                directory = self._options.parts(key, config[key]).get("dirid", "")
                self._access.require(who, f"/mapping/dir/{directory}", "Mapping.Use")
                self._access.require_vm(who, vmid, pool, "VM.Config.Options")

    def require_pci(self, who: str, vmid: int, pool: str | None, key: str, value: str) -> None:
        """Check one ``hostpciN``: raw addresses are the superuser's, mappings need a right of their own."""
        if who == ROOT:
            return
        parts = self._options.parts(key, value)
        if "romfile" in parts:
            raise bad_parameters({key: "only root@pam can set 'romfile' option"})
        self.require_pci_use(who, key, parts)
        self._access.require_vm(who, vmid, pool, "VM.Config.HWType")

    def require_pci_use(self, who: str, key: str, parts: Mapping[str, str]) -> None:
        """Check the device of a ``hostpciN`` without the right to configure it (a clone brings it along)."""
        if who == ROOT:
            return
        if "host" in parts:
            raise failed(f"only root can set '{key}' config for non-mapped devices")
        if "mapping" not in parts:
            raise failed("either 'host' or 'mapping' must be set.")
        self._access.require(who, f"/mapping/pci/{parts['mapping']}", "Mapping.Use")

    def require_bridges(self, who: str, config: Mapping[str, str]) -> None:
        """Check every bridge, with its VLANs."""
        if who == ROOT:
            return
        for key in sorted(config):
            if re.fullmatch(r"net\d+", key):
                parts = self._options.parts(key, config[key])
                if "bridge" not in parts:
                    continue
                base = f"/sdn/zones/localnetwork/{parts['bridge']}"
                tags = [parts["tag"]] if "tag" in parts else parts.get("trunks", "").split(";")
                for tag in tags:
                    self._access.require(who, f"{base}/{tag}" if tag else base, "SDN.Use")

    def require_volume_access(self, who: str, vmid: int | None, volid: str) -> None:
        """Check that somebody may use a volume that exists already."""
        if split_volume_id(volid) is None:
            if who != ROOT:
                raise failed("Only root can pass arbitrary filesystem paths.")
            return
        name = self._storages.named(volid)
        where = f"/storage/{name.storage}"
        if self._access.may(who, where, ("Datastore.Allocate",)):
            return
        if name.content in ("iso", "vztmpl", "import"):
            self._access.require(who, where, "Datastore.AllocateSpace", "Datastore.Audit", any_of=True)
        elif name.vmid is not None and name.vmid == vmid:
            return
        elif name.content == "images" and name.vmid is not None:
            self._access.require(who, where, "Datastore.Audit")
            self._access.require(who, f"/vms/{name.vmid}", "VM.Config.Disk")
        else:
            raise failed(f"missing privileges to access {volid}")

    def require_pool(self, name: str) -> None:
        """Raise the refusal for a pool that does not exist."""
        if name not in self._cluster.pools:
            raise denied(f"pool '{name}' does not exist")

    def _require_new_disk(self, who: str, storage: str | None) -> None:
        if storage is None:
            raise failed("no storage ID specified (and no default storage)")
        self._access.require(who, f"/storage/{storage}", "Datastore.AllocateSpace")
        if "images" not in self._cluster.storage(storage).content:
            raise bad_parameters({"storage": f"storage '{storage}' does not support vm images"})

    def _require_volume(self, who: str, vmid: int, key: str, file: str) -> None:
        self.require_volume_access(who, vmid, file)
        if split_volume_id(file) is not None and self._storages.named(file).content not in ("images", "iso"):
            raise bad_parameters({key: "content type needs to be 'images' or 'iso'"})

    def _require_source(self, who: str, vmid: int, key: str, source: str) -> None:
        owner = None
        if split_volume_id(source) is not None:
            name = self._storages.named(source)
            if name.content not in ("images", "import"):
                raise bad_parameters(
                    {key: f"{source} has wrong type '{name.content}' - needs to be 'images' or 'import'"}
                )
            owner = name.vmid
        if owner is not None:
            self._access.require(who, f"/vms/{owner}", "VM.Clone")
        else:
            self.require_volume_access(who, vmid, source)

    def _require_serial(self, who: str, vmid: int, pool: str | None, key: str, value: str) -> None:
        if value != "socket":
            raise failed(f"only root can set '{key}' config for real devices")
        self._access.require_vm(who, vmid, pool, "VM.Config.HWType")

    def _require_usb(self, who: str, vmid: int, pool: str | None, key: str, value: str) -> None:
        parts = self._options.parts(key, value)
        if "mapping" in parts:
            self._access.require(who, f"/mapping/usb/{parts['mapping']}", "Mapping.Use")
        elif not parts.get("host", "").lower().startswith("spice"):
            raise failed(f"only root can set '{key}' config for real devices")
        self._access.require_vm(who, vmid, pool, "VM.Config.HWType")


def check_ssh_keys(encoded: str) -> None:
    """Raise the refusal for text that is no list of public keys."""
    lines = [line.strip() for line in unquote(encoded).splitlines()]
    if any(line and not line.startswith("#") and _SSH_KEY.fullmatch(line) is None for line in lines):
        raise failed("SSH public key validation error")


def check_drives(config: Mapping[str, str], options: ConfigOptions) -> None:
    """Raise the refusal for drives whose settings contradict each other."""
    for key, parts in drives(config, options):
        if "import-from" not in parts:
            continue
        new = NEW_DISK.fullmatch(parts.get("file", ""))
        if new is None or float(new[2]) != 0:
            raise bad_parameters(
                {key: "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>"}
            )
        needed = {"efidisk0": ("efitype", "pre-enrolled-keys"), "tpmstate0": ("version",)}.get(key, ())
        for name in needed:
            if name not in parts:
                raise bad_parameters({key: f"need to specify '{name}' when using 'import-from'"})
