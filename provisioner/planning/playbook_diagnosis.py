"""Why did a playbook's task fail, or a pull? What it said, as a named cause with a next step. Pure.

Only what happens to people, and for which more can be said than to read the words: downloads, disks, models, packages.
The words are those of our own jobs in the guest, of apt, pip and Docker, and of Hugging Face's client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A named cause and what to do about it."""

    cause: str
    next_step: str


def failed_task(reason: str, node: str) -> FailedTask | None:
    """Return the cause that a failed task's words show, or None where they show none.

    Args:
        reason: what the task said.
        node: where.
    """
    for cause, pattern, next_step in _RULES:
        if re.search(pattern, reason, re.IGNORECASE):
            return FailedTask(cause, f"{next_step.format(node=node)}; then provisioner up {node}, which continues")
    return None


# In this order: a full disk also breaks downloads, and without network no repository has what it has.
_RULES = (
    (
        "wrong_checksum",
        r"wrong checksum: |THESE PACKAGES DO NOT MATCH THE HASHES|Hash Sum mismatch",
        "compare the sum with the one that its publisher lists: correct sha256 in the fleet file, or find out who "
        "changed the file",
    ),
    (
        "disk_full",
        r"no room for |the disk is full|No space left on device|don't have enough free space|disk quota exceeded",
        "provisioner ssh {node} -- df -h, and remove what nobody needs, or give the node a larger disk",
    ),
    (
        "no_network",
        r"temporary failure in name resolution|Temporary failure resolving|Name or service not known|"
        r"nodename nor servname|Could not resolve|Network is unreachable|No route to host|Could not connect to|"
        r"Failed to establish a new connection|"
        r"dial tcp\b.*(?:i/o timeout|no such host|server misbehaving|connection timed out)|"
        r"urlopen error (?:timed out|\[Errno (?:-2|-3|101|110|111|113)\])",
        "provisioner ssh {node} -- getent hosts huggingface.co: check gateway and nameservers of the node, and what "
        "the firewall lets out",
    ),
    (
        "model_gated",
        r"gated repo|GatedRepoError|awaiting a review from the repo authors|"
        r"40[13] Client Error: (?:Unauthorized|Forbidden) for url: \S*huggingface",
        "accept the licence on the model's page with the account of the token, and write huggingface_token: "
        "env:HF_TOKEN into the fleet file",
    ),
    (
        "model_missing",
        r"pull model manifest: file does not exist|RepositoryNotFoundError|Repository Not Found for url|"
        r"RevisionNotFoundError|Entry Not Found for url",
        "check the spelling of the model in the mode (a private one needs huggingface_token)",
    ),
    ("file_missing", r"\bhttps?://\S+ answers 4\d\d ", "correct source in the fleet file: nothing is there"),
    (
        "package_missing",
        r"No package matching|no available installation candidate|Unable to locate package|"
        r"No matching distribution found|manifest unknown",
        "check the version in the fleet file: its repository has no such package",
    ),
    (
        "download_stalled",
        r"nothing has moved for [\d.]+ s",
        "look at the network of the node, or wait for a better one: what was fetched is kept",
    ),
    (
        "packages_locked",
        r"Could not get lock|Unable to acquire the dpkg|is another process using it",
        "another program installs packages in the guest, perhaps its own upgrades: wait until it has finished",
    ),
)
