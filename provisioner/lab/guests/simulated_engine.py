"""An inference server that knows nothing: the shapes of llama.cpp's server around canned words."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

from provisioner.lab.guests.simulated_ollama import SimulatedOllama

_WORDS = "a small light woke in the rack and said that it was ready to think about everything slowly".split()  # noqa: SIM905
_TOKENS = 16
ENGINE_FAULTS = frozenset(
    {
        "hangs",
        "engine_hangs",
        "engine_loads_forever",
        "engine_fails",
        "engine_garbage",
        "engine_wrong_model",
        "engine_wants_key",
        "engine_silent_numbers",
    }
)
"""What can be wrong with an engine that listens; the words are those of fault plans."""
_LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}


class SimulatedEngine:
    """Serves one model on one address until it is closed."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        model: str,
        kind: str = "llama.cpp",
        ollama: SimulatedOllama | None = None,
        loading_seconds: float = 0.0,
        token_seconds: float = 0.0,
        fault: str | None = None,
        key_sha256: str = "",
    ) -> None:
        self._host = host
        self._port = port
        self._model = "another-model" if fault == "engine_wrong_model" else model
        self._fault = fault
        self._kind = kind
        self._key_sha256 = "a key of somebody else" if fault == "engine_wants_key" else key_sha256
        self._ollama = ollama
        self._ready_at = time.monotonic() + loading_seconds
        self._token_seconds = token_seconds
        self._runner: web.AppRunner | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._processing = 0
        self._predicted = 0
        self._prompted = 0
        self._decodes = 0

    async def open(self) -> None:
        """Listen; a guest that loses its power meanwhile finds a socket that `close` can still close."""
        # A server cancelled half-way listens on, and nobody has it in hand any more.
        self._opening = asyncio.create_task(self._listen())
        await asyncio.shield(self._opening)

    async def _listen(self) -> None:
        app = web.Application(middlewares=[self._misbehave])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/props", self._props)
        app.router.add_get("/slots", self._slots)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._chat)
        app.router.add_get("/node_id", self._health)
        if self._ollama is not None:
            self._ollama.add_routes(app.router)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, reuse_address=True).start()

    async def close(self) -> None:
        """Hang up on everybody, as power off does."""
        self._closing.set()
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _misbehave(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        match self._fault:
            case "hangs" | "engine_hangs":
                await self._closing.wait()
            case "engine_fails":
                error = {"code": 500, "message": "CUDA error: an illegal memory access was encountered"}
                return web.json_response({"error": {**error, "type": "server_error"}}, status=500)
            case "engine_garbage" if request.path != "/health":
                return web.Response(body=b"\x00<<<>>>", content_type="application/octet-stream")
            case "engine_silent_numbers" if request.path == "/metrics":
                return web.json_response({"error": {"code": 501, "message": "not supported"}}, status=501)
        if self._wants_key(request):
            error = {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}
            return web.json_response({"error": error}, status=401)
        return await handler(request)

    def _wants_key(self, request: web.Request) -> bool:
        """Say whether a request lacks the key where this kind of engine asks for one."""
        guarded = request.path != "/health" if self._kind == "llama.cpp" else request.path.startswith("/v1")
        if self._kind == "tgi" and request.path == "/v1/models":
            guarded = False
        if not self._key_sha256 or not guarded:
            return False
        kind, _, key = request.headers.get("Authorization", "").partition(" ")
        return kind != "Bearer" or hashlib.sha256(key.encode()).hexdigest() != self._key_sha256

    def _is_ready(self) -> bool:
        return self._fault != "engine_loads_forever" and time.monotonic() >= self._ready_at

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}) if self._is_ready() else _loading()

    async def _models(self, request: web.Request) -> web.Response:
        if not self._is_ready():
            return _loading()
        if self._ollama is not None:
            stored = [{"id": name, "object": "model", "owned_by": "library"} for name in self._ollama.stored]
            return web.json_response({"object": "list", "data": stored})
        meta = {"vocab_type": 2, "n_vocab": 32000, "n_ctx_train": 4096, "n_embd": 512, "n_params": 15_000_000}
        entry = {
            "id": self._model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "llamacpp",
            "meta": meta,
        }
        return web.json_response({"object": "list", "data": [entry]})

    async def _props(self, request: web.Request) -> web.Response:
        if not self._is_ready():
            return _loading()
        return web.json_response(
            {
                "default_generation_settings": {"n_ctx": 4096},
                "total_slots": 1,
                "model_path": f"/models/{self._model}",
                "model_alias": self._model,
                "build_info": "b0000-simulated",
                "is_sleeping": False,
            }
        )

    async def _slots(self, request: web.Request) -> web.Response:
        if not self._is_ready():
            return _loading()
        return web.json_response([{"id": 0, "id_task": -1, "n_ctx": 4096, "is_processing": self._processing > 0}])

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self._is_ready():
            return _loading()
        if self._kind != "llama.cpp":
            return web.Response(text=self._numbers_of_another(), content_type="text/plain")
        figures = (
            ("prompt_tokens_total", "counter", self._prompted),
            ("prompt_seconds_total", "counter", 0),
            ("tokens_predicted_total", "counter", self._predicted),
            ("tokens_predicted_seconds_total", "counter", 0),
            ("n_decode_total", "counter", self._decodes),
            ("n_busy_slots_per_decode", "counter", int(self._decodes > 0)),
            ("prompt_tokens_seconds", "gauge", 0),
            ("predicted_tokens_seconds", "gauge", 0),
            ("requests_processing", "gauge", min(self._processing, 1)),
            ("requests_deferred", "gauge", max(0, self._processing - 1)),
        )
        lines = [
            f"# HELP llamacpp:{name} Simulated.\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
            for name, kind, value in figures
        ]
        return web.Response(text="".join(lines), content_type="text/plain")

    def _numbers_of_another(self) -> str:
        """Return the numbers as vLLM or TGI name them."""
        running, waiting = min(self._processing, 1), max(0, self._processing - 1)
        if self._kind == "tgi":
            return (
                f"tgi_batch_current_size {running}\ntgi_queue_size {waiting}\n"
                f"tgi_request_count {self._decodes}\ntgi_batch_inference_count {self._decodes}\n"
            )
        labels = f'{{engine="0",model_name="{self._model}"}}'
        return (
            f"vllm:num_requests_running{labels} {running}\nvllm:num_requests_waiting{labels} {waiting}\n"
            f'vllm:request_success_total{{engine="0",finished_reason="stop"}} {self._decodes}\n'
            f"vllm:generation_tokens_total{labels} {self._predicted}\n"
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not self._is_ready():
            return _loading()
        try:
            wish = await request.json()
        except ValueError:
            error = {"code": 400, "message": "the request is no JSON", "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        limit = wish.get("max_tokens") or wish.get("max_completion_tokens") or _TOKENS
        words = list(_answer(int(limit)))
        self._processing += 1
        self._prompted += max(1, len(json.dumps(wish)) // 4)
        try:
            if wish.get("stream"):
                return await self._stream(request, words)
            await asyncio.sleep(self._token_seconds * len(words))
            return web.json_response(self._complete(words))
        finally:
            self._processing -= 1
            self._predicted += len(words)
            self._decodes += len(words)

    async def _stream(self, request: web.Request, words: list[str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunks: list[dict[str, object]] = [{"role": "assistant", "content": None}]
        chunks += [{"content": word} for word in words]
        for delta in chunks:
            await asyncio.sleep(self._token_seconds)
            await response.write(_event(self._chunk(delta, None)))
        await response.write(_event(self._chunk({}, "stop")))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _chunk(self, delta: dict[str, object], finish: str | None) -> dict[str, object]:
        return {
            "id": "chatcmpl-simulated",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    def _complete(self, words: list[str]) -> dict[str, object]:
        content = "".join(words)
        return {
            "id": "chatcmpl-simulated",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": content},
                    "text": content,
                }
            ],
            "usage": {"prompt_tokens": 8, "completion_tokens": len(words), "total_tokens": 8 + len(words)},
            "timings": {"predicted_n": len(words), "predicted_per_second": 100.0},
        }


def _answer(limit: int) -> Iterator[str]:
    for index in range(max(1, min(limit, 512))):
        word = _WORDS[index % len(_WORDS)]
        yield word if index == 0 else f" {word}"


def _event(body: dict[str, object]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def _loading() -> web.Response:
    return web.json_response(_LOADING, status=503)
