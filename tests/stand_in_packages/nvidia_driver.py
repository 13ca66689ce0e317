"""Packages of the NVIDIA driver's names, for guests without a card.

In place of a kernel module stand scripts that answer as `modinfo` and `modprobe`
would, and a folder over /sys/module; in place of nvidia-smi a script that
compares versions as it does. What DKMS builds is only built where the kernel's
headers were laid down before.
"""

from __future__ import annotations

from pathlib import Path

from tests.stand_in_packages.debs import Deb, trusted_repository
from tests.stand_in_packages.gpu_software import headers

BRANCH = "580-server"
# Where real modules are laid, a file with the version.
_MODINFO = """#!/bin/sh
# modinfo -F version nvidia
case $3 in
nvidia | amdgpu) cat "/lib/modules/$(uname -r)/$3.version" 2>/dev/null ;;
*) exec /usr/sbin/modinfo "$@" ;;
esac
"""
_MODPROBE = """#!/bin/sh
case $1 in nvidia | nvidia_uvm) ;; *) exec /usr/sbin/modprobe "$@" ;; esac
version=$(modinfo -F version nvidia) || exit 1
mountpoint -q /sys/module || mount -t tmpfs none /sys/module
mkdir -p "/sys/module/$1"
[ "$1" = nvidia_uvm ] || echo "$version" >/sys/module/nvidia/version
"""
KMOD = Deb("stand-in-kmod", "1", programs={"usr/local/sbin/modinfo": _MODINFO, "usr/local/sbin/modprobe": _MODPROBE})
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
case $1 in
*persistence_mode) [ -e /run/nvidia-persistenced/on ] && echo Enabled || echo Disabled ;;
*) echo "$own" ;;
esac
"""
# As Ubuntu's packages have it, without an install section.
_PERSISTENCED = """[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target
StopWhenUnneeded=true
Before=systemd-backlight@backlight:nvidia_0.service
[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
ExecStopPost=/bin/rm -rf /var/run/nvidia-persistenced
"""
# On is on until it ends.
_DAEMON = """#!/bin/sh
mkdir -p /run/nvidia-persistenced
case " $* " in *" --no-persistence-mode "*) ;; *) touch /run/nvidia-persistenced/on ;; esac
sleep infinity >/dev/null 2>&1 &
"""
# As DKMS: without headers the module is only noted, and that is no error.
_BUILD = """for headers in /usr/src/linux-headers-*; do
  [ -d "$headers" ] || continue
  kernel=${headers#/usr/src/linux-headers-}
  mkdir -p "/lib/modules/$kernel"
  echo VERSION >"/lib/modules/$kernel/nvidia.version"
done
systemctl enable --quiet stand-in-load.service
"""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


def publish(folder: Path, version: str, kernel: str) -> None:
    """Write a repository with one version of everything into a folder, for `trusted_repository`'s words."""
    trusted_repository(folder, driver(version, kernel))


def driver(version: str, kernel: str) -> tuple[Deb, ...]:
    """Return one version of everything for one kernel."""
    modules = f"linux-modules-nvidia-{BRANCH}-open"
    library = f"libnvidia-compute-{BRANCH}"
    same = f"{library} (= {version})"
    load = {"etc/systemd/system/stand-in-load.service": _LOAD}
    return (
        KMOD,
        Deb(
            f"{modules}-{kernel}", version, (KMOD.name,),
            files={f"lib/modules/{kernel}/nvidia.version": version + "\n", **load},
            after="systemctl enable --quiet stand-in-load.service",
        ),
        Deb(f"{modules}-generic", version, (f"{modules}-{kernel} (= {version})",)),
        Deb("dkms", "3.0"),
        headers(kernel),
        Deb(
            f"nvidia-dkms-{BRANCH}-open", version, ("dkms", KMOD.name), files=load,
            after=_BUILD.replace("VERSION", version),
        ),
        Deb(
            library, version, files={f"{_LIBRARIES}/libnvidia-ml.so.{version}": ""},
            links={f"{_LIBRARIES}/libnvidia-ml.so.1": f"libnvidia-ml.so.{version}"},
        ),
        Deb(
            f"nvidia-utils-{BRANCH}", version, (same,),
            programs={"usr/bin/nvidia-smi": _SMI.replace("VERSION", version)},
        ),
        Deb(
            f"nvidia-compute-utils-{BRANCH}", version, (same,),
            files={"lib/systemd/system/nvidia-persistenced.service": _PERSISTENCED},
            programs={"usr/bin/nvidia-persistenced": _DAEMON},
        ),
        Deb(
            f"nvidia-headless-no-dkms-{BRANCH}-open", version,
            (same, f"nvidia-compute-utils-{BRANCH} (= {version})"),
        ),
    )  # fmt: skip
