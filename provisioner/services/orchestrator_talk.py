"""Holds conversations with orchestrators: their descriptions say what is asked, and here it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from provisioner.errors import OrchestratorError
from provisioner.orchestrators.base import Call, Conversation, News, Orchestrator, Pause, ReadFile, Reply, WriteFile
from provisioner.ports.text_files import FileTrouble
from provisioner.ports.web import NoAnswer
from provisioner.services.world import World

_Value = TypeVar("_Value")

# One answer; an orchestrator on a busy little machine takes a second.
_CALL_SECONDS = 10.0


class Talk:
    """Calls and files."""

    def __init__(self, world: World) -> None:
        self._world = world

    def hold(self, known: Orchestrator, news: News, conversation: Conversation[_Value], deadline: float) -> _Value:
        """Hold a conversation that ends by a reading of the monotonic clock. Raises OrchestratorError."""
        headers = known.headers(news)
        try:
            step = next(conversation)
            while True:
                if isinstance(step, Call):
                    reply = self._ask(known, news, step, headers, deadline)
                elif isinstance(step, Pause):
                    self._world.clock.sleep(step.seconds)
                    reply = Reply(200)
                else:
                    reply = self._file(known, step)
                step = conversation.send(reply)
        except StopIteration as end:
            value: _Value = end.value
            return value
        finally:
            conversation.close()

    def _ask(self, known: Orchestrator, news: News, call: Call, headers: Mapping[str, str], deadline: float) -> Reply:
        left = deadline - self._world.clock.monotonic()
        try:
            if left <= 0:
                raise NoAnswer("it takes too long")
            seconds = min(_CALL_SECONDS, left)
            url = f"{news.spec.url}{call.path}"
            answer = self._world.web.send(call.method, url, call.body, seconds=seconds, headers=headers)
        except NoAnswer as none:
            raise OrchestratorError(
                f"cannot reach {known.title}: {none}",
                subject=f"{known.title} at {news.spec.url}",
                next_step="see whether it runs; the service tries again by itself, and so does: provisioner register",
                retryable=True,
            ) from None
        return Reply(answer.status, answer.text, news.secrets)

    def _file(self, known: Orchestrator, step: ReadFile | WriteFile) -> Reply:
        files = self._world.text_files
        try:
            if isinstance(step, WriteFile):
                files.write(step.path, step.text)
                return Reply(200)
            text = files.read(step.path)
        except FileTrouble as trouble:
            raise OrchestratorError(
                f"cannot tell {known.title}: {trouble}",
                subject=f"file {step.path}",
                next_step="make it and its folder writable for whoever runs this, or name another file",
            ) from None
        return Reply(404) if text is None else Reply(200, text)
