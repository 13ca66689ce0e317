"""The stand-in's root directory: of the real machine only /usr (programs and libraries) and /dev are seen in it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.pve_host import files
from tests.pve_host.files import ESP, ESP_UUID, GRUB, HARDWARE, SYSTEMD_BOOT, write
from tests.pve_host.machine import AMD, INTEL, Hardware, devices_from, groups_for

COMMANDS = Path(__file__).parent / "commands"
USER = "admin"
_USER_ID = 2000
_DEFAULT_KERNEL = "6.8.12-4-pve"
# What programs need of a machine's own /etc to start at all; nothing in it is a secret. Folders are shown, not copied.
_ETC_FILES = ("ld.so.cache", "ld.so.conf", "localtime", "login.defs", "protocols", "services", "ssl/openssl.cnf")
ETC_FOLDERS = ("alternatives", "ld.so.conf.d", "security", "terminfo", "perl", "python3.11", "python3.12", "python3.13")
_OTHER_NAMES = {
    "reboot": "shutdown", "poweroff": "shutdown", "halt": "shutdown",
}  # fmt: skip
_PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\n"
    "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    f"{USER}:x:{_USER_ID}:{_USER_ID}::/home/{USER}:/bin/bash\n"
)
_IN_SBIN = frozenset(
    {"update-grub", "update-initramfs", "proxmox-boot-tool", "shutdown", "reboot", "poweroff", "halt", "lsmod"}
)


def build(
    root: Path, sections: Mapping[str, str], *, groups_when_on: Mapping[str, int], has_vtd: bool, uefi: bool | None
) -> None:
    """Write the whole root directory of a host that `sections` describe."""
    root.mkdir()
    root.chmod(0o755)
    loader = _loader(sections)
    # A dump without a command line must have its loader from somewhere: the firmware, then.
    is_told_by_firmware = loader == SYSTEMD_BOOT or ("bootloader" in sections and "cmdline" not in sections)
    is_uefi = is_told_by_firmware if uefi is None else uefi
    cpu = AMD if "AuthenticAMD" in sections.get("cpu", "") else INTEL
    if "cpu" not in sections and re.search(
        r"Host bridge.*\[1022:|AMD-Vi: (?!AMD IOMMUv2)", "\n".join(sections.values())
    ):
        cpu = AMD
    devices = devices_from(sections.get("lspci", ""))
    known = {**groups_when_on, **files.groups_in(sections.get("iommu_groups", ""))}
    hardware = Hardware(cpu, devices, groups_for(devices, known), has_vtd)

    for folder in ("proc", "sys", "dev", "run/sshd", "tmp", "var/tmp", "var/lib", "var/log", "boot/grub", "etc/pve"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "var/tmp"):
        (root / folder).chmod(0o1777)
    for folder in ("show", "hang", "fail", "proc", "esp"):
        (root / HARDWARE / folder).mkdir(parents=True)
    for log in ("commands.log", "sessions.log"):
        write(root / HARDWARE / log, "")
        (root / HARDWARE / log).chmod(0o666)
    os.mkfifo(root / HARDWARE / "control")
    (root / HARDWARE / "control").chmod(0o600)
    write(root / HARDWARE / "secure_boot", str(int("enabled" in sections.get("secureboot", ""))))
    if is_uefi:
        write(root / HARDWARE / "uefi", "")

    _etc(root)
    _configuration(root, sections)
    kernel = _kernel(sections)
    _boot_files(root, sections, loader=loader, kernel=kernel, is_uefi=is_uefi)
    files.write_machine(root, hardware, boot_loader=loader)
    files.write_running(root, sections, devices, cpu=cpu)
    _programs(root, absent=_absent(sections))


def _loader(sections: Mapping[str, str]) -> str:
    return SYSTEMD_BOOT if "systemd-boot" in sections.get("bootloader", "") else GRUB


def _kernel(sections: Mapping[str, str]) -> str:
    found = re.search(r"vmlinuz-(\S+)", sections.get("cmdline", ""))
    return sections.get("uname", "").strip() or (found[1] if found else _DEFAULT_KERNEL)


def _absent(sections: Mapping[str, str]) -> set[str]:
    absent = {name for name in ("lspci", "lsmod", "pveversion") if name not in sections}
    if "secureboot" not in sections:
        absent.add("mokutil")
    if "bootloader" not in sections:
        absent |= {"efibootmgr", "proxmox-boot-tool"}
    return absent


def _etc(root: Path) -> None:
    etc = root / "etc"
    for name in ETC_FOLDERS:
        if (Path("/etc") / name).is_dir():
            (etc / name).mkdir()
    for name in _ETC_FILES:
        if (Path("/etc") / name).exists():
            (etc / name).parent.mkdir(exist_ok=True)
            shutil.copy(Path("/etc") / name, etc / name)
    write(etc / "passwd", _PASSWD)
    write(
        etc / "group", "root:x:0:\ntty:x:5:\nshadow:x:42:\nsudo:x:27:\nnogroup:x:65534:\n" + f"{USER}:x:{_USER_ID}:\n"
    )
    write(etc / "nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    write(etc / "hosts", "127.0.0.1 localhost\n127.0.1.1 pve1.example.org pve1\n")
    write(etc / "hostname", "pve1\n")
    write(etc / "os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n')
    write(
        etc / "pam.d" / "sudo",
        "auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
    )
    for home in (root / "root", root / "home" / USER):
        home.mkdir(parents=True, mode=0o700)
    os.chown(root / "home" / USER, _USER_ID, _USER_ID)


def _configuration(root: Path, sections: Mapping[str, str]) -> None:
    """Write what the dump quotes of modules and modprobe.d, each line into its file."""
    for name, folders in (("modprobe", ["etc/modprobe.d"]), ("modules", ["etc/modules-load.d"])):
        if name not in sections:
            continue
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for line in sections[name].splitlines():
            file, _, text = line.partition(": ") if line.startswith("/") else ("", "", line)
            default = "/etc/modprobe.d/local.conf" if name == "modprobe" else "/etc/modules"
            place = root / (file or default).lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("a") as out:
                out.write(text + "\n")


def _boot_files(root: Path, sections: Mapping[str, str], *, loader: str, kernel: str, is_uefi: bool) -> None:
    """Write the boot loader's sources, and what it has compiled of them: the command line that runs now."""
    running = sections.get("cmdline", "").split()
    words = [word for word in running if not word.startswith(("BOOT_IMAGE=", "initrd="))]
    default_root = "root=ZFS=rpool/ROOT/pve-1 boot=zfs" if loader == SYSTEMD_BOOT else "root=/dev/mapper/pve-root ro"
    if not any(word.startswith("root=") for word in words):
        words = default_root.split() + words
    write(root / HARDWARE / "root_words", " ".join(word for word in words if word.startswith("root=") or word == "ro"))
    write(root / "boot" / f"vmlinuz-{kernel}", "the kernel\n")
    initrd = "".join(_packed(root))
    write(root / "boot" / f"initrd.img-{kernel}", initrd)
    source = sections.get("kernel_cmdline_file")
    entry = f"linux /boot/vmlinuz-{kernel} {' '.join(words)}"
    write(root / "boot" / "grub" / "grub.cfg", f"menuentry 'Proxmox VE GNU/Linux' {{\n\t{entry}\n}}\n")
    (root / "etc" / "default").mkdir(exist_ok=True)
    (root / "etc" / "kernel").mkdir(exist_ok=True)
    if loader == SYSTEMD_BOOT:
        write(root / "etc" / "kernel" / "proxmox-boot-uuids", f"{ESP_UUID}\n")
        write(root / "etc" / "kernel" / "cmdline", source or " ".join(words) + "\n")
        write(root / "etc" / "default" / "grub", _grub_defaults('GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n'))
        place = root / ESP
        write(place / "loader" / "loader.conf", "timeout 3\ndefault proxmox-*\n")
        write(place / "loader" / "entries" / f"proxmox-{kernel}.conf", _entry(kernel, " ".join(words)))
        write(place / "EFI" / "proxmox" / kernel / f"vmlinuz-{kernel}", "the kernel\n")
        write(place / "EFI" / "proxmox" / kernel / f"initrd.img-{kernel}", initrd)
    elif source is not None:
        write(root / "etc" / "default" / "grub", _grub_defaults(source))
    file = "systemd\\systemd-bootx64.efi" if loader == SYSTEMD_BOOT else "proxmox\\shimx64.efi"
    label = "Linux Boot Manager" if loader == SYSTEMD_BOOT else "proxmox"
    if is_uefi:
        firmware = "BootCurrent: 0001\nTimeout: 1 seconds\nBootOrder: 0001,0000\nBoot0000* UEFI Shell\tFv(shell)\n"
        write(root / HARDWARE / "show" / "efibootmgr", f"{firmware}Boot0001* {label}\tHD(2,GPT)/File(\\EFI\\{file})\n")


