"""The table of the API's calls, from which both the server and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from provisioner.api import shapes
from provisioner.api.control import Control
from provisioner.api.records import Told
from provisioner.domain.callers import Caller, Scope
from provisioner.domain.names import NodeName


@dataclass(frozen=True, slots=True)
class Call:
    """One call that has passed the door: who asks, about which node, with which body."""

    caller: Caller
    node: NodeName
    body: Any = None
    after: int = 0
    """The number to go on behind, for calls that list what is numbered."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Work that goes on after the answer."""

    value: dict[str, object]
    look_at: str


@dataclass(frozen=True, slots=True)
class Route:
    """One call of the API. `accepts` says that it may answer 202."""

    method: str
    path: str
    name: str
    scope: Scope
    summary: str
    answer: type[BaseModel]
    act: Callable[[Control, Call], Awaitable[dict[str, object] | Accepted]]
    body: type[BaseModel] | None = None
    body_is_optional: bool = True
    accepts: bool = False
    is_numbered: bool = False
    """It takes ``after`` in its query."""
    also: Scope | None = None
    """Another scope that is enough."""
    ends_with_caller: bool = False
    """It is given up when whoever asked has gone; acts go on."""

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Those of which one is needed."""
        return (self.scope,) if self.also is None else (self.scope, self.also)

    @property
    def is_about_a_node(self) -> bool:
        """Its path names a node."""
        return "{name}" in self.path


async def _nodes(control: Control, call: Call) -> dict[str, object]:
    return {"nodes": await control.in_thread(control.nodes)}


async def _node(control: Control, call: Call) -> dict[str, object]:
    return await control.in_thread(lambda: control.node(call.node))


async def _wake(control: Control, call: Call) -> dict[str, object] | Accepted:
    control.require_node(call.node)
    work = control.wake(call.node, call.caller)
    return await work if call.body.wait else _accepted(call.node, await control.begin(work))


async def _sleep(control: Control, call: Call) -> dict[str, object] | Accepted:
    control.require(call.caller, Scope.ADMIN if call.body.force else Scope.WAKE)
    control.require_node(call.node)
    work = control.sleep(call.node, call.caller, force=call.body.force)
    return await work if call.body.wait else _accepted(call.node, await control.begin(work))


async def _mode(control: Control, call: Call) -> dict[str, object] | Accepted:
    control.require_mode(call.node, call.body.mode)
    work = control.mode(call.node, call.body.mode, call.caller, force=call.body.force)
    return await work if call.body.wait else _accepted(call.node, await control.begin(work))


async def _hold(control: Control, call: Call) -> dict[str, object]:
    return await control.hold(call.node, call.caller, seconds=call.body.duration, why=call.body.why)


async def _release(control: Control, call: Call) -> dict[str, object]:
    return await control.release(call.node, call.caller)


async def _route(control: Control, call: Call) -> dict[str, object]:
    body = call.body
    return await control.route(
        body.model, call.caller, away=body.away, prefers_gpu=body.prefers_gpu, tried=frozenset(body.tried)
    )


async def _orchestrators(control: Control, call: Call) -> dict[str, object]:
    return {"orchestrators": await control.in_thread(control.orchestrators)}


async def _endpoints(control: Control, call: Call) -> dict[str, object]:
    return {"endpoints": await control.in_thread(control.endpoints)}


async def _doubt(control: Control, call: Call) -> dict[str, object]:
    return await control.doubt(call.node, call.caller, why=call.body.why)


async def _requests(control: Control, call: Call) -> dict[str, object]:
    return await control.in_thread(lambda: control.requests(call.caller, call.after))


async def _record(control: Control, call: Call) -> dict[str, object]:
    body = call.body
    return await control.in_thread(
        lambda: control.record(
            call.caller,
            Told(
                body.model,
                body.node,
                body.success,
                body.status,
                body.asked_at,
                body.waited_seconds,
                body.fallback,
                body.tokens_in,
                body.tokens_out,
            ),
        )
    )


async def _idle(control: Control, call: Call) -> dict[str, object]:
    return {"decisions": await control.idle(call.caller, dry_run=call.body.dry_run)}


async def _service(control: Control, call: Call) -> dict[str, object]:
    return await control.in_thread(control.service)


async def _savings(control: Control, call: Call) -> dict[str, object]:
    return await control.in_thread(control.savings)


def _accepted(node: NodeName, events_after: int) -> Accepted:
    look_at = f"/api/nodes/{node}"
    return Accepted({"node": node, "look_at": look_at, "events_after": events_after}, look_at)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/nodes", "nodes", Scope.READ, "What is wanted and seen of all nodes", shapes.NodesAnswer, _nodes),
    Route("GET", "/api/nodes/{name}", "node", Scope.READ, "One node, and why it is so", shapes.NodeAnswer, _node),
    Route(
        "POST",
        "/api/nodes/{name}/wake",
        "wake",
        Scope.WAKE,
        "Wake a node; it answers when this does",
        shapes.WakeAnswer,
        _wake,
        shapes.WakeBody,
        accepts=True,
    ),
    Route(
        "POST",
        "/api/nodes/{name}/sleep",
        "sleep",
        Scope.WAKE,
        "Shut a node down cleanly, unless it is busy",
        shapes.SleepAnswer,
        _sleep,
        shapes.SleepBody,
        accepts=True,
    ),
    Route(
        "POST",
        "/api/nodes/{name}/mode",
        "mode",
        Scope.ADMIN,
        "Switch what a node's GPUs are for",
        shapes.ModeAnswer,
        _mode,
        shapes.ModeBody,
        body_is_optional=False,
        accepts=True,
    ),
    Route(
        "POST",
        "/api/nodes/{name}/hold",
        "hold",
        Scope.WAKE,
        "Keep a node as it is for a while",
        shapes.HoldAnswer,
        _hold,
        shapes.HoldBody,
        body_is_optional=False,
    ),
    Route(
        "POST",
        "/api/nodes/{name}/release",
        "release",
        Scope.WAKE,
        "Drop your hold on a node",
        shapes.ReleaseAnswer,
        _release,
    ),
    Route(
        "POST",
        "/api/route",
        "route",
        Scope.ROUTE,
        "The endpoint that serves a model now, woken if need be",
        shapes.RouteAnswer,
        _route,
        shapes.RouteBody,
        body_is_optional=False,
        ends_with_caller=True,
    ),
    Route(
        "POST",
        "/api/idle",
        "idle",
        # It does less than whoever may put nodes to sleep by name can do.
        Scope.WAKE,
        "One idle pass, and every decision with its reason",
        shapes.IdleAnswer,
        _idle,
        shapes.IdleBody,
    ),
    Route(
        "GET",
        "/api/orchestrators",
        "orchestrators",
        Scope.READ,
        "Who is told of the nodes, and what became of that",
        shapes.OrchestratorsAnswer,
        _orchestrators,
    ),
    Route(
        "GET",
        "/api/endpoints",
        "endpoints",
        Scope.ROUTE,
        "The nodes that are ready, and where to ask them; wakes nobody",
        shapes.EndpointsAnswer,
        _endpoints,
    ),
    Route(
        "POST",
        "/api/nodes/{name}/doubt",
        "doubt",
        Scope.ROUTE,
        "A node does not answer: look at it again, now",
        shapes.DoubtAnswer,
        _doubt,
        shapes.DoubtBody,
    ),
    Route(
        "GET",
        "/api/requests",
        "requests",
        Scope.ROUTE,
        "Requests that have ended, without their prompts; all of them with scope read, else your own",
        shapes.RequestsAnswer,
        _requests,
        is_numbered=True,
        also=Scope.READ,
    ),
    Route(
        "POST",
        "/api/requests",
        "record",
        Scope.ROUTE,
        "Tell of a request that went to a node directly",
        shapes.RequestRecord,
        _record,
        shapes.RequestBody,
        body_is_optional=False,
    ),
    Route(
        "GET",
        "/api/savings",
        "savings",
        Scope.READ,
        "What sleeping saved, with its arithmetic",
        shapes.SavingsAnswer,
        _savings,
    ),
    Route("GET", "/api/service", "service", Scope.READ, "The service itself", shapes.ServiceAnswer, _service),
)
