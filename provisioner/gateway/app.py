"""The gateway as an ASGI application: ``/v1/*`` for OpenAI's clients, ``/ollama/*`` for Ollama's.

Who comes in shows one of our tokens; the engine's own key is put in its place.
Paths, bodies and a handful of headers go on; nothing else of a request does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from provisioner.domain.callers import CALLER, Caller, Callers, Scope
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import EngineName, NodeName
from provisioner.domain.serving import Phase
from provisioner.engines.base import InferenceEngine
from provisioner.gateway import client as asgi
from provisioner.gateway import listing
from provisioner.gateway.asking import BadRequest, Question, header, policy_of, read_question
from provisioner.gateway.client import Client, ClientLeft, TooMuch
from provisioner.gateway.dialects import OLLAMA, OPENAI, Dialect, Fault
from provisioner.gateway.health import Health
from provisioner.gateway.limits import Limits
from provisioner.gateway.ollama_requests import Untranslatable, as_openai
from provisioner.gateway.parts import Parts, Room
from provisioner.gateway.power import Power
from provisioner.gateway.serving import Serving
from provisioner.gateway.upstream import Engines, Target
from provisioner.planning.model_table import ModelEntry, ModelTable, Offer
from provisioner.planning.routing import Ask
from provisioner.ports.engine_keys import EngineKeys
from provisioner.ports.ledger import Ledger

_SAFE_PATH = re.compile(r"(/[\w.~@:+-]+)+/?", re.ASCII)
_SAFE_QUERY = re.compile(rb"[\w.~%&=+:/,-]*", re.ASCII)
# What Ollama has beyond these manages its store; that is the fleet file's business.
_OLLAMA_ASKS = frozenset({"/api/chat", "/api/generate", "/api/embed", "/api/embeddings"})
_OLLAMA_VERSION = "0.32.15"
"""What we say we are where a client decides by it: the version whose dialect this is."""
_LOUDEST_LIST = 20

_log = logging.getLogger(__name__)


class Gateway:
    """An ASGI application. Start it and close it on the event loop that runs it."""

    def __init__(
        self,
        fleet: FleetSpec,
        engines: Mapping[EngineName, InferenceEngine],
        *,
        power: Power,
        flight: InFlight,
        callers: Callers,
        keys: EngineKeys,
        ledger: Ledger,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Wire it.

        Args:
            fleet: who serves what.
            engines: how the engines are spoken to.
            power: what is awake, and who wakes the rest.
            flight: counts requests; whoever puts nodes to sleep reads it.
            callers: the tokens.
            keys: what engines ask for.
            ledger: the record of requests.
            limits: bounds.
            now: UNIX seconds.
        """
        self.table = ModelTable(fleet, engines)
        self._callers = callers
        self._offers: dict[NodeName, list[Offer]] = {}
        for offer in self.table.offers:
            self._offers.setdefault(offer.node, []).append(offer)
        connections = Engines()
        bounds = limits or Limits()
        health = Health(connections, flight, bounds, where=self._where, ready=self._ready, doubt=power.doubt, now=now)
        self.parts = Parts(power, flight, connections, health, keys, ledger, bounds, now)

    async def start(self) -> None:
        """Begin to watch the nodes that are ready."""
        self.parts.health.start()

    async def close(self) -> None:
        """Stop watching, and close the connections that are kept."""
        await self.parts.close()
        await self.parts.health.close()
        self.parts.engines.close()

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one request of ``/v1`` or ``/ollama``."""
        client = Client(scope, receive, send)
        path = client.path
        is_ollama = path == "/ollama" or path.startswith("/ollama/")
        if is_ollama:
            path = path.removeprefix("/ollama").rstrip("/") or "/"
        dialect = OLLAMA if is_ollama and not path.startswith("/v1/") else OPENAI
        try:
            with suppress(ClientLeft):
                await self._serve(client, dialect, path, scope.get(CALLER))
        except (BadRequest, TooMuch) as bad:
            await client.refuse(dialect, bad.fault)
        except asyncio.CancelledError:
            # It may leave just when its last byte was being sent.
            task = asyncio.current_task()
            if not client.has_left or task is None:
                raise
            task.uncancel()
        except Exception:
            _log.exception("a request of the gateway met an error of ours")
            fault = Fault(500, "internal_error", "cannot answer: an error of ours; it stands in the log")
            await client.refuse(dialect, fault)

    async def _serve(self, client: Client, dialect: Dialect, path: str, known: Caller | None) -> None:
        caller = known or self._caller(client)
        is_read = client.method in ("GET", "HEAD")
        if is_read and dialect is OLLAMA and path == "/":
            # Some clients ask whether somebody is there before they show their token.
            await client.answer(200, b"text/plain; charset=utf-8", b"Ollama is running")
            return
        if caller is None:
            raise BadRequest(Fault(401, "invalid_token", "cannot let this in: no valid token", "send Authorization"))
        if not caller.is_allowed(Scope.ROUTE) and not (is_read and caller.is_allowed(Scope.READ)):
            raise BadRequest(Fault(403, "scope_missing", "cannot let this in: the token may not use models"))
        if await self._listed(client, dialect, path, is_read):
            return
        if not caller.is_allowed(Scope.ROUTE):
            raise BadRequest(Fault(403, "scope_missing", "cannot let this in: the token may not use models"))
        self._require_path(client, dialect, path)
        await self._route(client, dialect, path, caller)

    def _caller(self, client: Client) -> Caller | None:
        shown = header(client.headers, b"authorization")
        if shown is None:
            # Anthropic's clients, whose dialect some engines have below /v1 too.
            key = header(client.headers, b"x-api-key")
            shown = f"Bearer {key}" if key is not None else None
        return self._callers.who(shown)

    async def _listed(self, client: Client, dialect: Dialect, path: str, is_read: bool) -> bool:
        """Answer what is answered without an engine; say whether it was."""
        seen = self.parts.power.seen
        found: Mapping[str, object] | None = None
        if dialect is OPENAI and is_read and path == "/v1/models":
            found = listing.openai_list(self.table, seen())
        elif dialect is OPENAI and is_read and path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            found = listing.openai_model(self.table, seen(), name)
            if found is None:
                raise self._unknown(name)
        elif dialect is OLLAMA and is_read and path == "/api/tags":
            found = listing.ollama_tags(self.table, seen())
        elif dialect is OLLAMA and is_read and path == "/api/ps":
            found = listing.ollama_loaded(self.table, seen())
        elif dialect is OLLAMA and is_read and path == "/api/version":
            found = {"version": _OLLAMA_VERSION}
        elif dialect is OLLAMA and path == "/api/show" and client.method == "POST":
            body = await self._body(client)
            # Older clients call it name.
            body = body.replace(b'"name"', b'"model"', 1) if b'"model"' not in body else body
            name = read_question(dialect, path, client.headers, b"", body).model
            entry = self.table.find(name)
            if entry is None:
                raise self._unknown(name)
            found = listing.ollama_model(entry)
        if found is None:
            return False
        await client.answer(200, b"application/json", json.dumps(found).encode())
        return True

    def _require_path(self, client: Client, dialect: Dialect, path: str) -> None:
        """Let pass only what an engine is to see. Raises BadRequest."""
        if client.method not in ("GET", "POST"):
            raise BadRequest(Fault(405, "method_not_allowed", f"cannot take {client.method} here"))
        if not _SAFE_PATH.fullmatch(path) or ".." in path or not _SAFE_QUERY.fullmatch(client.query):
            raise BadRequest(Fault(400, "bad_path", "cannot read the request: such a path is not passed on"))
        if dialect is OLLAMA and path not in _OLLAMA_ASKS:
            asks = ", ".join(sorted(_OLLAMA_ASKS))
            summary = f"cannot pass on {path}: here are {asks}, and what lists models"
            raise BadRequest(Fault(404, "not_here", summary, "models are chosen in the fleet file"))

    async def _route(self, client: Client, dialect: Dialect, path: str, caller: Caller) -> None:
        parts = self.parts
        body = await self._body(client)
        question = read_question(dialect, path, client.headers, client.query, body)
        entry = self.table.find(question.model)
        if entry is None:
            raise self._unknown(question.model)
        engine = _engine_for(dialect, path, question, body, entry)
        away, prefers_gpu, may_wake = policy_of(client.headers, entry.policy)
        query = f"?{client.query.decode('ascii')}" if client.query else ""
        serving = Serving(
            parts=parts,
            client=client,
            dialect=dialect,
            question=question,
            entry=entry,
            ask=Ask(entry.name, away, prefers_gpu, may_wake),
            caller=caller.name,
            path=path + query,
            body=body,
            engine=engine,
        )
        # It lets go of the body once it need not send it again, which it could not if it were kept here too.
        del body
        await serving.run()

    async def _body(self, client: Client) -> bytes:
        room = Room(self.parts)
        try:
            return await client.body(self.parts.limits, room.take)
        finally:
            room.leave()

    def _unknown(self, name: str) -> BadRequest:
        known = self.table.names
        some = ", ".join(known[:_LOUDEST_LIST]) + (f" and {len(known) - _LOUDEST_LIST} more" if known[20:] else "")
        shown = name[:100].encode("ascii", "replace").decode()
        return BadRequest(
            Fault(404, "model_not_found", f'cannot find model "{shown}"', f"use one of: {some or 'none is defined'}")
        )

    def _where(self, node: NodeName) -> tuple[Target, str] | None:
        """Return the engine of a node in its present mode, and its health page."""
        now = self.parts.power.seen().get(node)
        for offer in self._offers.get(node, ()):
            if now is None or now.mode in (None, offer.mode):
                return Target(offer.host, offer.port), offer.health_path
        return None

    def _ready(self) -> Iterable[NodeName]:
        seen = self.parts.power.seen()
        return [node for node in self._offers if node in seen and seen[node].phase is Phase.READY]


def _engine_for(dialect: Dialect, path: str, question: Question, body: bytes, entry: ModelEntry) -> EngineName | None:
    """Return the only engine that understands a request, or None when all do. Raises BadRequest when nobody does."""
    if all(offer.engine == dialect.engine for offer in entry.offers) or dialect.engine is None:
        return dialect.engine
    if not question.is_json:
        # A model named in a query or a form is enough for engines of other dialects; here there is one to translate.
        raise BadRequest(Fault(400, "bad_json", "cannot read the request: its body is not JSON", "POST a JSON object"))
    try:
        as_openai(path, body, entry.name)
    except Untranslatable as what:
        if any(not offer.stands_in for offer in entry.speaking(dialect.engine)):
            return dialect.engine
        engines = ", ".join(sorted({offer.engine for offer in entry.offers if not offer.stands_in}))
        summary = f'cannot take {what} here: model "{entry.name}" is served by {engines}, which understands none'
        step = "leave it out, or ask for a model that Ollama serves"
        raise BadRequest(Fault(400, "not_translatable", summary, step)) from None
    return None
