"""Things that befall a cluster while somebody works with it, each by a name that a fault plan may use.

Every one is a coroutine over the lab with named arguments; where things can be
mended there is an opposite. They change the lab's own state, so that whatever
comes afterwards is answered as the real thing would. What cannot happen, to a
VM that is not there or with a card that is taken, does not.
"""

from __future__ import annotations

from provisioner.lab.faults import happenings_cluster, happenings_vm
from provisioner.lab.faults.happening import HAPPENINGS, arguments_of, wrong_argument

ROOMS = (happenings_cluster, happenings_vm)
"""The modules whose import registers every happening."""

__all__ = ["HAPPENINGS", "ROOMS", "arguments_of", "wrong_argument"]
