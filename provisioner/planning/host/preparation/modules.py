"""Which modules are loaded at boot: vfio's own, and not the one that is gone; pure."""

from __future__ import annotations

from provisioner.domain.host import HostFacts
from provisioner.domain.host_files import HostFile, HostState, Refresh
from provisioner.domain.host_preparation import FileChange

MODULES_FILE = "/etc/modules-load.d/provisioner-vfio.conf"
INITRAMFS_MODULES = "/etc/initramfs-tools/modules"
_VFIO = ("vfio", "vfio_iommu_type1", "vfio_pci")
_GONE = "vfio_virqfd"


def module_files(facts: HostFacts, state: HostState) -> list[FileChange]:
    """Return the changes to lists of modules."""
    changes = [change for file in _lists(state) if (change := _without_gone(facts, file)) is not None]
    listed = {
        name for file in _lists(state) if file.path not in (MODULES_FILE, INITRAMFS_MODULES) for name in _names(file)
    }
    text = "# Written by `provisioner prepare`; `provisioner prepare --undo` takes it away.\n" + "\n".join(_VFIO) + "\n"
    own = state.text(MODULES_FILE)
    if own != text and (own is not None or not listed.issuperset(_VFIO)):
        why = "vfio is there from boot on, so that early binding works and a VM's start waits for no module"
        changes.append(FileChange(MODULES_FILE, own, text, why))
    return changes


def _lists(state: HostState) -> list[HostFile]:
    """Return the files that list modules. Links (Debian has one to /etc/modules) are read where they lead."""
    return [
        file
        for path, file in sorted(state.files.items())
        if file.content is not None
        and (
            path in ("/etc/modules", INITRAMFS_MODULES)
            or (path.startswith("/etc/modules-load.d/") and path.endswith(".conf"))
        )
    ]


def _names(file: HostFile) -> list[str]:
    lines = (line.strip() for line in (file.content or "").split("\n"))
    return [line.split()[0].replace("-", "_") for line in lines if line and line[0] not in "#;"]


def _without_gone(facts: HostFacts, file: HostFile) -> FileChange | None:
    if facts.kernel is None or not facts.kernel.is_at_least(6, 2) or file.content is None:
        return None
    kept = []
    for line in file.content.split("\n"):
        code, hash_, comment = line.partition("#")
        words = [word for word in code.split() if word.replace("-", "_") != _GONE]
        if len(words) == len(code.split()):
            kept.append(line)
        elif words or comment.strip():
            kept.append(" ".join([*words, *([f"{hash_}{comment}"] if hash_ else [])]))
    text = "\n".join(kept)
    if text == file.content:
        return None
    why = f"{_GONE} became part of vfio in kernel 6.2; loading it only fails at boot"
    refresh = (Refresh.INITRAMFS,) if file.path == INITRAMFS_MODULES else ()
    return FileChange(file.path, file.content, text, why, file.mode, file.owner, file.group, refresh)
