"""What the rest of the program asks of an orchestrator: announce, verify, withdraw.

Nobody here opens a connection. An answer is a conversation: it yields calls, is sent what came back, and returns a
value; whoever holds it makes the calls. So one description serves the command, the service and a test alike.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from provisioner.domain.callers import Scope
from provisioner.domain.orchestrator import OrchestratorName, OrchestratorSpec, OrchestratorTraits
from provisioner.errors import OrchestratorError

_Value = TypeVar("_Value")
# An orchestrator's own words in an error; more is a page of HTML.
_MOST_WORDS = 200


@dataclass(frozen=True, slots=True)
class AnnouncedNode:
    """A node that exists, as others are to know it. `models` are those of all its modes."""

    name: str
    address: str
    models: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    stands_in: bool = False
    has_key: bool = False
    """Its engine asks its clients for a key, which only our gateway knows."""


@dataclass(frozen=True, slots=True)
class News:
    """What an orchestrator should know.

    `service_url` is our service's base URL as it reaches it. `token` is what it shows there, empty where the service
    asks nobody; `webhook_key` is what its own callers must show; `api_key` lets us in. No repr shows a secret.
    """

    nodes: tuple[AnnouncedNode, ...]
    models: tuple[str, ...]
    """Every name under which the gateway answers."""
    targets: tuple[Mapping[str, object], ...]
    """Whom Prometheus scrapes, in its own words."""
    service_url: str
    version: str
    spec: OrchestratorSpec
    token_variable: str = ""
    """The environment variable that holds it, where it is in one."""
    token: str = field(default="", repr=False)
    webhook_key: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must appear in no word of ours."""
        return tuple(filter(None, (self.token, self.webhook_key, self.api_key)))


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the orchestrator's API; `path` is relative to its URL."""

    method: str
    path: str
    body: object = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Read a text file here; the reply's status is 404 where there is none."""

    path: Path


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Replace a text file here, at once and whole."""

    path: Path
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pause:
    """Let some time pass: what was asked for is taken, and not done yet."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `secrets` are those that it may repeat."""

    status: int
    text: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def value(self) -> Any:
        """The JSON document; None where there is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    @property
    def words(self) -> str:
        """What it says in a sentence, cut short."""
        value = self.value
        said = value.get("message") or value.get("detail") or value.get("error") if isinstance(value, dict) else ""
        words = str(said or self.text)
        for secret in self.secrets:
            words = words.replace(secret, "…")
        return " ".join(words.split())[:_MOST_WORDS]


Step = Call | ReadFile | WriteFile | Pause
Conversation = Generator[Step, Reply, _Value]


class ItemState(Enum):
    """How a thing at an orchestrator stands to what it should be."""

    SAME = "same"
    MISSING = "missing"
    OUTDATED = "outdated"
    """It is as we last wrote it, and that is no longer what it should be."""
    EDITED = "edited"
    """Somebody changed what we wrote."""
    INACTIVE = "inactive"
    """It is there and switched off."""
    BLOCKED = "blocked"
    """It cannot be switched on."""
    DOUBLED = "doubled"
    """There are several that pass for it."""
    SURPLUS = "surplus"
    """It is there and should not be."""


class Deed(Enum):
    """What was done about a thing."""

    NOTHING = ""
    CREATED = "created"
    UPDATED = "updated"
    OVERWRITTEN = "overwritten"
    ACTIVATED = "activated"
    REMOVED = "removed"
    LEFT = "left as it is"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing at an orchestrator: what it is, how it stands, and what was done about it."""

    kind: str
    name: str
    state: ItemState
    detail: str = ""
    deed: Deed = Deed.NOTHING

    @property
    def is_trouble(self) -> bool:
        """It is not there as it should be, and nobody wanted it so: what somebody changed is their business."""
        return self.state not in (ItemState.SAME, ItemState.EDITED, ItemState.INACTIVE, ItemState.SURPLUS)

    @property
    def is_by_hand(self) -> bool:
        """Somebody made it so."""
        return self.state in (ItemState.EDITED, ItemState.INACTIVE)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "kind": self.kind,
            "name": self.name,
            "state": self.state.value,
            "detail": self.detail,
            "deed": self.deed.value,
        }

    def __str__(self) -> str:
        words = self.deed.value or self.state.value
        if self.deed is Deed.LEFT:
            words = f"{self.state.value}, {words}"
        return f'{self.kind} "{self.name}": {words}' + (f" ({self.detail})" if self.detail else "")


class Orchestrator(Protocol):
    """A program that is to know of the fleet's nodes.

    Every conversation may be held again at any time, and the second time changes nothing. It raises OrchestratorError
    where the program says no.
    """

    name: OrchestratorName
    title: str
    """What people call it."""
    traits: OrchestratorTraits
    scopes: frozenset[Scope]
    """What the token that it is given must allow; empty where it is given none."""

    def headers(self, news: News) -> Mapping[str, str]:
        """Return what every call carries."""
        ...

    def verify(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Ask what it knows now, and return how that stands to the news; changes nothing."""
        ...

    def announce(self, news: News, *, force: bool) -> Conversation[tuple[Item, ...]]:
        """Make it know the news; what somebody edited is overwritten with `force` only."""
        ...

    def withdraw(self, news: News) -> Conversation[tuple[Item, ...]]:
        """Remove all that is ours."""
        ...


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def refused(orchestrator: Orchestrator, news: News, call: Call, reply: Reply) -> OrchestratorError:
    """Return a refusal as an error: what happened, on what, what to do next."""
    subject = f"{orchestrator.title} at {news.spec.url}"
    if reply.status == 401:
        error = OrchestratorError(
            f"cannot enter {orchestrator.title}: it does not accept the API key (401)",
            subject=subject,
            next_step=f"make a new one there, and put it into {news.spec.api_key}",
        )
    elif reply.status == 403:
        error = OrchestratorError(
            f"cannot {call} at {orchestrator.title}: the API key lacks the scope for it (403 {reply.words})",
            subject=subject,
            next_step=f"give the key that scope there, or put a new one into {news.spec.api_key}",
        )
    elif reply.status == 400:
        error = OrchestratorError(
            f"cannot {call} at {orchestrator.title}: it refuses what we send: {reply.words}",
            subject=subject,
            next_step="it may be a version that we do not know; the README says which one was tried",
        )
    else:
        error = OrchestratorError(
            f"cannot {call} at {orchestrator.title}: HTTP {reply.status} {reply.words}",
            subject=subject,
            next_step="see its log; then: provisioner register",
            retryable=reply.status >= 500 or reply.status == 429,
        )
    return error
