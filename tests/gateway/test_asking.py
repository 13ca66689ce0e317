"""What is understood of a request, and what that costs."""

from __future__ import annotations

import json
import time

import pytest

from provisioner.gateway.asking import BadRequest, read_question
from provisioner.gateway.dialects import OPENAI

FORM = [(b"content-type", b"multipart/form-data; boundary=x")]


def part(name: str, value: str, more: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n{more}\r\n{value}\r\n'.encode()


@pytest.mark.parametrize("more", ["", "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n"])
def test_the_model_of_a_form_is_found_and_replaced_wherever_it_stands(more: str) -> None:
    file = part("file", "sound" * 100, "Content-Type: audio/wav\r\n")
    form = file + part("model", "tiny", more) + b"--x--\r\n"
    question = read_question(OPENAI, FORM, b"", form)
    assert question.model == "tiny"
    assert question.body_for("whisper-1", form) == file + part("model", "whisper-1", more) + b"--x--\r\n"


def test_a_form_that_seems_to_name_its_model_all_over_is_read_quickly() -> None:
    began = time.perf_counter()
    with pytest.raises(BadRequest):
        read_question(OPENAI, FORM, b"", b"name=model\r\n" * 50_000)
    assert time.perf_counter() - began < 1.0


def test_a_question_keeps_nothing_of_what_is_asked() -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "my secret"}]}).encode()
    question = read_question(OPENAI, [], b"", body)
    assert "secret" not in repr(question)
    assert json.loads(question.body_for("big", body)) == json.loads(body) | {"model": "big"}
