"""Asks the engine that was laid down in a guest for its help, and refuses what that does not know."""

from __future__ import annotations

from provisioner.domain.actions import CheckArguments
from provisioner.domain.fleet import NodeSpec
from provisioner.errors import EngineError, ProvisionerError
from provisioner.planning.engine_help import help_verdict
from provisioner.ports.guest_shell import CommandResult, GuestAway
from provisioner.services.diagnosing import OpenShell
from provisioner.services.outcomes import Outcome

# vLLM takes half a minute on a quick machine. What takes longer than this is ended, in the guest, by its clock.
_HELP_SECONDS = 120
_ANSWER_SECONDS = _HELP_SECONDS + 30.0
# Arguments: the name to keep what is printed under, how many seconds it may take, and the command that prints it.
# It is kept whole or not at all, and only if the command was content.
_ASK = """\
kept=${XDG_CACHE_HOME:-$HOME/.cache}/llm-help/$1
seconds=$2
shift 2
[ -s "$kept" ] && exec cat "$kept"
text=$(timeout --kill-after=5 "$seconds" "$@" </dev/null)
code=$?
printf '%s\n' "$text"
[ $code = 0 ] && [ -n "$text" ] || exit $code
mkdir -p "${kept%/*}" && new=$(mktemp "$kept.XXXXXX") || exit 0
printf '%s\n' "$text" >"$new" && mv "$new" "$kept" || rm -f "$new"
"""
ASKING = "ask-for-help"
"""What the script is called in the guest."""


def check_arguments_in_guest(asked: CheckArguments, node: NodeSpec, open_shell: OpenShell) -> Outcome:
    """Hold modes' arguments against the installed engine's own help.

    An engine that does not print one refuses nothing, and that is said: whoever
    starts it will see whether it comes up.

    Args:
        asked: the question.
        node: whose modes.
        open_shell: a way into the guest; its failure only means that nobody could ask.

    Raises:
        EngineError: the help does not know an argument, or not with that value.
    """
    try:
        with open_shell() as shell:
            command = ("sh", "-c", _ASK, ASKING, asked.kept, str(_HELP_SECONDS), *asked.command)
            result = shell.run(command, seconds=_ANSWER_SECONDS, privileged=asked.privileged)
    except (ProvisionerError, GuestAway) as reason:
        return Outcome(False, f"{asked.engine} could not be asked: {str(reason).splitlines()[0]}")
    if result.exit_code != 0:
        return Outcome(False, f"{asked.engine} does not print its help: {_last_words(result)}")
    verdict = help_verdict(asked, result.out)
    if verdict.refusal is None:
        return Outcome(False, verdict.said)
    error = EngineError(
        f"cannot run {verdict.refusal.reason}",
        subject=node.subject,
        next_step=f"{verdict.refusal.next_step}; then provisioner up {node.name}",
    )
    error.diagnosis = verdict.cause
    raise error


def _last_words(result: CommandResult) -> str:
    lines = [line.strip() for line in (*result.out.splitlines(), *result.err.splitlines()) if line.strip()]
    return (lines[-1] if lines else f"exit code {result.exit_code}")[:200]
