"""The lines we keep in a VM's notes, so that any machine with the token knows its guest.

The notes are the only memory of a node that is ours: the guest's public SSH
host key, and whether the seed ISO still holds the private one. A person's own
text around our lines is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HOST_KEY = re.compile(r"^ssh-host-key: (ssh-ed25519 [A-Za-z0-9+/=]+)\s*$", re.MULTILINE)
_SEED = re.compile(r"^seed: (open|sealed)\s*$", re.MULTILINE)
_OURS = re.compile(r"^(?:Managed by provisioner:|ssh-host-key: |seed: ).*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NodeNotes:
    """What our lines say.

    `host_key` is the public key line (type and base64). `seed_is_sealed` means
    that the guest's first boot is over and the seed ISO holds no secret.
    """

    host_key: str | None
    seed_is_sealed: bool


def read_notes(text: str) -> NodeNotes:
    """Read our lines out of a VM's notes; lines that are missing or damaged read as absent."""
    key = _HOST_KEY.search(text)
    seed = _SEED.search(text)
    return NodeNotes(key[1] if key else None, seed is not None and seed[1] == "sealed")


def write_notes(text: str, node: str, notes: NodeNotes) -> str:
    """Return `text` with our lines replaced, or put first when there were none."""
    rest = _OURS.sub("", text).strip("\n")
    ours = [f"Managed by provisioner: node {node}. The next lines are read back."]
    if notes.host_key:
        ours.append(f"ssh-host-key: {notes.host_key}")
    ours.append(f"seed: {'sealed' if notes.seed_is_sealed else 'open'}")
    return "\n".join(ours) + "\n" + (f"\n{rest}\n" if rest else "")
