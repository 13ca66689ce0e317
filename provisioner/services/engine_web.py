"""The way to a node's engine: sends the node's API key where the engine asks for one, and names a key that is refused.

The key is read anew for each request that needs it, and kept nowhere: in no
error, no record and no repr. What needs none, such as a look at its health,
is asked without reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from provisioner.domain.fleet import FleetSpec, NodeSpec, SecretReference
from provisioner.engines.base import InferenceEngine
from provisioner.errors import EngineKeyError, InputError
from provisioner.ports.streams import Streams
from provisioner.ports.web import NO_HEADERS, Answer, Headers, NoAnswer, Web
from provisioner.services.world import World

_REFUSED = frozenset({401, 403})
# llama.cpp takes what stands between commas, and Open WebUI what stands between semicolons, for a key each.
_NO_PART_OF_A_KEY = ",;"


class EngineKey:
    """The API key of one engine on one node, if clients must send one.

    Args:
        node: where; its `api_key` is what the fleet file says.
        engine: what runs there.
        read: reads the secret. Raises InputError.
    """

    def __init__(self, node: NodeSpec, engine: InferenceEngine, read: Callable[[SecretReference], str]) -> None:
        self._node = node
        self._engine = engine
        self._read = read

    @property
    def is_needed(self) -> bool:
        """Clients must send it."""
        return self._node.api_key is not None and bool(self._engine.key_variable)

    def require(self) -> None:
        """Make sure, before anything is begun, that the key can be read and is one. Raises InputError."""
        self.headers("/v1/chat/completions")

    def headers(self, path: str) -> Headers:
        """Return what is sent with a request for a path. Raises InputError."""
        reference = self._node.api_key
        if reference is None or not self._engine.key_variable or not self._engine.guards(path):
            return NO_HEADERS
        key = self._read(reference)
        if any(sign in key for sign in _NO_PART_OF_A_KEY):
            raise InputError(
                f"cannot use the secret {reference} as an API key: it holds a comma or a semicolon, where engines "
                "take one key to end and the next to begin",
                subject=self._node.subject,
                next_step="make another, with `openssl rand -hex 24` say",
            )
        return {"Authorization": f"Bearer {key}"}

    def refused(self, status: int, path: str) -> NoReturn:
        """Raise the error of an engine that did not let us in."""
        name, reference = self._node.name, self._node.api_key
        if reference is None:
            what = "the fleet file names no API key for the node, and it asks for one"
            step = f"write api_key: env:NAME or file:PATH for node {name}"
        elif not self._engine.key_variable:
            what = f"{self._engine.name} itself asks for no key, so something in front of it does"
            step = f"let this machine reach port {self._engine.port} of {name} itself"
        else:
            what = f"its API key is not the one in {reference}"
            step = f"put the right one there; if it is to be a new one: provisioner up {name} lays it down"
        raise EngineKeyError(
            f"cannot use {self._engine.name}: it answers HTTP {status} to {path}: {what}",
            subject=self._node.subject,
            next_step=step,
        )


class EngineWeb:
    """The port `Web`, to one engine only."""

    def __init__(self, web: Web, key: EngineKey) -> None:
        self._web = web
        self._key = key

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Fetch. Raises NoAnswer, EngineKeyError, InputError."""
        return self._judged(url, self._web.get(url, seconds=seconds, headers=self._sent(url, headers)))

    def post_json(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Send a JSON document. Raises NoAnswer, EngineKeyError, InputError."""
        return self._judged(url, self._web.post_json(url, body, seconds=seconds, headers=self._sent(url, headers)))

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Send a JSON document with any method. Raises NoAnswer, EngineKeyError, InputError."""
        return self._judged(url, self._web.send(method, url, body, seconds=seconds, headers=self._sent(url, headers)))

    def lines(
        self, method: str, url: str, body: object, *, silence_seconds: float, headers: Headers = NO_HEADERS
    ) -> Iterator[str]:
        """Yield an answer's lines as they come. Raises NoAnswer, EngineKeyError, InputError."""
        sent = self._sent(url, headers)
        try:
            yield from self._web.lines(method, url, body, silence_seconds=silence_seconds, headers=sent)
        except NoAnswer as reason:
            self._name_refusal(url, reason.status)
            raise

    def _sent(self, url: str, headers: Headers) -> Headers:
        return {**headers, **self._key.headers(_path(url))}

    def _judged(self, url: str, answer: Answer) -> Answer:
        self._name_refusal(url, answer.status)
        return answer

    def _name_refusal(self, url: str, status: int | None) -> None:
        if status in _REFUSED:
            self._key.refused(status, _path(url))


class EngineStreams:
    """The port `Streams`, to one engine only."""

    def __init__(self, streams: Streams, key: EngineKey) -> None:
        self._streams = streams
        self._key = key

    @contextmanager
    def open(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Iterator[Iterator[str]]:
        """Send a JSON document; yield the lines of the answer. Raises NoAnswer, EngineKeyError, InputError."""
        sent = {**headers, **self._key.headers(_path(url))}
        try:
            with self._streams.open(url, body, seconds=seconds, headers=sent) as lines:
                yield lines
        except NoAnswer as reason:
            if reason.status in _REFUSED:
                self._key.refused(reason.status, _path(url))
            raise


def engine_key(fleet: FleetSpec, world: World, node: NodeSpec) -> EngineKey:
    """Return the key of the engine that a node runs."""
    engine = world.engines[fleet.mode_of(node).engine]
    return EngineKey(node, engine, lambda reference: world.secret(reference, subject=node.subject))


def engine_web(fleet: FleetSpec, world: World, node: NodeSpec) -> Web:
    """Return the way to the engine that a node runs."""
    return EngineWeb(world.web, engine_key(fleet, world, node))


def engine_streams(fleet: FleetSpec, world: World, node: NodeSpec) -> Streams:
    """Return the way to the streams of the engine that a node runs."""
    return EngineStreams(world.streams, engine_key(fleet, world, node))


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]
