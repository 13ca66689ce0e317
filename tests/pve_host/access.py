"""Who may come into the stand-in and how: sshd's configuration, keys, passwords, sudo."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.pve_host.files import HARDWARE, write
from tests.pve_host.tree import USER

PASSWORD = "a password that only a person knows"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_access(
    root: Path, private_key: Path, host_keys: Iterable[str], *, login: str, sudo: str | None, place: tuple[str, int]
) -> None:
    """Write all of it; `login` and `sudo` as `PveHost` has them."""
    hardware = root / HARDWARE
    make_key(private_key, "ed25519")
    write(hardware / "authorized_keys", private_key.with_suffix(".pub").read_text())
    make_host_keys(root, host_keys)
    by_key, by_password = ("yes", "no") if login == "key" else ("no", "yes")
    write(
        hardware / "sshd_config",
        f"ListenAddress {place[0]}:{place[1]}\n"
        + "".join(f"HostKey /etc/ssh/ssh_host_{kind}_key\n" for kind in host_keys)
        + f"PubkeyAuthentication {by_key}\nPasswordAuthentication {by_password}\nKbdInteractiveAuthentication no\n"
        + "PermitRootLogin yes\nUsePAM no\nUseDNS no\nStrictModes no\nPrintMotd no\nPrintLastLog no\n"
        # The default's post-quantum exchange costs a fifth of a second a login, and nothing here is secret.
        + "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org\n"
        + "AuthorizedKeysFile /.hardware/authorized_keys\nPidFile none\nMaxStartups 100\n"
        + "Subsystem sftp /usr/lib/openssh/sftp-server\nForceCommand /.hardware/session\nAcceptEnv LANG LC_*\n"
        + f"SetEnv PATH={_PATH}\n",
    )
    session = hardware / "session"
    write(
        session,
        "#!/bin/sh\nprintf '%s\\036' \"$SSH_ORIGINAL_COMMAND\" >>/.hardware/sessions.log\n"
        '[ -n "$SSH_ORIGINAL_COMMAND" ] || exec /bin/bash -l\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n',
    )
    session.chmod(0o755)
    rules = {"free": f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n", "password": f"{USER} ALL=(ALL:ALL) ALL\n"}
    write(root / "etc" / "sudoers", f'Defaults secure_path="{_PATH}"\n{rules.get(sudo or "", "")}')
    (root / "etc" / "sudoers").chmod(0o440)
    hashed = _hash(PASSWORD)
    lines = [f"{name}:{hashed}:19000::::::\n" for name in ("root", USER)]
    write(root / "etc" / "shadow", "".join(lines) + "sshd:!:19000::::::\n")
    (root / "etc" / "shadow").chmod(0o600)


def host_key_file(root: Path, kind: str) -> Path:
    """Where a private host key lies."""
    return root / "etc" / "ssh" / f"ssh_host_{kind}_key"


def make_host_keys(root: Path, kinds: Iterable[str]) -> None:
    """Make the host's keys, new ones if it has some."""
    for kind in kinds:
        path = host_key_file(root, kind)
        path.parent.mkdir(exist_ok=True)
        for old in (path, path.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        make_key(path, kind)


def make_key(path: Path, kind: str, passphrase: str = "") -> None:
    """Make a key pair as ssh-keygen does."""
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def _hash(password: str) -> str:
    words = ["openssl", "passwd", "-6", "-stdin"]
    return subprocess.run(words, input=password, capture_output=True, text=True, check=True).stdout.strip()