def _entry(kernel: str, command_line: str) -> str:
    folder = f"/EFI/proxmox/{kernel}"
    return (
        f"title    Proxmox Virtual Environment\nversion  {kernel}\noptions  {command_line}\n"
        f"linux    {folder}/vmlinuz-{kernel}\ninitrd   {folder}/initrd.img-{kernel}\n"
    )


def _grub_defaults(lines: str) -> str:
    quoted = lines if "GRUB_" in lines else f'GRUB_CMDLINE_LINUX_DEFAULT="{lines.strip()}"\n'
    return (
        "# If you change this file, run 'update-grub' afterwards to update\n# /boot/grub/grub.cfg.\n\n"
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\nGRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`\n"
        + quoted
        + ("" if "GRUB_CMDLINE_LINUX=" in quoted else 'GRUB_CMDLINE_LINUX=""\n')
    )


def _packed(root: Path) -> Iterable[str]:
    """What update-initramfs packs of the configuration, in this stand-in's words: lines `FILE: LINE`."""
    for path in sorted((root / "etc" / "modprobe.d").glob("*.conf")):
        yield from (f"/etc/modprobe.d/{path.name}: {line}\n" for line in path.read_text().splitlines())


def _programs(root: Path, *, absent: set[str]) -> None:
    """Lay out the programs: links to the machine's own, and the stand-in's in place of those that must not be."""
    usr = root / "usr"
    ours: dict[str, Path] = {path.name: path for path in COMMANDS.iterdir() if path.suffix != ".inc"}
    ours |= {name: ours[same] for name, same in _OTHER_NAMES.items()}
    # Programs that would look at or change the real machine, for which there is no stand-in.
    hidden = {"kexec", "telinit", "init", "modprobe", "insmod", "rmmod", "kmod", "sysctl", "grub-mkconfig", "bootctl"}
    for folder in ("bin", "sbin"):
        (usr / folder).mkdir(parents=True)
        for name in os.listdir(f"/usr/{folder}"):
            if name not in ours and name not in hidden:
                (usr / folder / name).symlink_to(f"/.machine/usr/{folder}/{name}")
    for name, source in ours.items():
        if name in absent:
            continue
        place = usr / ("sbin" if name in _IN_SBIN else "bin") / name
        shutil.copy(source, place)
        place.chmod(0o755)
    shutil.copy(COMMANDS / "prelude.inc", root / HARDWARE / "prelude")
    if not (usr / "bin" / "python3").is_symlink():
        (usr / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
    for name in os.listdir("/usr"):
        if name not in ("bin", "sbin"):
            (usr / name).mkdir()
    for name in ("bin", "sbin"):
        (root / ".machine" / "usr" / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        real = Path("/") / name
        if name in ("bin", "sbin") or real.is_symlink():
            (root / name).symlink_to(f"usr/{name}")
        elif real.is_dir():
            (root / name).mkdir()
