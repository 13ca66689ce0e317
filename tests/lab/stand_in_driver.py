"""An apt repository with packages of the NVIDIA driver's names, for guests without a card.

The packages are tiny, but what apt, dpkg, systemd and the playbook do with them
is real: order, dependencies, holds, units, a reboot. In place of a kernel module
stand scripts that answer as `modinfo` and `modprobe` would, and a folder over
/sys/module; in place of nvidia-smi a script that compares versions as it does.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

BRANCH = "580-server"
_MODINFO = """#!/bin/sh
# modinfo -F version nvidia
[ "$3" = nvidia ] || exec /usr/sbin/modinfo "$@"
cat "/lib/modules/$(uname -r)/nvidia.version" 2>/dev/null
"""
_MODPROBE = """#!/bin/sh
case $1 in nvidia | nvidia_uvm) ;; *) exec /usr/sbin/modprobe "$@" ;; esac
version=$(modinfo -F version nvidia) || exit 1
mountpoint -q /sys/module || mount -t tmpfs none /sys/module
mkdir -p "/sys/module/$1"
[ "$1" = nvidia_uvm ] || echo "$version" >/sys/module/nvidia/version
"""
# What systemd-modules-load does with real modules.
_LOAD = """[Unit]
After=systemd-modules-load.service local-fs.target
Before=provisioner-gpu-check.service nvidia-persistenced.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for m in nvidia nvidia_uvm; do modprobe $m; done'
[Install]
WantedBy=multi-user.target
"""
_SMI = """#!/bin/sh
own=VERSION
loaded=$(cat /sys/module/nvidia/version 2>/dev/null) || {
  echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9; }
[ "$loaded" = "$own" ] || { echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18; }
echo "$own"
"""
_PERSISTENCED = """[Unit]
Description=NVIDIA Persistence Daemon
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


def publish(folder: Path, version: str, kernel: str) -> None:
    """Write a repository with one version of everything into a folder: ``deb [trusted=yes] file:FOLDER ./``."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.deb"):
        old.unlink()
    modules = f"linux-modules-nvidia-{BRANCH}-open"
    library = f"libnvidia-compute-{BRANCH}"
    _package(
        folder, f"{modules}-{kernel}", version, [],
        {f"lib/modules/{kernel}/nvidia.version": version + "\n", "etc/systemd/system/stand-in-load.service": _LOAD},
        {"usr/local/sbin/modinfo": _MODINFO, "usr/local/sbin/modprobe": _MODPROBE},
        after="systemctl enable --quiet stand-in-load.service",
    )  # fmt: skip
    _package(folder, f"{modules}-generic", version, [f"{modules}-{kernel} (= {version})"])
    _package(
        folder, library, version, [],
        {f"{_LIBRARIES}/libnvidia-ml.so.{version}": ""}, links={f"{_LIBRARIES}/libnvidia-ml.so.1": version},
    )  # fmt: skip
    smi = {"usr/bin/nvidia-smi": _SMI.replace("VERSION", version)}
    _package(folder, f"nvidia-utils-{BRANCH}", version, [f"{library} (= {version})"], programs=smi)
    unit = {"lib/systemd/system/nvidia-persistenced.service": _PERSISTENCED}
    _package(folder, f"nvidia-compute-utils-{BRANCH}", version, [f"{library} (= {version})"], unit)
    needs = [f"{library} (= {version})", f"nvidia-compute-utils-{BRANCH} (= {version})"]
    _package(folder, f"nvidia-headless-no-dkms-{BRANCH}-open", version, needs)
    (folder / "Packages").write_text("\n".join(_entry(deb) for deb in sorted(folder.glob("*.deb"))))


def _package(
    folder: Path,
    name: str,
    version: str,
    depends: list[str],
    files: dict[str, str] | None = None,
    programs: dict[str, str] | None = None,
    links: dict[str, str] | None = None,
    after: str = "",
) -> None:
    tree = folder / "tree"
    for path, text in {**(files or {}), **(programs or {})}.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if programs and path in programs else 0o644)
    for path, to in (links or {}).items():
        (tree / path).symlink_to(f"libnvidia-ml.so.{to}")
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    needs = f"Depends: {', '.join(depends)}\n" if depends else ""
    (control / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: test <test@localhost>\n"
        f"{needs}Description: stand-in\n"
    )
    if after:
        (control / "postinst").write_text(f"#!/bin/sh\nset -e\n{after}\n")
        (control / "postinst").chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(folder / f"{name}_{version}.deb")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    subprocess.run(["rm", "-r", str(tree)], check=True)


def _entry(deb: Path) -> str:
    fields = subprocess.run(
        ["dpkg-deb", "--field", str(deb)], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    data = deb.read_bytes()
    return f"{fields}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
