"""Which host keys a hypervisor may show: the fleet file's, else those of the user's known_hosts."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from provisioner.adapters.ssh.known_hosts import known_keys
from provisioner.domain.fleet import HypervisorSsh

SYSTEM_FILES = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))
_FINGERPRINT = "SHA256:"
# A known_hosts file of a large site; what is larger is not one.
_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostTrust:
    """What is accepted: `keys` as ``KIND BASE64``, or one `fingerprint`; `source` is where that stands."""

    source: str
    keys: tuple[str, ...] = ()
    fingerprint: str | None = None
    revoked: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Nobody has ever vouched for this host."""
        return not self.keys and self.fingerprint is None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of keys that can be right; empty when any may be."""
        return tuple(dict.fromkeys(key.split()[0] for key in self.keys))

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints that are accepted."""
        return (self.fingerprint,) if self.fingerprint else tuple(fingerprint_of(key) for key in self.keys)

    def accepts(self, key: str) -> bool:
        """``KIND BASE64`` is a key of the host's."""
        if key in self.revoked:
            return False
        return fingerprint_of(key) == self.fingerprint if self.fingerprint else key in self.keys


def trust_for(ssh: HypervisorSsh) -> HostTrust:
    """Return what is accepted of a hypervisor; files that are not there say nothing."""
    if ssh.host_key is not None:
        words = ssh.host_key.split()
        if words[0].startswith(_FINGERPRINT):
            return HostTrust("the fleet file", fingerprint=words[0].rstrip("="))
        return HostTrust("the fleet file", (" ".join(words[:2]),))
    home = Path.home() / ".ssh"
    files = (home / "known_hosts", home / "known_hosts2", *SYSTEM_FILES)
    known = known_keys(ssh.address, ssh.port, (_text(path) for path in files))
    return HostTrust(str(home / "known_hosts"), known.trusted, revoked=known.revoked)


def fingerprint_of(key: str) -> str:
    """Return the fingerprint of ``KIND BASE64`` as ssh-keygen prints it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return _FINGERPRINT + base64.b64encode(digest).decode().rstrip("=")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""  # OpenSSH passes over a file that it may not read, too
