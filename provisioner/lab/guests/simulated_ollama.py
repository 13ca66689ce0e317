"""What an Ollama that knows nothing answers beside the OpenAI calls: its store, what is in memory, pulls, chats."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

MODEL_BYTES = 4_920_753_328
_KEEP_SECONDS = 300.0
_PARTS = 4
_WORDS = ("a", " small", " light", " woke", " in", " the", " rack")
NOBODY = "nobody/"
"""The name of a publisher who has nothing: what starts with it exists nowhere."""
TORN = "torn/"
"""The name of one whose line breaks: what starts with it never comes whole."""


class SimulatedOllama:
    """A store of models and a memory. `changed` is called with the store when it has changed."""

    def __init__(
        self, stored: list[str], *, on_gpu: bool, changed: Callable[[list[str]], None] = lambda stored: None
    ) -> None:
        self.stored = list(stored)
        self._on_gpu = on_gpu
        self._changed = changed
        self._expiries: dict[str, float] = {}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Listen for what only Ollama is asked."""
        router.add_get("/api/version", self._version)
        router.add_get("/api/tags", self._tags)
        router.add_get("/api/ps", self._ps)
        router.add_post("/api/generate", self._generate)
        router.add_post("/api/chat", self._chat)
        router.add_post("/api/pull", self._pull)
        router.add_delete("/api/delete", self._delete)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.0.0-simulated"})

    async def _tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [self._entry(name) for name in self.stored] or None})

    async def _ps(self, request: web.Request) -> web.Response:
        now = time.time()
        self._expiries = {name: at for name, at in self._expiries.items() if at > now}
        models = [
            self._entry(name)
            | {
                "expires_at": datetime.fromtimestamp(at, UTC).isoformat(),
                "size_vram": MODEL_BYTES if self._on_gpu else 0,
            }
            for name, at in self._expiries.items()
        ]
        return web.json_response({"models": models})

    async def _generate(self, request: web.Request) -> web.Response:
        wish = await request.json()
        name = str(wish.get("model", ""))
        if _tagged(name) not in self.stored:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        self._use(name, wish.get("keep_alive", _KEEP_SECONDS))
        return web.json_response({"model": name, "response": "", "done": True, "done_reason": "load"})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        wish = await request.json()
        name = str(wish.get("model", ""))
        if _tagged(name) not in self.stored:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        self._use(name, wish.get("keep_alive", _KEEP_SECONDS))
        # Counts and nanoseconds, as the real one ends with.
        numbers = {"prompt_eval_count": 8, "eval_count": len(_WORDS), "total_duration": 1, "eval_duration": 1}
        end = {"done": True, "done_reason": "stop", **numbers}
        if not wish.get("stream", True):
            return web.json_response(self._said(name, "".join(_WORDS)) | end)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for word in _WORDS:
            await response.write(json.dumps(self._said(name, word)).encode() + b"\n")
        await response.write(json.dumps(self._said(name, "") | end).encode() + b"\n")
        await response.write_eof()
        return response

    @staticmethod
    def _said(name: str, words: str) -> dict[str, object]:
        message = {"role": "assistant", "content": words}
        return {"model": name, "created_at": datetime.now(UTC).isoformat(), "message": message, "done": False}

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        name = str((await request.json()).get("model", ""))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)

        async def say(**words: object) -> None:
            await response.write(json.dumps(words).encode() + b"\n")

        await say(status="pulling manifest")
        if name.startswith(NOBODY):
            # As the real one does: the status was sent long ago, so the failure stands inside a 200.
            await say(error="pull model manifest: file does not exist")
        elif name.startswith(TORN):
            await say(error="max retries exceeded: unexpected EOF")
        else:
            for part in range(_PARTS + 1):
                done = {"completed": MODEL_BYTES * part // _PARTS} if part else {}
                await say(status="pulling 667b0c1932bc", digest="sha256:667b0c1932bc", total=MODEL_BYTES, **done)
            for status in ("verifying sha256 digest", "writing manifest", "success"):
                await say(status=status)
            self._store([*self.stored, _tagged(name)])
        await response.write_eof()
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        name = _tagged(str((await request.json()).get("model", "")))
        if name not in self.stored:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        self._expiries.pop(name, None)
        self._store([each for each in self.stored if each != name])
        return web.Response()

    def _use(self, name: str, keep: object) -> None:
        """Have a model in memory for as long as a request asks, which for 0 is not at all."""
        # The last one in the store is the one that was used last.
        self._store([*(each for each in self.stored if each != _tagged(name)), _tagged(name)])
        if keep == 0:
            self._expiries.pop(_tagged(name), None)
        else:
            self._expiries[_tagged(name)] = time.time() + (1e9 if keep == -1 else _KEEP_SECONDS)

    def _store(self, models: list[str]) -> None:
        self.stored = list(dict.fromkeys(models))
        self._changed(self.stored)

    @staticmethod
    def _entry(name: str) -> dict[str, object]:
        return {"name": name, "model": name, "size": MODEL_BYTES, "digest": "667b0c1932bc", "details": {}}


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"
