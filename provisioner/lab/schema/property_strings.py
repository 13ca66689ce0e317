"""The sub-keys of property strings such as ``net0`` or ``hostpci0``, as tables.

`NAMED` holds those that the published schema mentions by format name only;
what their sub-keys are called is checked against the printed short form.
"""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.lab.schema.language import Param, flag, number, one_of, required, text, whole

_RANGES = r"(?:\d+(?:-\d+)?(?:;\d+(?:-\d+)?)*)"

_VOLUME = (
    required(text("file", format="pve-volume-id-or-qm-path", default_key=True)),
    text("volume", alias="file"),
)
_SIZE = text("size", format="disk-size")
_IMPORT = text("import-from", format="pve-volume-id-or-absolute-path")
_FORMAT = one_of("format", "raw qcow qed qcow2 vmdk cloop")

_THROTTLE = (
    whole("bps"),
    whole("bps_max_length", 1),
    *(
        entry
        for way in ("rd", "wr")
        for entry in (
            whole(f"bps_{way}"),
            text(f"bps_{way}_length", alias=f"bps_{way}_max_length"),
            whole(f"bps_{way}_max_length", 1),
            whole(f"iops_{way}"),
            text(f"iops_{way}_length", alias=f"iops_{way}_max_length"),
            whole(f"iops_{way}_max"),
            whole(f"iops_{way}_max_length", 1),
            number(f"mbps_{way}"),
            number(f"mbps_{way}_max"),
        )
    ),
    whole("iops"),
    whole("iops_max"),
    whole("iops_max_length", 1),
    number("mbps"),
    number("mbps_max"),
)

_DRIVE = (
    *_VOLUME,
    *_THROTTLE,
    _SIZE,
    _IMPORT,
    _FORMAT,
    one_of("aio", "native threads io_uring"),
    flag("backup"),
    one_of("cache", "none writethrough writeback unsafe directsync"),
    whole("cyls", only=8),
    flag("detect_zeroes"),
    one_of("discard", "ignore on"),
    whole("heads", only=8),
    one_of("media", "cdrom disk", "disk"),
    flag("replicate", 1),
    one_of("rerror", "ignore report stop"),
    whole("secs", only=8),
    text("serial", format="urlencoded", max_length=60),
    flag("shared", 0),
    flag("snapshot"),
    one_of("trans", "none lba auto", only=8),
    one_of("werror", "enospc ignore report stop"),
)
_SSD = (flag("ssd"), text("wwn", pattern=r"(?:^(0x)[0-9a-fA-F]{16})"))
_IOTHREAD = (flag("iothread"), flag("ro"))

VIRTIO = (*_DRIVE, *_IOTHREAD)
SATA = (*_DRIVE, *_SSD)
IDE = (*_DRIVE, *_SSD, text("model", format="urlencoded", max_length=120))
SCSI = (
    *_DRIVE,
    *_SSD,
    *_IOTHREAD,
    text("product", pattern=r"[A-Za-z0-9\-_\s]{,16}"),
    whole("queues", 2),
    flag("scsiblock", 0),
    text("vendor", pattern=r"[A-Za-z0-9\-_\s]{,8}"),
)
EFIDISK = (
    *_VOLUME,
    _SIZE,
    _IMPORT,
    _FORMAT,
    one_of("efitype", "2m 4m", "2m"),
    one_of("ms-cert", "2011 2023 2023w 2023k", "2011"),
    flag("pre-enrolled-keys", 0),
)
TPMSTATE = (
    *_VOLUME,
    _SIZE,
    _IMPORT,
    one_of("format", "raw qcow2 vmdk", only=9),
    one_of("version", "v1.2 v2.0", "v1.2"),
)
UNUSED = (required(text("file", format="pve-volume-id", default_key=True)), text("volume", alias="file"))

