"""Runs a playbook on a guest, unless the guest shows that it still is as that playbook left it.

The last task of such a playbook writes `RECIPES`/PLAYBOOK: the recipe it was
played with, then checksums of what it wrote, as `sha256sum` does. The check
reads that and the files themselves, so a file that somebody changed is found
as surely as by the playbook, in a small part of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from provisioner.domain.actions import ConvergeGuest
from provisioner.domain.fleet import NodeSpec
from provisioner.ports.guest_shell import GuestAway, GuestShell
from provisioner.ports.playbooks import Playbooks
from provisioner.services.outcomes import Outcome

RECIPES = "/var/lib/provisioner/recipes"
RECIPE = "recipe"
"""The variable by which a playbook learns its recipe."""
# Arguments: the recipe's file, the recipe, units that must run now and at boot.
_CHECK = """\
file=$1
[ "$(head -n 1 "$file" 2>/dev/null)" = "$2" ] || exit 1
tail -n +2 "$file" | sha256sum --check --status - || exit 1
shift 2
for unit; do
	[ -e "/etc/systemd/system/multi-user.target.wants/$unit" ] || exit 1
done
[ $# = 0 ] || systemctl is-active --quiet "$@"
"""
_SECONDS = 60.0


def still_is_as(shell: GuestShell, playbook: str, recipe: str, units: Sequence[str]) -> bool:
    """Say whether a guest is as a playbook left it. When nobody can tell, it is not."""
    try:
        result = shell.run(
            ("sh", "-c", _CHECK, "still-is-as", f"{RECIPES}/{playbook}", recipe, *units),
            seconds=_SECONDS,
            privileged=True,
        )
    except GuestAway:
        return False
    return result.exit_code == 0


def converge(
    open_shell: Callable[[], AbstractContextManager[GuestShell]],
    playbooks: Playbooks,
    node: NodeSpec,
    host_key: str,
    wanted: ConvergeGuest,
    say: Callable[[str], None],
) -> Outcome:
    """Run a playbook that notes its recipe, unless the guest is as it left it.

    Raises:
        PlaybookError: a task failed.
        NotReadyError, GuestError: nobody can log in.
    """
    recipe = playbooks.recipe(wanted.playbook, wanted.variables)
    with open_shell() as shell:
        if still_is_as(shell, wanted.playbook, recipe, wanted.units):
            return Outcome(False, "it is as it was left")
    told = {**wanted.variables, RECIPE: recipe}
    outcome = playbooks.run(wanted.playbook, node, host_key, told, say)
    return Outcome(bool(outcome.changed), ", ".join(outcome.changed) or "everything was in place")
