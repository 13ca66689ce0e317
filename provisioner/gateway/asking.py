"""Reads what a client asks: which model, whether as a stream, and what it says about the way it is served. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from urllib.parse import parse_qs

from provisioner.domain.routing_policy import Away, RoutingPolicy
from provisioner.gateway.dialects import Dialect, Fault

Headers = list[tuple[bytes, bytes]]
"""As they are sent."""
Fields = Mapping[bytes, bytes]
"""As they are asked for, by their names in lower case."""

_FORM_FIELD = re.compile(rb'name="?model"?\r\n')
# The rest of the field's headers, and its value. Few and short: what follows is looked through again for each find.
_FORM_VALUE = re.compile(rb"(?:[^\r\n]{1,200}\r\n){0,4}\r\n([^\r\n]{1,512})\r\n")
_MOST_FINDS = 100
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;\s*[\w-]+=(\"[^\"\\]*\"|[\w.+:'()/-]+))*", re.ASCII)
_LONGEST_NAME = 256
_FORM = "multipart/form-data"
_JSON = "application/json"


class BadRequest(Exception):
    """What is asked cannot be understood."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.summary)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Question:
    """A request as far as we must understand it; what is asked stands in its body alone, and goes when that goes."""

    model: str
    is_stream: bool
    content_type: str

    @property
    def is_json(self) -> bool:
        """It has a body, which is a JSON object."""
        return self.content_type == _JSON

    def body_for(self, model: str, body: bytes) -> bytes:
        """Return the body with the name that the engine knows."""
        if model == self.model or not body:
            return body
        if self.content_type.startswith(_FORM):
            place = _place_in_form(body)
            return body if place is None else body[: place.start] + model.encode() + body[place.stop :]
        return json.dumps(json.loads(body) | {"model": model}).encode()


def header(headers: Fields, name: bytes) -> str | None:
    """Return the header of that name (lower case)."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def read_question(dialect: Dialect, path: str, headers: Fields, query: bytes, body: bytes) -> Question:
    """Understand a request. Raises BadRequest."""
    content_type = header(headers, b"content-type") or _JSON
    if len(content_type) > _LONGEST_NAME or not _CONTENT_TYPE.fullmatch(content_type):
        raise _bad("bad_content_type", "cannot read the request: its Content-Type is none")
    if content_type.startswith(_FORM):
        place = _place_in_form(body)
        written = body[place].decode(errors="replace") if place is not None else ""
        return Question(_named(written), False, content_type)
    if not body:
        asked = parse_qs(query.decode("latin-1")).get("model", [""])[0]
        return Question(_named(asked), False, "")
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
    is_stream = dialect.may_stream(path) and (dialect.streams_by_default if stream is None else stream is True)
    return Question(_named(model or ""), is_stream, _JSON)


def policy_of(headers: Fields, policy: RoutingPolicy) -> tuple[Away, bool, bool]:
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


def _place_in_form(body: bytes) -> slice | None:
    """Return where the model's name stands in a form, in time that grows with the form and no faster."""
    for find in islice(_FORM_FIELD.finditer(body), _MOST_FINDS):
        value = _FORM_VALUE.match(body, find.end())
        if value is not None:
            return slice(*value.span(1))
    return None


def _named(model: str) -> str:
    if not model:
        raise _bad("model_missing", "cannot tell which model is asked for: there is no model in the request")
    if len(model) > _LONGEST_NAME:
        raise _bad("bad_model", f"cannot read the request: the model's name is longer than {_LONGEST_NAME} signs")
    return model


def _bad(code: str, summary: str) -> BadRequest:
    return BadRequest(Fault(400, code, summary, "mend the request and send it again"))
