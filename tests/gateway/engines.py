"""Small engines on loopback that speak enough of OpenAI's and Ollama's dialects, and misbehave on demand."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

WORDS = ("Hello", " from", " a", " small", " engine", ".")


class Engine:
    """One engine at one address. Set its attributes to make it misbehave from the next request on."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.host = host
        self.port = port
        self.is_hung = False
        self.pause = 0.0
        """Seconds between two words of a stream."""
        self.delay = 0.0
        """Seconds before the first byte."""
        self.status = 200
        """Of answers."""
        self.health = 200
        self.breaks_after: int | None = None
        """Words of a stream after which the connection is cut."""
        self.cuts_answers = False
        """Those that are no streams end in their middle."""
        self.is_endless = False
        self.lingers = 0.0
        """Seconds between the last word of a stream and its end."""
        self.words: tuple[str, ...] = WORDS
        self.written = 0
        """Words of streams that were sent, as far as the network took them."""
        self.key = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = 0
        self.left = 0
        """Clients that went before the end."""
        self.looks = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/health", self._health)
        app.router.add_get("/api/version", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/{rest:.*}", self._openai)
        app.router.add_post("/api/{rest:.*}", self._ollama)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        """Be gone, as a process that was killed: connections are cut, new ones refused."""
        runner, self._runner = self._runner, None
        if runner is not None:
            for server in runner.sites.copy():
                await server.stop()
            assert runner.server is not None
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()
            # A transport that was aborted is closed in the loop's next round.
            await asyncio.sleep(0)

    async def _health(self, request: web.Request) -> web.StreamResponse:
        self.looks += 1
        if self.is_hung:
            await asyncio.Event().wait()
        return web.json_response({"status": "ok", "version": "0"}, status=self.health)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def _begin(self, request: web.Request) -> dict[str, Any]:
        body = await request.read()
        document: dict[str, Any] = json.loads(body) if request.content_type == "application/json" else {"raw": body}
        self.requests.append(document)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            raise web.HTTPUnauthorized(text='{"error": "wrong key"}', content_type="application/json")
        if self.is_hung:
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay)
        if self.status != 200:
            body = json.dumps({"error": {"message": f"it says {self.status}"}}).encode()
            error = web.Response(status=self.status, body=body, content_type="application/json")
            raise _Said(error)
        return document

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, self._openai_answer)

    async def _ollama(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, self._ollama_answer)

    async def _counted(self, request: web.Request, answer: Any) -> web.StreamResponse:
        self.running += 1
        try:
            return await answer(request)  # type: ignore[no-any-return]
        except _Said as said:
            return said.answer
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.running -= 1

    async def _openai_answer(self, request: web.Request) -> web.StreamResponse:
        asked = await self._begin(request)
        if request.path.endswith("/embeddings"):
            return web.json_response(
                {
                    "object": "list",
                    "model": asked["model"],
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
                    "usage": {"prompt_tokens": 3, "total_tokens": 3},
                }
            )
        usage = {"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            if self.cuts_answers:
                half = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "500"})
                await half.prepare(request)
                await half.write(b'{"id": "c1", ')
                assert request.transport is not None
                request.transport.close()
                return half
            return web.json_response(
                {
                    "id": "c1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": asked.get("model", "?"),
                    "choices": [choice],
                    "usage": usage,
                }
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for word in self._words(request):
            choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
            event = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        end = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}
        await response.write(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())
        await asyncio.sleep(self.lingers)
        await response.write_eof()
        return response

    async def _ollama_answer(self, request: web.Request) -> web.StreamResponse:
        asked = await self._begin(request)
        base = {"model": asked["model"], "created_at": "2026-01-01T00:00:00Z"}
        end = base | {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": len(WORDS)}
        if asked.get("stream") is False:
            return web.json_response(end | {"message": {"role": "assistant", "content": "".join(WORDS)}})
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for word in self._words(request):
            line = base | {"message": {"role": "assistant", "content": word}, "done": False}
            await response.write(json.dumps(line).encode() + b"\n")
        await response.write(json.dumps(end | {"message": {"role": "assistant", "content": ""}}).encode() + b"\n")
        await response.write_eof()
        return response

    async def _words(self, request: web.Request) -> Any:
        number = 0
        while self.is_endless or number < len(self.words):
            if self.breaks_after is not None and number >= self.breaks_after:
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionResetError
            yield self.words[number % len(self.words)]
            self.written += 1
            number += 1
            if self.pause or self.is_endless:
                await asyncio.sleep(self.pause)


class _Said(Exception):
    def __init__(self, answer: web.Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Garbler:
    """Something that listens where an engine should and does not speak HTTP."""

    def __init__(self, host: str, port: int, words: bytes) -> None:
        self._at = (host, port)
        self._words = words
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Garbler:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(self._words)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        self._server = await asyncio.start_server(answer, *self._at)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
