"""Reads what `prepare` must know of a hypervisor, files byte for byte, in one script; nothing is changed.

The script prints one line a fact, texts in base64, so that no terminal setting
or odd byte changes what is read.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from provisioner.adapters.proxmox.property_strings import parts_of
from provisioner.domain.host_files import (
    ORIGINALS_FOLDER,
    RECORD_FILE,
    RECORD_FOLDER,
    REFRESH_MARKER,
    HostFile,
    HostState,
    KeptFile,
    PreparationRecord,
    Refresh,
    RunningGuest,
    sha256,
)
from provisioner.errors import HypervisorError

# A configuration file of a hypervisor has a few KiB; what is larger is none, and is not carried over.
_LARGEST_FILE = 1 << 20
_PYTHON = "/usr/bin/python3"  # as playbooks/ansible.cfg says
_BOOT_MENU = "/boot/grub/grub.cfg"
_OWN_FOLDER = "/etc/pve/local"  # pmxcfs links it to nodes/NAME, NAME being what the cluster calls this server
_END = "end"

SCRIPT = f"""\
LC_ALL=C
export LC_ALL
word() {{ printf %s "$1" | base64 -w0; }}
show() {{
  if [ -L "$1" ]; then
    printf 'odd %s %s\\n' "$(word "$1")" "$(word "is a link to $(readlink "$1")")"
  elif [ -f "$1" ]; then
    if [ "$(stat -c %s "$1")" -gt {_LARGEST_FILE} ]; then
      printf 'odd %s %s\\n' "$(word "$1")" "$(word 'is larger than 1 MiB')"
    else
      printf 'file %s %s %s\\n' "$(word "$1")" "$(stat -c '%a %U:%u %G:%g' "$1")" "$(base64 -w0 "$1")"
    fi
  elif [ -e "$1" ]; then
    printf 'odd %s %s\\n' "$(word "$1")" "$(word 'is no plain file')"
  fi
}}
ask() {{ timeout 30 pvesh get "$@" --output-format json 2>/dev/null | base64 -w0; }}
printf 'boot %s\\n' "$(cat /proc/sys/kernel/random/boot_id)"
[ ! -L {_OWN_FOLDER} ] || printf 'node %s\\n' "$(word "$(basename "$(readlink {_OWN_FOLDER})")")"
for path in /etc/default/grub /etc/default/grub.d/*.cfg /etc/kernel/cmdline /etc/modules /etc/modules-load.d/*.conf \\
    /etc/modprobe.d/*.conf /etc/initramfs-tools/modules /etc/initramfs-tools/scripts/init-top/provisioner-vfio \\
    {RECORD_FILE} {REFRESH_MARKER} {ORIGINALS_FOLDER}/*; do
  show "$path"
done
[ -x {_PYTHON} ] || echo 'no-python'
for folder in /etc /boot /var/lib; do
  [ -w "$folder" ] || printf 'read-only %s\\n' "$folder"
done
printf 'mappings %s\\n' "$(ask /cluster/mapping/pci)"
printf 'guests %s\\n' "$(ask /cluster/resources --type vm)"
if [ -f {_BOOT_MENU} ]; then
  echo menu
  grep -E '^[[:space:]]*linux' {_BOOT_MENU} | while read -r line; do printf 'entry %s\\n' "$(word "$line")"; done
fi
echo {_END}
"""


def host_state(printed: str, *, name: str, subject: str) -> HostState:
    """Return what `SCRIPT` printed, as a value.

    Args:
        printed: its output.
        name: the hypervisor's, as Proxmox knows it.
        subject: what errors are about.

    Raises:
        HypervisorError: the answer broke off, or the record of earlier runs is damaged.
    """
    files: dict[str, HostFile] = {}
    boot_id, has_python, is_whole = "", True, False
    node: str | None = None
    read_only: list[str] = []
    menu: list[str] | None = None
    answers: dict[str, object] = {}
    for line in printed.split("\n"):
        kind, *words = line.split(" ")
        try:
            if kind == "boot":
                boot_id = words[0]
            elif kind == "node":
                node = _plain(words[0]) or None
            elif kind == "file":
                file = _file(*words)
                files[file.path] = file
            elif kind == "odd":
                path = _plain(words[0])
                files[path] = HostFile(path, None, trouble=_plain(words[1]))
            elif kind == "no-python":
                has_python = False
            elif kind == "read-only":
                read_only.append(words[0])
            elif kind in ("mappings", "guests"):
                answers[kind] = _answer(words[0])
            elif kind == "menu":
                menu = []
            elif kind == "entry" and menu is not None:
                menu.append(_plain(words[0]))
            elif kind == _END:
                is_whole = True
        except (IndexError, TypeError, binascii.Error) as error:
            raise _broken(subject) from error
    if not is_whole or not boot_id:
        raise _broken(subject)
    record = _text(files.pop(RECORD_FILE, None))
    marker = _text(files.pop(REFRESH_MARKER, None))
    return HostState(
        boot_id=boot_id,
        node=node,
        files=files,
        record=PreparationRecord() if record is None else read_record(record, subject=subject),
        record_sum=None if record is None else sha256(record),
        refresh_needed=() if marker is None else _refreshes(marker),
        has_python=has_python,
        read_only=tuple(read_only),
        boot_menu=None if menu is None else tuple(menu),
        mapped_slots=_mapped_slots(answers.get("mappings"), name),
        guests=_guests(answers.get("guests"), name),
    )


def _answer(word: str) -> object:
    """Return what pvesh said, None when it said nothing that can be read."""
    try:
        return json.loads(_plain(word))
    except ValueError:
        return None


def _mapped_slots(answer: object, name: str) -> Mapping[str, tuple[str, ...]] | None:
    if not isinstance(answer, list):
        return None
    found: dict[str, tuple[str, ...]] = {}
    for mapping in answer:
        entries = [parts_of(entry, "") for entry in mapping.get("map") or []]
        paths = [path for entry in entries if entry.get("node") == name for path in entry.get("path", "").split(";")]
        found[str(mapping.get("id"))] = tuple(path.partition(".")[0] for path in paths if path)
    return found


def _guests(answer: object, name: str) -> tuple[RunningGuest, ...] | None:
    if not isinstance(answer, list):
        return None
    running = [each for each in answer if each.get("node") == name and each.get("status") == "running"]
    return tuple(
        RunningGuest(int(each["vmid"]), str(each.get("name") or ""), each.get("type") == "lxc")
        for each in sorted(running, key=lambda each: int(each["vmid"]))
    )


def _plain(word: str) -> str:
    return base64.b64decode(word, validate=True).decode("utf-8", "backslashreplace")


def _file(path: str, mode: str, owner: str, group: str, content: str = "") -> HostFile:
    data = base64.b64decode(content, validate=True)
    try:
        text: str | None = data.decode()
    except UnicodeDecodeError:
        text = None
    if "\0" in (text or ""):
        text = None
    trouble = "" if text is not None else "is not UTF-8 text"
    return HostFile(_plain(path), text, mode.zfill(4), _name(owner), _name(group), trouble)


def _name(word: str) -> str:
    """Return the name of ``NAME:ID``, or the number where the hypervisor has no name for it."""
    name, _, number = word.partition(":")
    return number if name == "UNKNOWN" else name


def _text(file: HostFile | None) -> str | None:
    return None if file is None else file.content or ""


def _broken(subject: str) -> HypervisorError:
    return HypervisorError(
        "cannot read the hypervisor's files: its answer broke off",
        subject=subject,
        next_step="try again; if it stays so, log in by hand and look whether base64 and stat work there",
        retryable=True,
    )


def _refreshes(marker: str) -> tuple[Refresh, ...]:
    """Return what the marker names; one that cannot be read means everything."""
    named = {line.strip() for line in marker.splitlines()}
    return tuple(each for each in Refresh if each.value in named) or tuple(Refresh)


def render_record(record: PreparationRecord) -> str:
    """Return a record as the JSON that lies on the hypervisor; the playbooks read it too."""
    value = {
        "about": "What provisioner prepare changed here. Originals lie beside this file; prepare --undo restores them.",
        "boot_id": record.boot_id,
        "files": [
            {
                "path": kept.path,
                "before": kept.before or "absent",
                "after": kept.after or "absent",
                "original": kept.copy or "",
                "mode": kept.mode,
                "owner": kept.owner,
                "group": kept.group,
                "refresh": [each.value for each in kept.refresh],
                "earlier_copies": list(kept.earlier_copies),
            }
            for kept in record.files
        ],
    }
    return json.dumps(value, indent=2) + "\n"


def read_record(text: str, *, subject: str) -> PreparationRecord:
    """Read such a record. Raises HypervisorError when it is damaged."""
    try:
        value = json.loads(text)
        return PreparationRecord(tuple(_kept(entry) for entry in value["files"]), value["boot_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise HypervisorError(
            f"cannot read the record of earlier changes: {RECORD_FILE} is damaged ({error})",
            subject=subject,
            next_step=f"compare the files in {ORIGINALS_FOLDER} with those in /etc, restore what you want back, then "
            f"move {RECORD_FOLDER} away",
        ) from error


def _kept(entry: Mapping[str, object]) -> KeptFile:
    def text(key: str) -> str:
        value = entry[key]
        if not isinstance(value, str):
            raise TypeError(f"{key} is no text")
        return value

    def texts(key: str) -> list[str]:
        value = entry[key]
        if not isinstance(value, list):
            raise TypeError(f"{key} is no list")
        return [str(each) for each in value]

    def sum_or_none(key: str) -> str | None:
        return None if text(key) == "absent" else text(key)

    return KeptFile(
        path=text("path"),
        before=sum_or_none("before"),
        after=sum_or_none("after"),
        copy=text("original") or None,
        mode=text("mode"),
        owner=text("owner"),
        group=text("group"),
        refresh=tuple(Refresh(each) for each in texts("refresh")),
        earlier_copies=tuple(texts("earlier_copies")),
    )
