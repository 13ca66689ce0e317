"""The one exception of the format checkers, apart so that all of them can raise it."""

from __future__ import annotations


class FormatProblem(Exception):
    """The value does not have the format; the text is Proxmox's."""
