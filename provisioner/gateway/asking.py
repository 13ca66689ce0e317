"""Reads what a client asks: which model, whether as a stream, and what it says about the way it is served. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import parse_qs

from provisioner.domain.routing_policy import Away, RoutingPolicy
from provisioner.gateway.dialects import Dialect, Fault

Headers = list[tuple[bytes, bytes]]

_FORM_MODEL = re.compile(rb'name="?model"?\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,512})\r\n', re.IGNORECASE)
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;\s*[\w-]+=(\"[^\"\\]*\"|[\w.+:'()/-]+))*", re.ASCII)
_LONGEST_NAME = 256


class BadRequest(Exception):
    """What is asked cannot be understood."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.summary)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Question:
    """A request as far as we must understand it. `document` is its JSON body, None for any other."""

    model: str
    is_stream: bool
    content_type: str
    document: dict[str, object] | None

    def body_for(self, model: str, body: bytes) -> bytes:
        """Return the body with the name that the engine knows."""
        if self.document is not None:
            if model == self.model:
                return body
            return json.dumps(self.document | {"model": model}).encode()
        return _FORM_MODEL.sub(lambda found: found[0].replace(found[1] + b"\r\n", model.encode() + b"\r\n"), body, 1)


def header(headers: Headers, name: bytes) -> str | None:
    """Return the first header of that name (lower case)."""
    for each, value in headers:
        if each == name:
            return value.decode("latin-1")
    return None


def read_question(dialect: Dialect, headers: Headers, query: bytes, body: bytes) -> Question:
    """Understand a request. Raises BadRequest."""
    content_type = header(headers, b"content-type") or "application/json"
    if len(content_type) > _LONGEST_NAME or not _CONTENT_TYPE.fullmatch(content_type):
        raise _bad("bad_content_type", "cannot read the request: its Content-Type is none")
    if content_type.startswith("multipart/form-data"):
        found = _FORM_MODEL.search(body)
        model = found[1].decode(errors="replace") if found else ""
        return Question(_named(model), False, content_type, None)
    if not body:
        asked = parse_qs(query.decode("latin-1")).get("model", [""])[0]
        return Question(_named(asked), False, "", None)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise _bad("bad_json", f"cannot read the request: its body is not JSON{where}") from None
    if not isinstance(document, dict):
        raise _bad("bad_json", "cannot read the request: its body is no JSON object")
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise _bad("bad_model", "cannot read the request: model is no text")
    stream = document.get("stream")
    is_stream = dialect.streams_by_default if stream is None else stream is True
    return Question(_named(model or ""), is_stream, "application/json", document)


def policy_of(headers: Headers, policy: RoutingPolicy) -> tuple[Away, bool, bool]:
    """Return what counts for a request: the mode's word, or the caller's where it says otherwise.

    Raises BadRequest.

    Returns:
        what it does while no node is ready, whether a GPU is preferred, whether a node may be woken for it.
    """
    away, prefers_gpu, may_wake = policy.away, policy.prefers_gpu, True
    said = header(headers, b"x-provisioner-away")
    if said is not None:
        try:
            away = Away(said.strip().lower())
        except ValueError:
            known = ", ".join(each.value for each in Away)
            raise _bad("bad_header", f"cannot read header X-Provisioner-Away: it is one of {known}") from None
    said = header(headers, b"x-provisioner-prefer")
    if said is not None:
        if said.strip().lower() not in ("gpu", "awake"):
            raise _bad("bad_header", "cannot read header X-Provisioner-Prefer: it is one of gpu, awake")
        prefers_gpu = said.strip().lower() == "gpu"
    said = header(headers, b"x-provisioner-wake")
    if said is not None:
        if said.strip().lower() not in ("yes", "no"):
            raise _bad("bad_header", "cannot read header X-Provisioner-Wake: it is one of yes, no")
        may_wake = said.strip().lower() == "yes"
    return away, prefers_gpu, may_wake


def _named(model: str) -> str:
    if not model:
        raise _bad("model_missing", "cannot tell which model is asked for: there is no model in the request")
    if len(model) > _LONGEST_NAME:
        raise _bad("bad_model", f"cannot read the request: the model's name is longer than {_LONGEST_NAME} signs")
    return model


def _bad(code: str, summary: str) -> BadRequest:
    return BadRequest(Fault(400, code, summary, "mend the request and send it again"))
