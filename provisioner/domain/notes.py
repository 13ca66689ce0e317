"""The lines we keep in a VM's notes, so that any machine with the token knows its guest.

The notes are the only memory of a node that is ours: what it was made for and
from, the guest's public SSH host key, and whether the seed ISO still holds the
private one. A person's own text around our lines is kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from provisioner.domain.names import ModeName

# One sentence for people, which Proxmox shows on the VM's page with the address as a link.
_HEAD = re.compile(
    r"^Managed by provisioner: node (?P<node>\S+?)(?:, made from (?P<image>\S+?))?"
    r"(?:, serving (?P<model>.+?) at (?P<url>\S+?))?\. The next lines are read back\.\s*$",
    re.MULTILINE,
)
_HOST_KEY = re.compile(r"^ssh-host-key: (ssh-ed25519 [A-Za-z0-9+/=]+)\s*$", re.MULTILINE)
_SEED = re.compile(r"^seed: (open|sealed|anew)\s*$", re.MULTILINE)
_MODE = re.compile(r"^mode: (?P<mode>[^\s,]+)(?P<waits>, from the next start on)?\s*$", re.MULTILINE)
_OURS = re.compile(r"^(?:Managed by provisioner:|ssh-host-key: |seed: |mode: ).*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Serving:
    """A model and the base URL where a client reaches it."""

    model: str
    url: str


@dataclass(frozen=True, slots=True)
class NodeNotes:
    """What our lines say.

    `host_key` is the public key line (type and base64). `seed_is_sealed` means
    that the guest's first boot is over and the seed ISO holds no secret.
    `image` is the name of the image that the disk was made from. `boots_anew`
    means that Proxmox's cloud-init drive was changed since the host key was
    read: the next cold start is a new first boot, and makes new keys.
    `mode` is what the node is for; None is its first mode. `mode_waits` means
    that it was chosen while the VM was off: its guest does not know of it yet.
    """

    host_key: str | None
    seed_is_sealed: bool
    image: str | None = None
    serving: Serving | None = None
    boots_anew: bool = False
    mode: ModeName | None = None
    mode_waits: bool = False


def read_notes(text: str) -> NodeNotes:
    """Read our lines out of a VM's notes; lines that are missing or damaged read as absent."""
    head = _HEAD.search(text)
    key = _HOST_KEY.search(text)
    seed = _SEED.search(text)
    mode = _MODE.search(text)
    return NodeNotes(
        host_key=key[1] if key else None,
        seed_is_sealed=seed is not None and seed[1] == "sealed",
        image=head["image"] if head else None,
        serving=Serving(head["model"], head["url"]) if head and head["model"] else None,
        boots_anew=seed is not None and seed[1] == "anew",
        mode=ModeName(mode["mode"]) if mode else None,
        mode_waits=mode is not None and mode["waits"] is not None,
    )


def noted_node(text: str) -> str | None:
    """Return the name of the node that the notes were written for."""
    head = _HEAD.search(text)
    return head["node"] if head else None


def headline(text: str) -> str | None:
    """Return our sentence for people."""
    head = _HEAD.search(text)
    return head[0].strip() if head else None


def noted_address(text: str) -> str | None:
    """Return the address at which the noted node serves."""
    serving = read_notes(text).serving
    return urlsplit(serving.url).hostname if serving else None


def write_notes(text: str, node: str, notes: NodeNotes) -> str:
    """Return `text` with our lines replaced, or put first when there were none."""
    rest = _OURS.sub("", text).strip("\n")
    made = f", made from {notes.image}" if notes.image else ""
    serving = f", serving {notes.serving.model} at {notes.serving.url}" if notes.serving else ""
    ours = [f"Managed by provisioner: node {node}{made}{serving}. The next lines are read back."]
    if notes.host_key:
        ours.append(f"ssh-host-key: {notes.host_key}")
    ours.append(f"seed: {'anew' if notes.boots_anew else 'sealed' if notes.seed_is_sealed else 'open'}")
    if notes.mode is not None:
        ours.append(f"mode: {notes.mode}{', from the next start on' if notes.mode_waits else ''}")
    return "\n".join(ours) + "\n" + (f"\n{rest}\n" if rest else "")
