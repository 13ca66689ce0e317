"""Starting programs that must not outlive us."""

from __future__ import annotations

import shutil


def dying_with_us(*command: str) -> list[str]:
    """Return a command line whose program gets SIGTERM when we die, kill -9 included.

    The kernel's parent-death signal, set by util-linux's setpriv; where that
    is missing the program may outlive us.
    """
    return ["setpriv", "--pdeathsig", "TERM", *command] if shutil.which("setpriv") else list(command)
