"""What the API takes and gives, as shapes: bodies are checked against them, and the OpenAPI document shows them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from provisioner.domain.quantities import parse_duration

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


# All that is a time, more than nothing, and not longer than anybody may hold a node: 30 days.
_DURATION = r"^([1-9][0-9]{0,3}[sm]|[1-9][0-9]?h|([1-9]|[12][0-9]|30)d)$"


def _duration(value: object) -> float:
    if not isinstance(value, str) or re.fullmatch(_DURATION, value) is None:
        raise ValueError("a whole time with its unit, such as 20m, 2h or 1d, up to 30d")
    return parse_duration(value)


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION, "examples": ["2h"]}),
]


class Body(BaseModel):
    """What is sent: strict and closed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class WakeBody(Body):
    """How a node is woken."""

    wait: bool = Field(True, description="false: answer at once with 202, and where to look.")


class SleepBody(Body):
    """How a node is put to sleep."""

    wait: bool = Field(True, description="false: answer at once with 202, and where to look.")
    force: bool = Field(False, description="Also when it is busy; cuts the power if need be. Takes scope admin.")


class ModeBody(Body):
    """What a node is to be for."""

    mode: Name
    wait: bool = Field(True, description="false: answer at once with 202, and where to look.")
    force: bool = Field(False, description="Also while it is busy; what runs is cut off.")


class HoldBody(Body):
    """How long a node is to stay as it is."""

    duration: Duration = Field(description="Such as 2h.")
    why: Annotated[str, StringConstraints(max_length=200)] = ""


class RouteBody(Body):
    """Which model is wanted."""

    model: Name
    prefers_gpu: bool | None = Field(None, description="true: a GPU, though a CPU node that is up has the model too.")
    away: Literal["wait", "fallback", "fallback-and-wake"] | None = Field(
        None, description="What to do while no node of the model is ready; by default what its mode says."
    )

    tried: list[Name] = Field(
        default_factory=list,
        max_length=100,
        description="Nodes that have just failed this request: others come first, and these are looked at again.",
    )


class DoubtBody(Body):
    """What somebody found when it asked a node itself."""

    why: Annotated[str, StringConstraints(max_length=200)] = ""


class RequestBody(Body):
    """How a request ended that did not go through the gateway. Never its prompt."""

    model: Annotated[str, StringConstraints(max_length=200)]
    node: Annotated[str, StringConstraints(max_length=200)] = ""
    success: bool
    asked_at: float | None = Field(None, description="UNIX seconds; what the answer to /api/route said.", ge=0, lt=1e11)
    status: int = Field(503, ge=400, le=599, description="What was answered where it did not succeed; 4xx: refused.")
    waited_seconds: float = Field(0.0, ge=0, le=86400, description="Until it had a node; from that answer too.")
    fallback: bool = False
    tokens_in: int | None = Field(None, ge=0, lt=10**9)
    tokens_out: int | None = Field(None, ge=0, lt=10**9)


class IdleBody(Body):
    """How an idle pass is made."""

    dry_run: bool = Field(False, description="Judge, and stop nothing.")


class Answer(BaseModel):
    """What is answered; more keys may come with time."""

    model_config = ConfigDict(extra="allow")


class TrafficAnswer(Answer):
    """Requests on their way through the gateway."""

    running: int
    waiting: int
    last_request_at: float | None


class NodeAnswer(Answer):
    """What is wanted of a node and what is seen of it."""

    node: str
    vmid: int
    hypervisor: str
    address: str
    gpus: list[str]
    modes: list[str]
    models: list[str] = Field(description="What it serves in the mode that it is in.")
    adopt: bool
    mode: str | None
    phase: str = Field(description="absent, asleep, queued, starting, booting, loading, ready, draining, withheld, ...")
    reason: str
    since: float = Field(description="UNIX seconds.")
    seconds_left: float | None = Field(description="To ready, from this node's own history.")
    url: str | None = Field(description="Where its engine answers, while it does.")
    uptime_seconds: float
    traffic: TrafficAnswer
    idle: dict[str, Any] | None = Field(description="The last verdict of an idle pass.")
    holds: list[dict[str, Any]] = Field(description="Whose word keeps it as it is.")


class NodesAnswer(Answer):
    """The fleet."""

    nodes: list[NodeAnswer]


class EndpointAnswer(Answer):
    """Where a model answers now."""

    node: str
    url: str
    api: str
    model: str


