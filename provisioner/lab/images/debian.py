"""Where this machine gets Debian packages from, asked of its own apt.

The lab names no server: the suites it needs are looked for on the mirror that
the administrator configured. On a machine that is not Debian there is none to
ask for, and mmdebstrap's own default serves (see `mirror`).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_ASK_SECONDS = 60


def mirror() -> str | None:
    """Return the address of the Debian archive this machine's apt uses, None when it uses none."""
    try:
        answer = subprocess.run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)",
                "Created-By: Packages",
            ],
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return first_archive(answer)


def first_archive(targets: str) -> str | None:
    """Pick the plain Debian archive (not the security one, nor a third party's) from apt's list of targets."""
    for line in targets.splitlines():
        words = line.split()
        # The label keeps apart "Debian", "Debian-Security" and "Debian Backports", which has five words.
        if len(words) == 4 and words[:3] == ["Debian", "Debian", "main"]:
            return words[3].rstrip("/")
    return None


def apt_options() -> list[str]:
    """Return this machine's own apt settings that a private apt needs to reach the same mirror.

    A frozen or offline mirror serves release files past their date, and a proxy
    is a proxy for everybody; both are the administrator's to say, not ours.
    """
    try:
        dump = subprocess.run(
            ["apt-config", "dump"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return inherited_options(dump)


def inherited_options(dump: str) -> list[str]:
    """Pick from ``apt-config dump`` the lines worth carrying over, as apt.conf text."""
    wanted = re.compile(r'Acquire::(Check-Valid-Until|Check-Date|Retries|(http|https)::(Proxy|CaInfo)\S*) ".+";')
    return [line for line in dump.splitlines() if wanted.fullmatch(line)]


def codename() -> str:
    """Return the release name of this machine ("bookworm", "noble"), empty when it tells none."""
    return os_release().get("VERSION_CODENAME", "")


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """Read the machine's description of itself."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip().strip('"') for key, _, value in pairs}
