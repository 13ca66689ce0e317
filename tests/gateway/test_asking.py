"""What is understood of a request, and what that costs."""

from __future__ import annotations

import json
import time

import pytest

from provisioner.gateway.asking import BadRequest, read_question
from provisioner.gateway.dialects import OLLAMA, OPENAI

FORM = {b"content-type": b"multipart/form-data; boundary=x"}


def part(name: str, value: str, more: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n{more}\r\n{value}\r\n'.encode()


@pytest.mark.parametrize("more", ["", "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n"])
def test_the_model_of_a_form_is_found_and_replaced_wherever_it_stands(more: str) -> None:
    file = part("file", "sound" * 100, "Content-Type: audio/wav\r\n")
    form = file + part("model", "tiny", more) + b"--x--\r\n"
    question = read_question(OPENAI, "/v1/any", FORM, b"", form)
    assert question.model == "tiny"
    assert question.body_for("whisper-1", form) == file + part("model", "whisper-1", more) + b"--x--\r\n"


def test_a_form_that_seems_to_name_its_model_all_over_is_read_quickly() -> None:
    began = time.process_time()
    with pytest.raises(BadRequest):
        read_question(OPENAI, "/v1/any", FORM, b"", b"name=model\r\n" * 50_000)
    assert time.process_time() - began < 5, "read again for every name it takes minutes"


def test_a_question_keeps_nothing_of_what_is_asked() -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "my secret"}]}).encode()
    question = read_question(OPENAI, "/v1/any", {}, b"", body)
    assert "secret" not in repr(question)
    assert json.loads(question.body_for("big", body)) == json.loads(body) | {"model": "big"}


def test_words_in_ollamas_dialect_come_as_a_stream_unless_said_otherwise_and_vectors_never() -> None:
    def streams(path: str, body: bytes = b'{"model": "tiny"}') -> bool:
        return read_question(OLLAMA, path, {}, b"", body).is_stream

    assert streams("/api/chat")
    assert not streams("/api/chat", b'{"model": "tiny", "stream": false}')
    assert not streams("/api/embed")
    assert not streams("/api/embeddings", b'{"model": "tiny", "stream": true}')
