"""The API as an ASGI application: the door, the body, the call, the answer. Every refusal is a problem document."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route as Path
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from provisioner.api import openapi
from provisioner.api.control import Control, ForbiddenCall
from provisioner.api.problems import MEDIA_TYPE, Problem, problem, problem_of
from provisioner.api.routes import ROUTES, Accepted, Call, Route
from provisioner.api.stream import events
from provisioner.domain.callers import CALLER, LOCAL, Caller, Callers
from provisioner.domain.callers import Scope as May
from provisioner.domain.names import NodeName
from provisioner.errors import ProvisionerError

_Value = TypeVar("_Value")

_LOGGER = logging.getLogger("provisioner.api")
# The longest body that makes sense is a model's name and a sentence.
_LONGEST_BODY = 64 * 1024
_LONGEST_NUMBER = 15
# Such a body comes in one piece from whoever means it.
_BODY_SECONDS = 15.0
# What is embedded is ours; nothing else may run on our pages, and nobody may frame them.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
PRIVATE = "provisioner.private"
"""The key by which a server says of a request that it came through our private socket."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A page for programs that watch us. `text` is called in a thread."""

    text: Callable[[], bytes]
    content_type: str


class Refused(Exception):
    """A call that is answered with a problem."""

    def __init__(self, found: Problem) -> None:
        super().__init__(found.document["detail"])
        self.problem = found


class Api:
    """The ASGI application below ``/api``."""

    def __init__(
        self, control: Control, callers: Callers, version: str, watching: Mapping[str, Watched] | None = None
    ) -> None:
        """Wire it; `watching` are the pages for whoever watches us, by their paths."""
        self._control = control
        self._callers = callers
        self._version = version
        self._document = json.dumps(openapi.document(version, needs_token=not callers.are_open)).encode()
        self._page = openapi.page(version)
        paths = [Path(path, self._any_of(each), methods=list(each)) for path, each in _by_path(ROUTES).items()]
        paths += [
            Path("/api/events", self._guarded(self._events), methods=["GET"]),
            Path("/api/openapi.json", self._guarded(self._openapi), methods=["GET"]),
            Path("/api", self._guarded(self._show_page), methods=["GET"]),
        ]
        paths += [
            Path(path, self._guarded(self._watched(each)), methods=["GET"]) for path, each in (watching or {}).items()
        ]
        self._router: ASGIApp = Router(paths, default=_nowhere, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            found = _http_problem(error)
            await _response(found)(scope, receive, send)
        except ClientDisconnect:
            # Nobody is left who could be told.
            return

    def _any_of(self, routes: Mapping[str, Route]) -> Any:
        """Return what answers every method of one path: who asks with another one is told them all."""
        endpoints = {method: self._endpoint(route) for method, route in routes.items()}

        async def answer(request: Request) -> Response:
            response: Response = await endpoints["GET" if request.method == "HEAD" else request.method](request)
            return response

        return answer

    def _endpoint(self, route: Route) -> Any:
        async def answer(request: Request) -> Response:
            caller = self._caller(request)
            if not any(caller.is_allowed(scope) for scope in route.scopes):
                raise ForbiddenCall
            body = await _body(request, route) if route.method == "POST" else None
            after = _number(request.query_params.get("after")) if route.is_numbered else None
            call = Call(caller, NodeName(request.path_params.get("name", "")), body, after or 0)
            work = route.act(self._control, call)
            value = await (_while_there(request, work) if route.ends_with_caller else work)
            if isinstance(value, Accepted):
                return _json(value.value, HTTPStatus.ACCEPTED, {"Location": value.look_at})
            return _json(value)

        return self._guarded(answer)

    def _guarded(self, answer: Any) -> Any:
        async def guarded(request: Request) -> Response:
            try:
                response: Response = await answer(request)
            except Refused as refused:
                return _response(refused.problem)
            except ForbiddenCall:
                return _response(problem(HTTPStatus.FORBIDDEN, "forbidden", "this token does not allow that"))
            except ProvisionerError as error:
                return _response(problem_of(error))
            except (HTTPException, ClientDisconnect):
                raise
            except Exception:
                # A mistake of ours. Its words go to the log alone: they may hold what is nobody's business.
                _LOGGER.exception("cannot answer %s %s", request.method, request.url.path)
                words = "something in the service itself is broken; its log has the details"
                return _response(problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", words))
            return response

        return guarded

    def _caller(self, request: Request) -> Caller:
        if request.scope.get(PRIVATE):
            return LOCAL
        known: Caller | None = request.scope.get(CALLER)
        caller = known or self._callers.who(request.headers.get("authorization"))
        if caller is None:
            challenge = {"WWW-Authenticate": "Bearer"}
            words = "a known token is needed: Authorization: Bearer TOKEN"
            raise Refused(problem(HTTPStatus.UNAUTHORIZED, "unauthorized", words, headers=challenge))
        return caller

    async def _events(self, request: Request) -> Response:
        if not self._caller(request).is_allowed(May.READ):
            raise ForbiddenCall
        after = _number(request.headers.get("last-event-id") or request.query_params.get("after"))
        node = request.query_params.get("node")
        if node is not None:
            self._control.require_node(NodeName(node))
        stream = events(self._control.journal, after, node, lambda: self._control.is_draining)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    def _watched(self, watched: Watched) -> Any:
        async def answer(request: Request) -> Response:
            if not self._caller(request).is_allowed(May.READ):
                raise ForbiddenCall
            # A thousand nodes take a while to write down, and requests for models do not wait for that.
            text = await self._control.in_thread(watched.text)
            return Response(text, headers={"Cache-Control": "no-store", "Content-Type": watched.content_type})

        return answer

    async def _openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def _show_page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers=_PAGE_HEADERS)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        words = "after, or Last-Event-ID, is the number of the last one that was seen"
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "bad-number", words))
    return int(text)


