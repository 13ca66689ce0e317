"""A person's own user-data beside ours: read, checked, merged.

What cloud-init makes of two cloud-configs depends on merge rules that few know,
so the guest gets one document. Lists are joined, ours first; mappings are
merged; a key that keeps the guest reachable and its host key known is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from provisioner.errors import InputError

OURS = {
    "hostname": "the node's name",
    "fqdn": "the node's name",
    "preserve_hostname": "the node's name",
    "ssh_keys": "the guest's host key, known before the first login",
    "ssh_deletekeys": "the guest's host key, known before the first login",
    "ssh_genkeytypes": "the guest's host key, known before the first login",
    "ssh_pwauth": "logins by key only",
    "disable_root": "logins by key only",
    "network": "the node's address (address, gateway, nameservers in the fleet file)",
    "package_upgrade": "a kernel that stays under its GPU driver",
    "package_reboot_if_required": "a first boot that ends",
    "power_state": "a first boot that ends",
}
"""Keys that an extra document may not have, and what stands behind each."""

_FIRST_LINE = "#cloud-config"


def read_extra(path: Path) -> dict[str, Any]:
    """Read a person's cloud-config.

    Raises:
        InputError: it cannot be read, is no cloud-config, or has a key of ours.
    """
    subject = f"extra user-data {path}"
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(
            f"cannot read the extra user-data: {reason}",
            subject=subject,
            next_step="check extra_user_data in the fleet file",
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise InputError(
            f"cannot read the extra user-data: broken YAML{line}", subject=subject, next_step="mend that line"
        ) from error
    if text.split("\n", 1)[0].rstrip() != _FIRST_LINE or not isinstance(value, dict):
        raise InputError(
            f"cannot use the extra user-data: it is no cloud-config; the first line must be {_FIRST_LINE}, "
            "and keys such as packages, write_files, runcmd follow",
            subject=subject,
            next_step="write it as a cloud-config; a script goes under runcmd or write_files",
        )
    for key in value:
        if key in OURS:
            raise InputError(
                f'cannot use the extra user-data: the key "{key}" is ours, for {OURS[key]}',
                subject=subject,
                next_step=f"take {key} out of that file",
            )
    return value


def with_extra(document: str, extra: Mapping[str, Any]) -> str:
    """Return our rendered user-data with a person's merged into it."""
    merged = _merged(yaml.safe_load(document), extra)
    return f"{_FIRST_LINE}\n" + yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=4096)


def _merged(ours: Any, theirs: Any) -> Any:
    if isinstance(ours, dict) and isinstance(theirs, Mapping):
        return {**ours, **{key: _merged(ours[key], value) if key in ours else value for key, value in theirs.items()}}
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*ours, *(entry for entry in theirs if entry not in ours)]
    # A scalar that we set for comfort only, such as package_update, is theirs to change.
    return theirs
