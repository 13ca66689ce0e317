"""An engine's answer in OpenAI's dialect, told in Ollama's own: as it comes, or in one piece. Pure but for the time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

# One event holds a token or a call of a tool; what is longer is no event. All calls of an answer have as much.
_LONGEST_LINE = 4 * 1024 * 1024
_MOST_CALLS = 128
# Models that think say so under either name.
_THOUGHTS = ("reasoning_content", "reasoning")


class Unreadable(Exception):
    """An engine said what is not in OpenAI's dialect; the text says what."""


class OllamaAnswer:
    """Tells one answer.

    Args:
        path: what was asked for, ``/api/chat`` say.
        model: the model's name as its client has asked for it.
        streams: its engine answers with events.
        now: UNIX seconds.
    """

    def __init__(self, path: str, model: str, *, streams: bool, now: Callable[[], float] = time.time) -> None:
        self.streams = streams
        self._path = path
        self._model = model
        self._now = now
        self._begun = now()
        self._rest = b""
        self._calls: dict[int, dict[str, str]] = {}
        self._gathered = 0
        self._reason: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._has_failed = False

    def piece(self, data: bytes) -> bytes:
        """Return what to send for a piece of a stream. Raises Unreadable."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise Unreadable("an event without end")
        return b"".join(told for line in lines for told in self._events(line))

    def end(self) -> bytes:
        """Return what ends a stream."""
        if self._has_failed:
            return b""
        if self._reason is None:
            return _line({"error": "the engine ended its answer before it was finished"})
        calls = [_call(each) for _, each in sorted(self._calls.items())]
        before = _line(self._text("", calls=calls) | {"done": False}) if calls else b""
        return before + _line(self._text("") | self._closing())

    def document(self, status: int, body: bytes) -> bytes:
        """Return an answer in one piece. Raises Unreadable."""
        try:
            given = json.loads(body)
        except ValueError:
            given = None
        if status != 200:
            return json.dumps({"error": _complaint(given, body)}).encode()
        if not isinstance(given, dict):
            raise Unreadable("something that is no JSON object")
        try:
            return json.dumps(self._whole(given)).encode()
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise Unreadable("a document that is no answer") from None

    def _whole(self, given: dict[str, Any]) -> dict[str, Any]:
        self._count(given.get("usage"))
        if self._path == "/api/embed":
            vectors = [each["embedding"] for each in given["data"]]
            return {"model": self._model, "embeddings": vectors, **self._took(), **self._counts()}
        if self._path == "/api/embeddings":
            return {"embedding": given["data"][0]["embedding"]}
        if given.get("object") == "list":
            # Its engine lists its models, so the one that was to be loaded is.
            return self._text("") | {"done": True, "done_reason": "load"}
        (choice, *_) = given["choices"]
        self._reason = choice.get("finish_reason") or "stop"
        message = choice.get("message") or {"content": choice.get("text")}
        calls = [_call(each["function"]) for each in message.get("tool_calls") or ()]
        return self._text(message.get("content") or "", _thought(message), calls) | self._closing()

    def _events(self, line: bytes) -> Iterator[bytes]:
        line = line.strip()
        if not line.startswith(b"data:") or self._has_failed:
            return
        if line[5:].strip() == b"[DONE]":
            self._reason = self._reason or "stop"
            return
        try:
            event = json.loads(line[5:])
            if "error" in event:
                self._has_failed = True
                yield _line({"error": _complaint(event, line)})
                return
            self._count(event.get("usage"))
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {"content": choice.get("text")}
                self._gather(delta.get("tool_calls") or ())
                self._reason = choice.get("finish_reason") or self._reason
                text, thought = delta.get("content") or "", _thought(delta)
                if text or thought:
                    yield _line(self._text(text, thought) | {"done": False})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Unreadable("an event that is none") from None

    def _gather(self, calls: Iterable[dict[str, Any]]) -> None:
        """Put the pieces of calls together: Ollama's clients get each in one."""
        for number, call in enumerate(calls):
            known = self._calls.setdefault(int(call.get("index", number)), {"name": "", "arguments": ""})
            function = call.get("function") or {}
            for part in known:
                said = function.get(part) or ""
                known[part] += said
                self._gathered += len(said)
            if self._gathered > _LONGEST_LINE or len(self._calls) > _MOST_CALLS:
                raise Unreadable("calls of tools without end")

    def _text(self, text: str, thought: str = "", calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        moment = datetime.fromtimestamp(self._now(), UTC).isoformat().replace("+00:00", "Z")
        head = {"model": self._model, "created_at": moment}
        more: dict[str, Any] = {"thinking": thought} if thought else {}
        if self._path == "/api/generate":
            return {**head, "response": text, **more}
        more |= {"tool_calls": calls} if calls else {}
        return {**head, "message": {"role": "assistant", "content": text, **more}}

    def _closing(self) -> dict[str, Any]:
        reason = "length" if self._reason == "length" else "stop"
        return {"done": True, "done_reason": reason, **self._took(), **self._counts()}

    def _took(self) -> dict[str, int]:
        return {"total_duration": round((self._now() - self._begun) * 1e9)}

    def _counts(self) -> dict[str, int]:
        names = {"prompt_eval_count": "prompt_tokens", "eval_count": "completion_tokens"}
        return {name: self._usage[said] for name, said in names.items() if isinstance(self._usage.get(said), int)}

    def _count(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._usage = usage


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _thought(message: Mapping[str, Any]) -> str:
    return next((str(message[name]) for name in _THOUGHTS if message.get(name)), "")


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call of a tool with its arguments as an object; those of an unfinished one are told as they are."""
    arguments = function.get("arguments") or "{}"
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        read = {"arguments": arguments}
    return {"function": {"name": function["name"], "arguments": read}}


def _complaint(given: object, body: bytes) -> str:
    """Return what an engine complains of, whichever way it says so."""
    said = given.get("error", given.get("message")) if isinstance(given, dict) else None
    said = said.get("message") if isinstance(said, dict) else said
    return str(said) if said else " ".join(body[:500].decode(errors="replace").split()) or "the engine says nothing"