_NET_MODELS = (
    "e1000 e1000-82540em e1000-82544gc e1000-82545em e1000e i82551 i82557b i82559er"
    " ne2k_isa ne2k_pci pcnet rtl8139 virtio vmxnet3"
)
NET = (
    text("bridge", format="pve-bridge-id"),
    flag("firewall"),
    flag("link_down"),
    text("macaddr", format="mac-addr"),
    required(one_of("model", _NET_MODELS, default_key=True)),
    whole("mtu", 1, 65520),
    whole("queues", 0, 64),
    number("rate", 0),
    whole("tag", 1, 4094),
    text("trunks", pattern=_RANGES),
    *(text(model, alias="macaddr", key_alias="model") for model in _NET_MODELS.split()),
)
AGENT = (
    required(flag("enabled", 0, default_key=True)),
    flag("freeze-fs", 1, only=9),
    text("freeze-fs-on-backup", alias="freeze-fs", only=9),
    text("guest-fsfreeze", alias="freeze-fs", only=9),
    flag("freeze-fs-on-backup", 1, only=8),
    flag("fstrim_cloned_disks", 0),
    one_of("type", "virtio isa", "virtio"),
)
AUDIO = (
    required(one_of("device", "ich9-intel-hda intel-hda AC97")),
    one_of("driver", "spice none", "spice"),
)
IVSHMEM = (text("name", pattern=r"[a-zA-Z0-9\-]+"), required(whole("size", 1)))
MACHINE_PATTERN = (
    r"(pc|pc(-i440fx)?-\d+(\.\d+)+(\+pve\d+)?(\.pxe)?|q35|pc-q35-\d+(\.\d+)+(\+pve\d+)?(\.pxe)?"
    r"|virt(?:-\d+(\.\d+)+)?(\+pve\d+)?)"
)
MACHINE = (
    number("aw-bits", 32, 64, only=9),
    flag("enable-s3"),
    flag("enable-s4"),
    text("type", pattern=MACHINE_PATTERN, max_length=40, default_key=True),
    one_of("viommu", "intel virtio"),
)
MEMORY = (required(whole("current", 16, default=512, default_key=True)),)
NUMA = (
    required(text("cpus", pattern=_RANGES)),
    text("hostnodes", pattern=_RANGES),
    number("memory"),
    one_of("policy", "preferred bind interleave"),
)
SPICE = (flag("foldersharing", "0"), one_of("videostreaming", "off all filter", "off"))
USB = (
    text(
        "host",
        pattern=r"(?:(?:(?:(?:(0x)?([0-9A-Fa-f]{4}):(0x)?([0-9A-Fa-f]{4})))|(?:(?:(\d+)\-(\d+(\.\d+)*)))|[Ss][Pp][Ii][Cc][Ee]))",
        default_key=True,
    ),
    text("mapping", format="pve-configid"),
    flag("usb3", 0),
)
VGA = (
    one_of("clipboard", "vnc"),
    whole("memory", 4, 512),
    one_of(
        "type",
        "cirrus qxl qxl2 qxl3 qxl4 none serial0 serial1 serial2 serial3 std virtio virtio-gl vmware",
        "std",
        default_key=True,
    ),
)
VIRTIOFS = (
    one_of("cache", "auto always metadata never", "auto"),
    flag("direct-io", 0),
    required(text("dirid", format="pve-configid", default_key=True)),
    flag("expose-acl", 0),
    flag("expose-xattr", 0),
)
MAP_ENTRY = (
    text("description", max_length=4096),
    required(text("id", pattern=r"(?:^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}$)")),
    whole("iommugroup"),
    required(text("node", format="pve-node")),
    required(
        text(
            "path",
            pattern=r"(?:[a-f0-9]{4,}:[a-f0-9]{2}:[a-f0-9]{2}(?:.[a-f0-9])?;)*[a-f0-9]{4,}:[a-f0-9]{2}:[a-f0-9]{2}(?:.[a-f0-9])?",
        )
    ),
    text("subsystem-id", pattern=r"(?:^[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}$)"),
)

_PCI_ADDRESS = r"(?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-9a-f])?"
_PCI_ID = r"0x[0-9a-fA-F]{4}"
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"

NAMED: Mapping[str, tuple[Param, ...]] = {
    "pve-qm-hostpci": (
        text("host", pattern=rf"{_PCI_ADDRESS}(?:;{_PCI_ADDRESS})*", default_key=True),
        text("mapping", format="pve-configid"),
        text("device-id", pattern=_PCI_ID),
        one_of("driver", "vfio keep", only=9),
        flag("legacy-igd", 0),
        text("mdev", pattern=r"[^/.:]+"),
        flag("pcie", 0),
        flag("rombar", 1),
        text("romfile", pattern=r"[^,;]+"),
        text("sub-device-id", pattern=_PCI_ID),
        text("sub-vendor-id", pattern=_PCI_ID),
        text("vendor-id", pattern=_PCI_ID),
        flag("x-vga", 0),
    ),
    "pve-vm-cpu-conf": (
        text("cputype", format="pve-cpu-type", default_key=True),
        text("flags", pattern=r"[+-][A-Za-z0-9._-]+(?:;[+-][A-Za-z0-9._-]+)*"),
        whole("guest-phys-bits", 32, 64, only=9),
        flag("hidden", 0),
        text("hv-vendor-id", pattern=r"[a-zA-Z0-9]{1,12}"),
        text("phys-bits", format="pve-phys-bits"),
        text("reported-model", format="pve-cpu-model"),
    ),
    "pve-qm-boot": (
        text("legacy", pattern=r"[acdn]{1,4}", default_key=True),
        text("order", format="pve-qm-bootdev-list"),
    ),
    "pve-qm-cicustom": tuple(text(part, format="pve-volume-id") for part in ("meta", "network", "user", "vendor")),
    "pve-qm-ipconfig": (
        text("gw", format="ipv4", requires="ip"),
        text("gw6", format="ipv6", requires="ip6"),
        text("ip", format="pve-ipv4-config", default="dhcp"),
        text("ip6", format="pve-ipv6-config", default="dhcp"),
    ),
    "pve-qm-smbios1": (
        flag("base64"),
        *(text(key, pattern=_BASE64) for key in ("family", "manufacturer", "product", "serial", "sku", "version")),
        text("uuid", pattern=r"[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}"),
    ),
    "pve-startup-order": (
        text("order", pattern=r"\d+", default_key=True),
        text("up", pattern=r"\d+"),
        text("down", pattern=r"\d+"),
    ),
    "pve-qm-rng": (
        required(one_of("source", "/dev/urandom /dev/random /dev/hwrng", default_key=True)),
        whole("max_bytes", default=1024),
        whole("period", default=1000),
    ),
    "pve-qm-watchdog": (
        one_of("model", "i6300esb ib700", default_key=True),
        one_of("action", "reset shutdown poweroff pause debug none"),
    ),
    "pve-qemu-sev-fmt": (
        required(one_of("type", "std es snp", default_key=True)),
        flag("allow-smt", 1),
        flag("kernel-hashes", 0),
        flag("no-debug", 0),
        flag("no-key-sharing", 0),
    ),
    "pve-qemu-tdx-fmt": (
        required(one_of("type", "tdx", default_key=True)),
        required(flag("attestation", 1)),
        whole("vsock-cid", 2),
        whole("vsock-port", 0),
    ),
    "pve-qm-ide": IDE,
}
