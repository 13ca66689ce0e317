"""The part of the OpenAI API that every engine here speaks alike."""

from __future__ import annotations

from provisioner.domain.mode import ModeSpec
from provisioner.engines.base import AnswerUnreadable, JsonRequest, Setting
from provisioner.engines.json_answers import document_of


def served_models(answer: str) -> tuple[str, ...]:
    """Read ``GET /v1/models``."""
    try:
        return tuple(str(entry["id"]) for entry in document_of(answer)["data"])
    except (KeyError, TypeError) as error:
        raise AnswerUnreadable(f"no list of models in: {answer[:200]}") from error


def chat(model: str, prompt: str, max_tokens: int) -> JsonRequest:
    """Return a ``POST /v1/chat/completions`` without streaming."""
    messages = [{"role": "user", "content": prompt}]
    return JsonRequest("/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": max_tokens})


def chat_reply(answer: str) -> str:
    """Read the text of a chat completion. An empty reply is a reply: a first token may be the end."""
    try:
        return str(document_of(answer)["choices"][0]["message"]["content"] or "")
    except (KeyError, TypeError, IndexError) as error:
        raise AnswerUnreadable(f"no chat reply in: {answer[:200]}") from error


class OpenAiEngine:
    """What is alike in all engines here: clients speak OpenAI's dialect to them."""

    api = "openai"
    api_path = "/v1"
    key_variable = ""
    loads_again = True

    def guards(self, path: str) -> bool:
        """Return that nothing is, unless it says otherwise."""
        return False

    def pulls(self, mode: ModeSpec) -> tuple[str, ...]:
        """Return its models, by their names."""
        return mode.models

    def fetched(self, setting: Setting) -> tuple[str, ...]:
        """Return nothing, unless it says otherwise."""
        return ()

    def chat(self, model: str, prompt: str, *, max_tokens: int) -> JsonRequest:
        """Return a chat request."""
        return chat(model, prompt, max_tokens)

    def chat_reply(self, answer: str) -> str:
        """Read a chat reply."""
        return chat_reply(answer)
