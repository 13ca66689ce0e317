"""What differs between OpenAI's and Ollama's way of speaking: paths, streams, errors. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Protocol

from provisioner.domain.names import EngineName


@dataclass(frozen=True, slots=True)
class Fault:
    """What a client is told when it gets no answer.

    `code` is for programs; `summary` and `next_step` are for people.
    `retry_after` is in seconds.
    """

    status: int
    code: str
    summary: str
    next_step: str = ""
    retry_after: float | None = None

    @property
    def text(self) -> str:
        """All of it in one line."""
        return f"{self.summary}; next: {self.next_step}" if self.next_step else self.summary


class Dialect(Protocol):
    """One way of speaking."""

    name: str
    engine: EngineName | None
    """Only this engine speaks it; None for all."""
    streams_by_default: bool
    stream_type: str

    def may_stream(self, path: str) -> bool:
        """Say whether what is asked for there is streamed when its client says so."""
        ...

    def answers_json(self, path: str) -> bool:
        """Say whether what is asked for by POST is a JSON document for certain, unless it is a stream."""
        ...

    def heartbeat(self, words: str) -> bytes:
        """Return a sign of life that clients read over, `words` in it where there is room."""
        ...

    def fault(self, fault: Fault) -> bytes:
        """Return the body of an error answer."""
        ...

    def late_fault(self, fault: Fault, tail: bytes = b"") -> bytes:
        """Return what ends a stream that has begun; `tail` is what its engine said last, which may be half a word."""
        ...

    def usage(self, tail: bytes) -> tuple[int | None, int | None]:
        """Read tokens in and out from the end of an answer; None where it does not say."""
        ...

    def is_whole(self, tail: bytes) -> bool:
        """Say whether a stream that ends so has said all."""
        ...


# Speech is sound, and a transcription may be plain text.
_JSON_PATHS = frozenset(
    f"/v1/{name}"
    for name in ("chat/completions", "completions", "embeddings", "responses", "messages", "rerank", "score")
)
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class OpenAi:
    """``/v1/*``: server-sent events, whose comment lines nobody reads."""

    name = "openai"
    engine: EngineName | None = None
    streams_by_default = False
    stream_type = "text/event-stream"
    _in = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)')
    _out = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')

    def may_stream(self, path: str) -> bool:
        """Return that anything may be."""
        return True

    def answers_json(self, path: str) -> bool:
        """Return whether it is a path of which that is known."""
        return path in _JSON_PATHS

    def heartbeat(self, words: str) -> bytes:
        """Return a comment."""
        return f": {_one_line(words)}\n\n".encode()

    def fault(self, fault: Fault) -> bytes:
        """Return OpenAI's error object; its clients show the message."""
        return json.dumps(self._document(fault)).encode()

    def late_fault(self, fault: Fault, tail: bytes = b"") -> bytes:
        """Return an event that OpenAI's clients raise as an error; behind half an event it would be a part of that."""
        between = b"" if not tail or tail.endswith((b"\n\n", b"\r\n\r\n")) else b"\n\n"
        return between + b"data: " + self.fault(fault) + b"\n\ndata: [DONE]\n\n"

    def usage(self, tail: bytes) -> tuple[int | None, int | None]:
        """Read the last usage object."""
        return _last(self._in, tail), _last(self._out, tail)

    def is_whole(self, tail: bytes) -> bool:
        """Look for the last event, after which clients hang up."""
        return tail.rstrip().endswith(b"data: [DONE]")

    def _document(self, fault: Fault) -> dict[str, object]:
        kind = _KINDS.get(fault.status, "server_error" if fault.status >= 500 else "invalid_request_error")
        return {
            "error": {
                "message": fault.text,
                "type": "rate_limit_error" if fault.status == 429 else kind,
                "code": fault.code,
                "param": "model" if fault.code == "model_not_found" else None,
            }
        }


class OllamaOwn:
    """``/ollama/api/*``: one JSON document a line; before one, blanks mean nothing."""

    name = "ollama"
    engine: EngineName | None = EngineName("ollama")
    streams_by_default = True
    stream_type = "application/x-ndjson"
    _in = re.compile(rb'"prompt_eval_count"\s*:\s*(\d+)')
    _out = re.compile(rb'"eval_count"\s*:\s*(\d+)')
    _done = re.compile(rb'"done"\s*:\s*true')

    def may_stream(self, path: str) -> bool:
        """Return whether it is words: vectors come in one piece."""
        return path in ("/api/chat", "/api/generate")

    def answers_json(self, path: str) -> bool:
        """Return that everything is."""
        return True

    def heartbeat(self, words: str) -> bytes:
        """Return a blank: a line of its own would be read as a document."""
        return b" "

    def fault(self, fault: Fault) -> bytes:
        """Return Ollama's error object."""
        return json.dumps({"error": fault.text}).encode()

    def late_fault(self, fault: Fault, tail: bytes = b"") -> bytes:
        """Return a line that Ollama's clients raise as an error."""
        between = b"" if not tail or tail.endswith(b"\n") else b"\n"
        return between + self.fault(fault) + b"\n"

    def usage(self, tail: bytes) -> tuple[int | None, int | None]:
        """Read the last line's counts."""
        return _last(self._in, tail), _last(self._out, tail)

    def is_whole(self, tail: bytes) -> bool:
        """Look at the last line."""
        return self._done.search(tail.rstrip().rpartition(b"\n")[2]) is not None


OPENAI: Dialect = OpenAi()
OLLAMA: Dialect = OllamaOwn()


def _last(pattern: re.Pattern[bytes], tail: bytes) -> int | None:
    found = pattern.findall(tail)
    return int(found[-1][:12]) if found else None


def _one_line(words: str) -> str:
    return " ".join(words.split())
