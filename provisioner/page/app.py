"""The pages as an ASGI application: who is let in, which page it is, and what its forms do."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from provisioner.api.app import PRIVATE
from provisioner.api.control import Control, ForbiddenCall
from provisioner.api.problems import status_of
from provisioner.domain.callers import CALLER, LOCAL, Caller, Callers
from provisioner.domain.callers import Scope as May
from provisioner.domain.events import EventQuery, Kind
from provisioner.domain.names import NodeName
from provisioner.errors import ProvisionerError
from provisioner.page.acting import NotAsked, act
from provisioner.page.answers import FOR_EVER, SAFETY, packed, page, see, takes_gzip
from provisioner.page.assets import Assets
from provisioner.page.door import COOKIE, PASS_SECONDS, SAFE_COOKIE, is_ours
from provisioner.page.forms import NoForm, read_form
from provisioner.page.templates import Templates
from provisioner.page.views import RANGES, Viewer, Views

_LOGGER = logging.getLogger("provisioner.page")
_PATHS = ("/nodes/", "/page/", "/assets/")
_PLACES = frozenset({"/", "/events", "/login", "/logout", "/favicon.ico"})
_EVENTS_A_PAGE = 100
_EVENTS_OF_ALL, _EVENTS_OF_A_NODE = 12, 30
_MOST_WORDS, _LONGEST_WORD = 8, 100
_MOST_NAMES = 500
_LONGEST_NUMBER = 15

_Answer = Callable[[Request, Viewer], Awaitable[Response]]


class Page:
    """An ASGI application."""

    def __init__(
        self,
        views: Views,
        control: Control,
        callers: Callers,
        now: Callable[[], float],
        *,
        version: str,
        is_secure: bool,
    ) -> None:
        """Wire it.

        Args:
            views: what is shown.
            control: what is done.
            callers: the tokens.
            now: UNIX seconds.
            version: our own.
            is_secure: this process itself speaks TLS.
        """
        self._views = views
        self._control = control
        self._callers = callers
        self._now = now
        self._cookie = SAFE_COOKIE if is_secure else COOKIE
        self._is_secure = is_secure
        self._assets = Assets()
        self._templates = Templates(self._assets.path, version, views.fleet.path.name)
        self._router = Router(
            [
                Route("/", self._seen_by(self._fleet)),
                Route("/nodes/{name}", self._seen_by(self._node), methods=["GET"]),
                Route("/nodes/{name}", self._seen_by(self._act), methods=["POST"]),
                Route("/events", self._seen_by(self._events)),
                Route("/page/live", self._seen_by(self._live)),
                Route("/page/rows", self._seen_by(self._rows)),
                Route("/page/charts", self._seen_by(self._charts)),
                Route("/login", self._log_in, methods=["POST"]),
                Route("/logout", self._log_out, methods=["POST"]),
                Route("/assets/{name}", self._asset),
                Route("/favicon.ico", self._asset),
            ],
            default=_nowhere,
            redirect_slashes=False,
        )

    @staticmethod
    def has(path: str) -> bool:
        """Say whether a path is one of the pages'."""
        return path in _PLACES or path.startswith(_PATHS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            words = HTTPStatus(error.status_code).phrase.lower()
            await self._refusal(request, error.status_code, words, "the fleet is at /")(scope, receive, send)
        except ClientDisconnect:
            return

    def _seen_by(self, answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            caller = self._caller(request)
            if caller is None:
                return self._door(request)
            if not caller.is_allowed(May.READ):
                words = f'the token "{caller.name}" may not see the fleet'
                return self._refusal(request, 403, words, "log out, and show one that may read", caller)
            try:
                return await answer(request, Viewer(caller, not self._callers.are_open))
            except ForbiddenCall:
                return self._refusal(request, 403, "your token does not allow that", "log in with another", caller)
            except (NoForm, NotAsked) as error:
                return self._refusal(request, 400, str(error), "go back and try again", caller)
            except ProvisionerError as error:
                return self._refusal(request, status_of(error).value, error.summary, error.next_step, caller)
            except (HTTPException, ClientDisconnect):
                raise
            except Exception:
                _LOGGER.exception("cannot show %s", request.url.path)
                words = "something in the service itself is broken"
                return self._refusal(request, 500, words, "its log has the details", caller)

        return guarded

    def _caller(self, request: Request) -> Caller | None:
        if request.scope.get(PRIVATE):
            return LOCAL
        known: Caller | None = request.scope.get(CALLER)
        return known or self._callers.who(request.headers.get("authorization"))

    async def _fleet(self, request: Request, viewer: Viewer) -> Response:
        wanted, reach = _words(request), _reach(request)

        def show() -> str:
            nodes = self._views.nodes()
            shown = [node for node in nodes if _matches(node.name, node.word, node.model, node.mode, wanted)]
            return self._templates.show(
                "fleet.html",
                viewer=viewer,
                nodes=shown,
                summary=self._views.summary(nodes),
                charts=self._views.charts(reach),
                reach=reach,
                reaches=tuple(RANGES),
                savings=self._views.savings(None),
                events=self._views.events(EventQuery(), _EVENTS_OF_ALL),
                last_event=self._views.last_event(),
                models=self._views.models,
                query=" ".join(wanted),
                now=self._now(),
            )

        return page(await self._control.in_thread(show), request)

    async def _node(self, request: Request, viewer: Viewer) -> Response:
        return page(await self._control.in_thread(lambda: self._node_page(request, viewer)), request)

    def _node_page(self, request: Request, viewer: Viewer, problem: ProvisionerError | None = None) -> str:
        name = NodeName(request.path_params["name"])
        reach = _reach(request)
        node = self._views.node(name)
        savings = self._views.savings(None)
        return self._templates.show(
            "node.html",
            viewer=viewer,
            node=node,
            spec=self._views.fleet.nodes[name],
            charts=self._views.charts(reach, name),
            reach=reach,
            reaches=tuple(RANGES),
            saved=next((each for each in savings.nodes if each.node == name), None) if savings else None,
            events=self._views.events(EventQuery(node=name), _EVENTS_OF_A_NODE),
            last_event=self._views.last_event(),
            done=request.query_params.get("done", ""),
            problem=problem,
            now=self._now(),
        )

    async def _act(self, request: Request, viewer: Viewer) -> Response:
        headers = dict(request.scope["headers"])
        said = {
            name: headers[name].decode("latin-1") for name in (b"host", b"origin", b"sec-fetch-site") if name in headers
        }
        # Also where no token is needed: then it is the only thing that keeps other pages out.
        if not is_ours(said, "POST"):
            raise ForbiddenCall
        form = await read_form(request)
        name = NodeName(request.path_params["name"])
        try:
            done = await act(self._control, viewer.caller, name, form)
        except ProvisionerError as error:
            problem = error
            text = await self._control.in_thread(lambda: self._node_page(request, viewer, problem))
            return page(text, request, status_of(error).value)
        return see(f"/nodes/{name}?{urlencode({'done': done})}")

    async def _events(self, request: Request, viewer: Viewer) -> Response:
        before = request.query_params.get("before", "")
        kind = request.query_params.get("kind", "")
        query = EventQuery(
            words=_words(request),
            kind=Kind(kind) if kind in {each.value for each in Kind} else None,
            node=request.query_params.get("node", ""),
            before=int(before) if before.isascii() and before.isdigit() and len(before) <= _LONGEST_NUMBER else None,
        )

        def show() -> str:
            found = self._views.events(query, _EVENTS_A_PAGE + 1)
            older = found[_EVENTS_A_PAGE - 1].number if len(found) > _EVENTS_A_PAGE else None
            return self._templates.show(
                "events.html",
                viewer=viewer,
                events=found[:_EVENTS_A_PAGE],
                query=query,
                kinds=tuple(each.value for each in Kind),
                nodes=tuple(self._views.fleet.nodes),
                older=self._link(query, older) if older is not None else None,
                now=self._now(),
            )

        return page(await self._control.in_thread(show), request)

    @staticmethod
    def _link(query: EventQuery, before: int) -> str:
        fields = {
            "q": " ".join(query.words),
            "kind": query.kind.value if query.kind else "",
            "node": query.node,
            "before": str(before),
        }
        return "/events?" + urlencode({key: value for key, value in fields.items() if value})

    async def _live(self, request: Request, viewer: Viewer) -> Response:
        """Say which rows an open page shows have changed, and what stands above and below them."""
        after, of = request.query_params.get("after", ""), request.query_params.get("node", "")

        def look() -> bytes:
            nodes = self._views.nodes(with_day=False)
            last = self._views.last_event()
            found: dict[str, object] = {
                "last": last,
                "versions": {node.name: node.version for node in nodes},
                "summary": self._templates.show("_summary.html", summary=self._views.summary(nodes), viewer=viewer),
            }
            if str(last) != after:
                events = self._views.events(EventQuery(node=of), _EVENTS_OF_A_NODE if of else _EVENTS_OF_ALL)
                found["events"] = self._templates.show("_events.html", events=events, now=self._now())
            return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")

        return packed(await self._control.in_thread(look), "application/json", request)

    async def _rows(self, request: Request, viewer: Viewer) -> Response:
        names = request.query_params.getlist("node")[:_MOST_NAMES]

        def look() -> bytes:
            rows = {
                node.name: self._templates.show("_row.html", node=node, viewer=viewer, now=self._now())
                for node in self._views.nodes(names)
            }
            return json.dumps(rows, ensure_ascii=False).encode(errors="replace")

        return packed(await self._control.in_thread(look), "application/json", request)

    async def _charts(self, request: Request, viewer: Viewer) -> Response:
        reach, node = _reach(request), request.query_params.get("node")
        if node is not None:
            self._control.require_node(NodeName(node))

        def show() -> str:
            charts = self._views.charts(reach, NodeName(node) if node is not None else None)
            return self._templates.show("_charts.html", charts=charts, reach=reach)

        return page(await self._control.in_thread(show), request)

    async def _log_in(self, request: Request) -> Response:
        try:
            form = await read_form(request)
        except NoForm as error:
            return self._door(request, str(error), 400)
        until = int(self._now()) + PASS_SECONDS
        shown = self._callers.pass_for(form.get("token", ""), until)
        if shown is None:
            return self._door(request, "this is nobody's token", 401)
        answer = see("/")
        answer.set_cookie(
            self._cookie,
            shown,
            max_age=PASS_SECONDS,
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    async def _log_out(self, request: Request) -> Response:
        answer = see("/")
        for name in (COOKIE, SAFE_COOKIE):
            answer.delete_cookie(name, path="/", secure=name == SAFE_COOKIE, httponly=True, samesite="strict")
        return answer

    async def _asset(self, request: Request) -> Response:
        path = self._assets.path("icon.svg") if request.url.path == "/favicon.ico" else request.url.path
        asset = self._assets.at(path)
        if asset is None:
            raise HTTPException(404)
        headers = {**SAFETY, "Cache-Control": FOR_EVER, "ETag": asset.etag, "Vary": "Accept-Encoding"}
        if request.url.path != path:
            headers["Cache-Control"] = "public, max-age=86400"
        if request.headers.get("if-none-match") == asset.etag:
            return Response(None, 304, headers)
        if takes_gzip(request):
            headers["Content-Encoding"] = "gzip"
            return Response(asset.packed, 200, headers, asset.media_type)
        return Response(asset.plain, 200, headers, asset.media_type)

    def _door(self, request: Request, problem: str = "", status: int = 401) -> Response:
        """Ask for a token: with a page, or without where a script of ours asked for a piece of one."""
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        return page(self._templates.show("login.html", problem=problem), request, status, headers)

    def _refusal(
        self, request: Request, status: int, words: str, next_step: str, caller: Caller | None = None
    ) -> Response:
        text = self._templates.show(
            "refused.html", status=status, words=words, next_step=next_step, is_known=caller not in (None, LOCAL)
        )
        return page(text, request, status)


def _words(request: Request) -> tuple[str, ...]:
    return tuple(word[:_LONGEST_WORD] for word in request.query_params.get("q", "").split()[:_MOST_WORDS])


def _matches(*texts: object) -> bool:
    *found, words = texts
    text = " ".join(str(each) for each in found).lower()
    return all(word.lower() in text for word in words)  # type: ignore[attr-defined]


def _reach(request: Request) -> str:
    wanted = request.query_params.get("reach", "")
    return wanted if wanted in RANGES else next(iter(RANGES))


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)