async def _body(request: Request, route: Route) -> BaseModel | None:
    raw = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                raw += piece
                if len(raw) > _LONGEST_BODY:
                    words = f"a body has at most {_LONGEST_BODY} bytes"
                    raise Refused(problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-long", words))
    except TimeoutError:
        words = f"the body did not come within {_BODY_SECONDS:g} s"
        away = {"Connection": "close"}
        raise Refused(problem(HTTPStatus.REQUEST_TIMEOUT, "body-too-slow", words, headers=away)) from None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Also without a body: a page in somebody's browser may send text/plain anywhere, application/json nowhere.
    if media_type != "application/json" and (raw or "content-type" in request.headers or "origin" in request.headers):
        words = "a body is JSON, and its Content-Type application/json"
        raise Refused(problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not-json", words))
    if route.body is None:
        return None
    if not raw and route.body_is_optional:
        return route.body()
    try:
        value = json.loads(bytes(raw), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "not-json", f"the body is not JSON{where}")) from None
    try:
        return route.body.model_validate(value)
    except ValidationError as error:
        raise Refused(_shape_problem(error)) from None


async def _while_there(request: Request, work: Awaitable[_Value]) -> _Value:
    """Return what comes of work; give it up when its caller leaves. Raises ClientDisconnect."""
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _shape_problem(error: ValidationError) -> Problem:
    problems = [
        {"place": ".".join(str(part) for part in each["loc"]) or "the body", "found": each["msg"]}
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    words = "; ".join(f"{each['place']}: {each['found']}" for each in problems)
    found = problem(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-shape", f"the body is not of the shape: {words}")
    found.document["problems"] = problems
    return found


def _http_problem(error: HTTPException) -> Problem:
    status = HTTPStatus(error.status_code)
    kind = status.phrase.lower().replace(" ", "-")
    return problem(
        status, kind, f"{status.phrase.lower()}; GET /api shows what there is", headers=dict(error.headers or {})
    )


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(HTTPStatus.NOT_FOUND)


def _by_path(routes: tuple[Route, ...]) -> dict[str, dict[str, Route]]:
    """Return the routes by path and method; a path without a name in it goes before one with."""
    found: dict[str, dict[str, Route]] = {}
    for route in sorted(routes, key=lambda route: "{" in route.path):
        found.setdefault(route.path, {})[route.method] = route
    return found


def _json(value: object, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return Response(
        text.encode(errors="replace"),
        status.value,
        {"Cache-Control": "no-store", **(headers or {})},
        "application/json",
    )


def _response(found: Problem) -> Response:
    text = json.dumps(found.document, ensure_ascii=False, default=str)
    return Response(text.encode(errors="replace"), found.status.value, found.headers, MEDIA_TYPE)
