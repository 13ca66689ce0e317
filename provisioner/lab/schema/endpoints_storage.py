"""Storage paths: what is stored where, and the three ways to bring a file in."""

from __future__ import annotations

from provisioner.lab.schema import permissions as may
from provisioner.lab.schema.language import flag, one_of, required, text, whole
from provisioner.lab.schema.permissions import ALL, Row
from provisioner.lab.schema.qemu_options import NODE, VMID
from provisioner.lab.schema.storage_options import UPDATE

_STORAGE_ID = text("storage", format="pve-storage-id")
_STORAGE = required(_STORAGE_ID)
_VOLUME = required(text("volume"))
_BASE = "/nodes/{node}/storage/{storage}"
_SEES = may.has_any("/storage/{storage}", "Datastore.Audit Datastore.AllocateSpace")
_MAY_FETCH = may.one_of(
    may.has("/", "Sys.Audit Sys.Modify"),
    may.has("/nodes/{node}", "Sys.AccessNetwork"),
)
_TYPES = "btrfs cephfs cifs dir esxi iscsi iscsidirect lvm lvmthin nfs pbs rbd zfs zfspool"
_INCOMING = (
    NODE,
    _STORAGE,
    text("checksum", requires="checksum-algorithm"),
    one_of("checksum-algorithm", "md5 sha1 sha224 sha256 sha384 sha512", requires="checksum"),
    required(one_of("content", "iso vztmpl import", format="pve-storage-content")),
    required(text("filename", max_length=255)),
)
_URL = required(text("url", pattern="https?://.*"))
_VERIFY = flag("verify-certificates", 1)

STORAGE: tuple[Row, ...] = (
    (
        "GET",
        "/storage",
        (one_of("type", _TYPES, only=9), one_of("type", _TYPES.replace("esxi ", "esxi glusterfs "), only=8)),
        ALL,
    ),
    ("GET", "/storage/{storage}", (_STORAGE,), may.has("/storage/{storage}", "Datastore.Allocate")),
    ("PUT", "/storage/{storage}", UPDATE, may.has("/storage", "Datastore.Allocate")),
    (
        "GET",
        "/nodes/{node}/storage",
        (
            NODE,
            text("content", format="pve-storage-content-list"),
            flag("enabled", 0),
            flag("format", 0),
            _STORAGE_ID,
            text("target", format="pve-node"),
        ),
        ALL,
    ),
    ("GET", _BASE, (NODE, _STORAGE), _SEES),
    ("GET", _BASE + "/status", (NODE, _STORAGE), _SEES),
    (
        "GET",
        _BASE + "/content",
        (
            NODE,
            _STORAGE,
            text("content", format="pve-storage-content"),
            whole("vmid", 100, 999999999, format="pve-vmid"),
        ),
        _SEES,
    ),
    (
        "POST",
        _BASE + "/content",
        (
            NODE,
            _STORAGE,
            VMID,
            required(text("filename")),
            one_of("format", "raw qcow2 subvol vmdk", requires="size"),
            required(text("size", pattern=r"\d+[MG]?")),
        ),
        may.has("/storage/{storage}", "Datastore.AllocateSpace"),
    ),
    ("GET", _BASE + "/content/{volume}", (NODE, _STORAGE_ID, _VOLUME), ALL),
    ("DELETE", _BASE + "/content/{volume}", (NODE, _STORAGE_ID, _VOLUME, whole("delay", 1, 30)), ALL),
    (
        "POST",
        _BASE + "/upload",
        (*_INCOMING, text("tmpfilename", pattern="/var/tmp/pveupload-[0-9a-f]+")),  # noqa: S108 - Proxmox's own
        may.has("/storage/{storage}", "Datastore.AllocateTemplate"),
    ),
    (
        "POST",
        _BASE + "/download-url",
        (*_INCOMING, _URL, _VERIFY, text("compression")),
        may.all_of(may.has("/storage/{storage}", "Datastore.AllocateTemplate"), _MAY_FETCH),
    ),
    ("GET", "/nodes/{node}/query-url-metadata", (NODE, _URL, _VERIFY), _MAY_FETCH),
)