class RouteAnswer(EndpointAnswer):
    """The endpoint that serves a model now."""

    fallback: bool = Field(description="It answers with another model than was asked for.")
    reason: str
    asked_at: float = Field(description="UNIX seconds: when this was asked.")
    waited_seconds: float = Field(description="From then until there was a node.")


class ReadyEndpoint(EndpointAnswer):
    """Where a model answers now, and where to ask whether it does."""

    health_url: str


class EndpointsAnswer(Answer):
    """The nodes that are ready."""

    endpoints: list[ReadyEndpoint]


class DoubtAnswer(Answer):
    """A node after a second look."""

    node: str
    phase: str
    reason: str
    model: str
    is_gone: bool = Field(description="It was ready, runs still or again, and its model does not answer.")


class OrchestratorAnswer(Answer):
    """What became of telling one orchestrator of the nodes."""

    orchestrator: str
    nodes: list[str] = Field(description="Those that it knew when it was last asked.")
    at: float = Field(description="UNIX seconds: when that was; 0 for never.")
    failing_since: float | None
    reason: str
    trouble: str = Field(description="What is wrong, in a sentence; empty for nothing.")


class OrchestratorsAnswer(Answer):
    """Who is told of the nodes."""

    orchestrators: list[OrchestratorAnswer]


class RequestRecord(Answer):
    """One request that has ended; never its prompt."""

    number: int = Field(description="Only grows.")
    timestamp: str = Field(description="When it came, RFC 3339 in UTC.")
    node: str
    request_time_ms: float
    tokens_per_second: float | None = Field(description="While it answered; null where the engine did not say.")
    model: str
    success: bool


class RequestsAnswer(Answer):
    """Requests that have ended, oldest first."""

    requests: list[RequestRecord]
    last: int = Field(description="What to send as `after` next time.")


class WakeAnswer(Answer):
    """A node that is awake."""

    node: str
    endpoint: EndpointAnswer
    started: bool = Field(description="false: its VM ran already.")
    seconds: float
    added_seconds: float = Field(description="From the engine's readiness to the proof that its model answers.")
    reason: str


class SleepAnswer(Answer):
    """A node that is asleep."""

    node: str
    was_running: bool
    seconds: float
    rested: str | None = Field(description="Why its VM stays on, with the model out of memory; null where it is off.")
    stay_on: list[str] = Field(description="Who only computed for this node and is still on, and why.")


class ModeAnswer(Answer):
    """A mode that is in force."""

    node: str
    mode: str


class HoldAnswer(Answer):
    """A person's claim."""

    node: str
    by: str
    since: float
    until: float


class ReleaseAnswer(Answer):
    """Whose claims remain."""

    node: str
    others: list[dict[str, Any]]


class IdleAnswer(Answer):
    """Every node's verdict."""

    decisions: list[dict[str, Any]]


class AcceptedAnswer(Answer):
    """Work that has begun."""

    node: str
    look_at: str = Field(description="Where its progress shows.")
    events_after: int = Field(description="The journal's last number before the work began.")


class EnergyAnswer(Answer):
    """Some energy of GPUs."""

    kwh: float
    basis: Literal["measured", "projected", "given", "assumed", "none"] = Field(
        description="Anything but measured is an estimate."
    )
    estimated: bool


class NodeSavingsAnswer(Answer):
    """What one node's sleep saved, against the same node always on."""

    node: str
    awake_seconds: float
    asleep_seconds: float
    spared_seconds: float = Field(description="Asleep, with its GPUs at rest because of it.")
    unknown_seconds: float
    used: EnergyAnswer
    always_on: EnergyAnswer
    saved: EnergyAnswer
    money: float | None
    words: list[str] = Field(description="The arithmetic.")


class SpanAnswer(Answer):
    """What was saved in a span of time."""

    since: float
    until: float
    counted_since: float | None
    counted_seconds: float = Field(description="While no service runs, nobody counts.")
    price_per_kwh: float | None
    currency: str | None
    used: EnergyAnswer
    always_on: EnergyAnswer
    saved: EnergyAnswer
    money: float | None
    words: list[str]
    nodes: list[NodeSavingsAnswer]


class SavingsAnswer(Answer):
    """What sleeping saved; days are those of UTC."""

    today: SpanAnswer
    thirty_days: SpanAnswer
    ever: SpanAnswer


class ServiceAnswer(Answer):
    """The service itself."""

    version: str
    fleet_file: str
    pid: int
    started_at: float
    draining: bool
    last_event: int


class ProblemAnswer(Answer):
    """A refusal (RFC 9457): what happened, on what, what next."""

    type: str
    title: str
    status: int
    detail: str
