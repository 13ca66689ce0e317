"""What comes from GPU makers' own repositories: CUDA's toolkit, the container toolkit with Docker, ROCm."""

from __future__ import annotations

from tests.stand_in_packages.debs import Deb

CUDA = (
    Deb("cuda-toolkit-12-9", "12.9.1-1", programs={"usr/local/cuda-12.9/bin/nvcc": "#!/bin/sh\necho release 12.9\n"}),
    # Higher than Ubuntu's, and not to be taken.
    Deb("cuda-drivers", "615.10-1"),
    Deb("libnvidia-compute-580-server", "615.10-1"),
)
UBUNTU_DRIVER = Deb("libnvidia-compute-580-server", "580.173.02")

# Notes what it was started with, as the real one remembers its runtimes.
_DOCKER = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cp /etc/docker/daemon.json /run/docker-read; date +%%s%%N >/run/docker-started'
[Install]
WantedBy=multi-user.target
"""
# Sorts, as a Go program does with a map.
_CTK = """#!/usr/bin/python3
import json, sys
assert sys.argv[1:5] == ["--quiet", "runtime", "configure", "--runtime=docker"], sys.argv
path = sys.argv[5].removeprefix("--config=")
settings = json.load(open(path))
settings.setdefault("runtimes", {})["nvidia"] = {"args": [], "path": "nvidia-container-runtime"}
json.dump(settings, open(path, "w"), indent=4, sort_keys=True)
"""


def container_toolkit(version: str) -> tuple[Deb, ...]:
    """Return one version of the toolkit's four packages, which depend on no exact version of each other."""
    return (
        Deb("nvidia-container-toolkit", version, (f"nvidia-container-toolkit-base (>= {version})",)),
        Deb(
            "nvidia-container-toolkit-base", version, (f"libnvidia-container-tools (>= {version})",),
            programs={"usr/bin/nvidia-ctk": _CTK},
        ),
        Deb("libnvidia-container-tools", version, (f"libnvidia-container1 (>= {version})",)),
        Deb("libnvidia-container1", version),
    )  # fmt: skip


DOCKER = Deb("docker.io", "26.1", files={"usr/lib/systemd/system/docker.service": _DOCKER})

# The driver comes in with a boot: until then the kernel's own has the card.
_AMDGPU = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount -t tmpfs none /sys/module
ExecStart=mkdir /sys/module/amdgpu
ExecStart=sh -c 'modinfo -F version amdgpu >/sys/module/amdgpu/version'
ExecStart=touch /dev/kfd
[Install]
WantedBy=sysinit.target
"""


def amdgpu(version: str, kernel: str) -> tuple[Deb, ...]:
    """Return AMD's driver, whose module is built only where the kernel's headers are."""
    build = (
        f'[ ! -d "/usr/src/linux-headers-{kernel}" ] || '
        f"{{ mkdir -p /lib/modules/{kernel}; echo {version} >/lib/modules/{kernel}/amdgpu.version; }}\n"
        "systemctl enable --quiet stand-in-amdgpu.service"
    )
    unit = {"etc/systemd/system/stand-in-amdgpu.service": _AMDGPU}
    return (Deb("amdgpu-dkms", version, ("stand-in-kmod",), files=unit, after=build),)


def rocm(version: str) -> tuple[Deb, ...]:
    """Return ROCm's packages."""
    return tuple(Deb(name, version) for name in ("rocm-hip-runtime", "rocminfo", "rocm-smi-lib", "amd-smi-lib"))


def headers(kernel: str) -> Deb:
    """Return a kernel's headers, as Ubuntu has them."""
    return Deb(f"linux-headers-{kernel}", "6.8", files={f"usr/src/linux-headers-{kernel}/Makefile": ""})
