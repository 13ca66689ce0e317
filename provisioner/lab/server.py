"""The HTTPS face: decoding, identity, and whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote

from aiohttp import BodyPartReader, hdrs, web

from provisioner.lab.answers import answered, plain, refused
from provisioner.lab.core import Lab
from provisioner.lab.decoding import decoded
from provisioner.lab.dispatch import Dispatcher
from provisioner.lab.faults.spoiling import spoiled
from provisioner.lab.refusals import Refusal, failed

BASE = "/api2/json"
_CHUNK = 1 << 20
_TOKEN_SCHEME = "PVEAPIToken="  # noqa: S105 - a scheme
_COOKIE = "PVEAuthCookie"
_FOR_EVERYBODY = ("/access/ticket", "/access/domains")


log = logging.getLogger(__name__)


class ApiServer:
    """Serves one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._dispatcher = Dispatcher(lab)
        self._incoming = lab.options.state_dir / "incoming"

    def application(self) -> web.Application:
        """Return the web application."""
        # The limit is kept by hand: beyond it Proxmox answers 501 with a text of its own, and uploads have none.
        app = web.Application(client_max_size=1 << 60)
        app.router.add_route("GET", "/lab/requests", self._requests)
        app.router.add_route("DELETE", "/lab/requests", self._forget_requests)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _requests(self, request: web.Request) -> web.Response:
        _require_loopback(request)
        return web.json_response(self._lab.journal.all())

    async def _forget_requests(self, request: web.Request) -> web.Response:
        _require_loopback(request)
        self._lab.journal.clear()
        return web.json_response([])

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.rel_url.raw_path).rstrip("/")
        if not path.startswith(BASE):
            return plain(404, "no such file")
        path = path.removeprefix(BASE) or "/"
        began = time.monotonic()
        fault = self._lab.faults.for_request(request.method, path)
        if fault is None:
            return await self._answer(request, path, began)

        def note(status: int) -> None:
            self._lab.journal.note(request.method, path, {}, status, None, began)

        return await spoiled(self._lab, request, path, fault, lambda: self._answer(request, path, began), note)

    async def _answer(self, request: web.Request, path: str, began: float) -> web.StreamResponse:
        params: dict[str, object] = {}
        who: str | None = None
        upload: Path | None = None
        try:
            match = self._dispatcher.match(request.method, path)
            who = self._identity(request, path)
            if path.endswith("/upload") and request.content_type.startswith("multipart/"):
                self._lab.access.check(match.endpoint.rule, who, match.values)
                params, upload = await self._receive(request)
            else:
                params = await decoded(request, match.endpoint.params)
            data = await self._dispatcher.call(who, request.method, path, params, upload)
            status = 200
        except Refusal as refusal:
            status = refusal.status
            if upload is not None:
                upload.unlink(missing_ok=True)
            if status == 401:
                await asyncio.sleep(self._lab.options.auth_delay_seconds)
            answer = refused(refusal)
        except Exception as error:
            # A mistake of the lab's own must look like one, and must not stop the count of requests.
            log.exception("%s %s broke", request.method, path)
            status = 500
            answer = refused(failed(f"lab error: {type(error).__name__}: {error}"))
        else:
            answer = answered(200, "OK", {"data": data})
        self._lab.journal.note(request.method, path, params, status, who, began)
        return answer

    def _identity(self, request: web.Request, path: str) -> str | None:
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        if header.startswith(_TOKEN_SCHEME):
            return self._token_user(header.removeprefix(_TOKEN_SCHEME), request, path)
        ticket = request.cookies.get(_COOKIE)
        if ticket is None:
            if path in _FOR_EVERYBODY:
                return None
            raise Refusal(401, "No ticket")
        user = self._lab.tickets.user_of(unquote(ticket))
        if user is None or not self._is_enabled(user):
            if path == "/access/ticket":
                return None
            raise Refusal(401, "permission denied - invalid PVE ticket")
        if request.method != "GET" and path != "/access/ticket":
            csrf = request.headers.get("CSRFPreventionToken", "")
            if not self._lab.tickets.accepts_csrf(csrf, user):
                raise Refusal(401, "Permission denied - invalid csrf token")
        return user

    def _token_user(self, text: str, request: web.Request, path: str) -> str:
        name, _, secret = text.partition("=")
        user, mark, token_name = name.partition("!")
        if not mark:
            raise Refusal(401, "no tokenid specified")
        if not self._is_enabled(user):
            raise Refusal(401, f"no such user ('{user}')" if user not in self._lab.cluster.users else "user disabled")
        token = self._lab.cluster.tokens.get(name)
        if token is None:
            raise Refusal(401, f"no such token '{token_name}' for user '{user}'")
        if token.expire and token.expire < self._lab.time():
            raise Refusal(401, "token expired")
        if not secrets.compare_digest(token.secret, secret):
            raise Refusal(401, "invalid token value!")
        if path == "/access/ticket":
            raise Refusal(403, "API tokens are not allowed to use this endpoint")
        return name

    def _is_enabled(self, name: str) -> bool:
        user = self._lab.cluster.users.get(name)
        return user is not None and user.enable and not (user.expire and user.expire < self._lab.time())

    async def _receive(self, request: web.Request) -> tuple[dict[str, object], Path | None]:
        """Stream a multipart body to disk; what comes before the file is parameters."""
        params: dict[str, object] = {}
        upload: Path | None = None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                continue
            if part.filename is None:
                params[part.name] = (await part.read(decode=True)).decode()
                continue
            if part.name != "filename" or "content" not in params:
                raise Refusal(400, "wrong field order - content must come before the file, which is named 'filename'")
            params["filename"] = part.filename
            self._incoming.mkdir(parents=True, exist_ok=True)
            upload = self._incoming / f"pveupload-{secrets.token_hex(16)}"
            with upload.open("wb") as file:
                while chunk := await part.read_chunk(_CHUNK):
                    file.write(chunk)
        return params, upload


def _require_loopback(request: web.Request) -> None:
    """The journal is for tests on this machine and needs no login, so nobody else may read it."""
    if request.remote is None or not ip_address(request.remote).is_loopback:
        raise web.HTTPForbidden
