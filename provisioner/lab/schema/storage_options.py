"""What a storage's definition can be changed to."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.lab.schema.language import Param, flag, number, one_of, pieces, required, text, whole

_LIMITS = tuple(number(name, 0) for name in ("clone", "default", "migration", "move", "restore"))
_PATH = "pve-storage-path"

UPDATE: tuple[Param, ...] = (
    required(text("storage", format="pve-storage-id")),
    pieces("bwlimit", _LIMITS),
    text("blocksize"),
    text("comstar_hg"),
    text("comstar_tg"),
    text("content", format="pve-storage-content-list"),
    text("content-dirs", format="pve-dir-override-list"),
    flag("create-base-path", "yes"),
    flag("create-subdirs", "yes"),
    text("data-pool"),
    text("delete", format="pve-configid-list", max_length=4096),
    text("digest", max_length=64),
    flag("disable"),
    text("domain", max_length=256),
    text("encryption-key"),
    text("fingerprint", pattern=r"([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}"),
    one_of("format", "raw qcow2 subvol vmdk"),
    text("fs-name", format="pve-configid"),
    flag("fuse"),
    text("is_mountpoint", default="no"),
    text("keyring"),
    flag("krbd", 0),
    text("lio_tpg"),
    text("master-pubkey"),
    whole(
        "max-protected-backups",
        -1,
        default="Unlimited for users with Datastore.Allocate privilege, 5 for other users",
    ),
    whole("maxfiles", 0, only=8),
    flag("mkdir", "yes"),
    text("monhost", format="pve-storage-portal-dns-list"),
    text("mountpoint", format=_PATH),
    text("namespace"),
    flag("nocow", 0),
    text("nodes", format="pve-node-list"),
    flag("nowritecache"),
    text("options", format="pve-storage-options"),
    text("password", max_length=256),
    text("pool"),
    whole("port", 1, 65535),
    one_of("preallocation", "off metadata falloc full", "metadata"),
    text("prune-backups", format="prune-backups"),
    flag("saferemove"),
    whole("saferemove-stepsize", enum=("1", "2", "4", "8", "16", "32"), default=32, only=9),
    text("saferemove_throughput"),
    text("server", format="pve-storage-server"),
    text("server2", format="pve-storage-server", requires="server", only=8),
    flag("shared"),
    flag("skip-cert-verification", "false"),
    one_of("smbversion", "default 2.0 2.1 3 3.0 3.11", "default"),
    flag("snapshot-as-volume-chain", 0, only=9),
    flag("sparse"),
    text("subdir", format=_PATH),
    flag("tagged_only"),
    one_of("transport", "tcp rdma unix", only=8),
    text("username"),
    text("zfs-base-path", format=_PATH),
)

_ALL = "nodes disable content"
_FILES = (
    f"{_ALL} content-dirs shared prune-backups max-protected-backups format mkdir create-base-path create-subdirs"
    " is_mountpoint bwlimit preallocation"
)

CHANGEABLE: Mapping[str, frozenset[str]] = {
    "dir": frozenset(_FILES.split()),
    "lvmthin": frozenset(f"{_ALL} bwlimit".split()),
}
"""What may be changed by type of storage; of other types only what they all have."""

FIXED: Mapping[str, frozenset[str]] = {
    "dir": frozenset({"path", "snapshot-as-volume-chain"}),
    "lvmthin": frozenset({"thinpool", "vgname"}),
}

CHANGEABLE_EVERYWHERE = frozenset(_ALL.split())

_FILE_CONTENT = frozenset(["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "none", "import"])

CONTENT: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("dir", "nfs", "cifs", "btrfs"), _FILE_CONTENT),
    "cephfs": frozenset(["vztmpl", "iso", "backup", "snippets", "import"]),
    "pbs": frozenset(["backup", "none"]),
}
"""What a type of storage can hold; those not named here hold disks and nothing else."""

DISKS_ONLY = frozenset({"images", "rootdir"})
