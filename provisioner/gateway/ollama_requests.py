"""What an engine that speaks OpenAI's dialect is asked where a client asks in Ollama's own. Pure.

Options that OpenAI's dialect has no word for (``num_ctx``, ``top_k`` and
others) are the engine's own business, as unknown ones are Ollama's; what would
change the meaning of a request when left out is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

_OPTIONS = ("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty")
# How pictures of each kind begin in base64.
_PICTURES = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "UklGR": "webp", "R0lGOD": "gif"}
# Tokens of a former answer, a template of the model, a text that goes on behind: nobody else understands them.
_NOT_OURS = ("context", "suffix", "template")


class Untranslatable(Exception):
    """OpenAI's dialect cannot say this; the text says what."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to an engine. `streams` means that it answers with events."""

    method: str
    path: str
    body: bytes
    streams: bool = False


def as_openai(path: str, body: bytes, model: str) -> Asked:
    """Return what to ask an engine.

    Args:
        path: one of Ollama's, ``/api/chat`` say.
        body: a JSON object.
        model: the engine's name for the model.

    Raises:
        Untranslatable: it cannot be said, or is not as Ollama's API has it.
    """
    document = json.loads(body)
    if path == "/api/chat":
        given = _list(document.get("messages") or [], "messages")
        return _chat(document, model, _Messages().of(given)) if given else _LOAD
    if path == "/api/generate":
        return _generate(document, model)
    asked = {"model": model, "encoding_format": "float"}
    asked |= {"input": document.get("input" if path == "/api/embed" else "prompt") or ""}
    asked |= {key: document[key] for key in ("dimensions",) if document.get(key) is not None}
    return _post("/v1/embeddings", asked)


def _post(path: str, asked: Mapping[str, object]) -> Asked:
    return Asked("POST", path, json.dumps(asked).encode(), "stream" in asked)


# Without a word to say it is about having the model loaded, which it is when its engine answers.
_LOAD = Asked("GET", "/v1/models", b"")


def _generate(document: Mapping[str, object], model: str) -> Asked:
    for key in _NOT_OURS:
        if document.get(key):
            raise Untranslatable(f'"{key}"')
    prompt = document.get("prompt") or ""
    if not isinstance(prompt, str):
        raise Untranslatable("a prompt that is no text")
    if not prompt and not document.get("images"):
        return _LOAD
    if document.get("raw"):
        return _post("/v1/completions", {"model": model, "prompt": prompt, **_shared(document)})
    system = [{"role": "system", "content": document["system"]}] if document.get("system") else []
    user = {"role": "user", "content": prompt, "images": document.get("images")}
    return _chat(document, model, _Messages().of([*system, user]))


def _chat(document: Mapping[str, object], model: str, messages: list[dict[str, object]]) -> Asked:
    tools = {"tools": document["tools"]} if document.get("tools") else {}
    return _post("/v1/chat/completions", {"model": model, "messages": messages, **tools, **_shared(document)})


def _shared(document: Mapping[str, object]) -> dict[str, object]:
    options = document.get("options") or {}
    if not isinstance(options, dict):
        raise Untranslatable("options that are no object")
    asked = {key: options[key] for key in _OPTIONS if options.get(key) is not None}
    most = options.get("num_predict")
    if isinstance(most, int) and most > 0:
        asked["max_tokens"] = most
    wanted = document.get("format")
    if wanted == "json":
        asked["response_format"] = {"type": "json_object"}
    elif isinstance(wanted, dict):
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
    stream = document.get("stream")
    if stream is None or stream is True:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return asked


class _Messages:
    """Turns messages around one after the other: answers of tools must name the call that they belong to."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []
        self._calls = 0

    def of(self, given: list[object]) -> list[dict[str, object]]:
        return [self._one(each) for each in given]

    def _one(self, given: object) -> dict[str, object]:
        if not isinstance(given, dict):
            raise Untranslatable("a message that is no object")
        role, content = given.get("role"), given.get("content") or ""
        if role == "tool":
            return {"role": role, "tool_call_id": self._answered(given.get("tool_name")), "content": content}
        message: dict[str, object] = {"role": role, "content": content}
        if given.get("images"):
            pictures = [
                {"type": "image_url", "image_url": {"url": _picture(each)}} for each in _list(given["images"], "images")
            ]
            message["content"] = [{"type": "text", "text": content}, *pictures]
        if given.get("tool_calls"):
            message["tool_calls"] = [self._call(each) for each in _list(given["tool_calls"], "tool_calls")]
        return message

    def _call(self, given: object) -> dict[str, object]:
        function = given.get("function") if isinstance(given, dict) else None
        if not isinstance(function, dict):
            raise Untranslatable("a call of a tool without its function")
        name, self._calls = str(function.get("name")), self._calls + 1
        self._open.append((f"call_{self._calls}", name))
        arguments = json.dumps(function.get("arguments") or {})
        return {"id": self._open[-1][0], "type": "function", "function": {"name": name, "arguments": arguments}}

    def _answered(self, name: object) -> str:
        """Return the call that a tool's answer belongs to: the first open one, of that name where one is said."""
        for each in self._open:
            if name in (None, "", each[1]):
                self._open.remove(each)
                return each[0]
        raise Untranslatable("a tool's answer that nobody has called for")


def _picture(encoded: object) -> str:
    for begin, kind in _PICTURES.items():
        if isinstance(encoded, str) and encoded.startswith(begin):
            return f"data:image/{kind};base64,{encoded}"
    raise Untranslatable("a picture that is neither PNG, JPEG, WebP nor GIF")


def _list(given: object, name: str) -> list[object]:
    if not isinstance(given, list):
        raise Untranslatable(f"{name} that are no list")
    return given
