"""What the forms of a node's page do: the API's own acts, begun and not waited for where they take long."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from provisioner.api.control import Control
from provisioner.api.shapes import HoldBody
from provisioner.domain.callers import Caller, Scope
from provisioner.domain.names import NodeName


class NotAsked(Exception):
    """A form asks for nothing that there is."""


async def act(control: Control, caller: Caller, node: NodeName, form: Mapping[str, str]) -> str:
    """Do what a form says to a node; return what was begun or done, in one word.

    Raises:
        NotAsked: the form is not one of ours, or not filled in.
        ForbiddenCall: the caller may not.
        ProvisionerError: it was refused.
    """
    wanted, is_forced = form.get("act", ""), form.get("force") == "yes"
    control.require_node(node)
    control.require(caller, Scope.ADMIN if wanted == "mode" or is_forced else Scope.WAKE)
    if wanted == "wake":
        await control.begin(control.wake(node, caller))
    elif wanted == "sleep":
        await control.begin(control.sleep(node, caller, force=is_forced))
    elif wanted == "mode":
        control.require_mode(node, form.get("mode", ""))
        await control.begin(control.mode(node, form["mode"], caller, force=is_forced))
    elif wanted == "hold":
        try:
            body = HoldBody.model_validate({"duration": form.get("duration", ""), "why": form.get("why", "")})
        except ValidationError:
            raise NotAsked("a hold has a time such as 2h, and at most 200 signs of reason") from None
        await control.hold(node, caller, seconds=body.duration, why=body.why)
    elif wanted == "release":
        await control.release(node, caller)
    else:
        raise NotAsked("the form asks for nothing that there is")
    return wanted
