"""Where a hypervisor was booted from, as far as its firmware and boot loader tell."""

from __future__ import annotations

import re

# systemd-boot leaves the partition that it was loaded from in this variable (systemd's Boot Loader Interface), as
# UTF-16 behind four bytes of attributes.
_LOADER_PARTITION = "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

BOOTED_FROM = f"""\
LC_ALL=C
export LC_ALL
efibootmgr -v 2>/dev/null | grep -E '^Boot(Current|[0-9A-Fa-f]{{4}})'
if [ -r {_LOADER_PARTITION} ]; then
  part=$(tail -c +5 {_LOADER_PARTITION} | tr -d '\\000' | tr A-F a-f)
  echo "Partition: $part"
  place=$(readlink -f "/dev/disk/by-partuuid/$part") && [ -b "$place" ] && echo "Place: $place" &&
    for link in /dev/disk/by-uuid/*; do
      [ "$(readlink -f "$link")" != "$place" ] || echo "Uuid: $(basename "$link")"
    done
fi
[ ! -r /etc/kernel/proxmox-boot-uuids ] || sed 's/^/Kept: /' /etc/kernel/proxmox-boot-uuids
for uuid in $(cat /etc/kernel/proxmox-boot-uuids 2>/dev/null); do
  [ -e "/dev/disk/by-uuid/$uuid" ] || echo "Missing: $uuid"
done
"""


def booted_from(printed: str) -> str:
    """Return what `BOOTED_FROM` printed as a sentence without an end; empty when it tells nothing."""
    values: dict[str, list[str]] = {}
    for line in printed.splitlines():
        key, _, value = line.partition(": ")
        values.setdefault(key, []).append(value.strip())
    parts = []
    number = "".join(values.get("BootCurrent", []))
    entry = re.search(rf"^Boot{number}\*?\s+(.*)$", printed, re.MULTILINE) if number else None
    if entry is not None:
        parts.append(f"the firmware booted {' '.join(entry[1].split())}")
    uuid = " ".join(values.get("Uuid", []))
    if "Partition" in values:
        place = " ".join(values.get("Place", values["Partition"]))
        parts.append(f"systemd-boot came from {place}{f' ({uuid})' if uuid else ''}")
    kept = [each for each in values.get("Kept", []) if each]
    missing = [each for each in values.get("Missing", []) if each]
    if kept:
        parts.append(f"proxmox-boot-tool keeps {', '.join(kept)}")
    if missing:
        parts.append(f"of which there is no {', '.join(missing)}")
    elif uuid and kept and uuid not in kept:
        parts.append("which is not that one")
    return "; ".join(parts)
