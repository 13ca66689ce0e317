"""Walks the path with the product's own library: nothing here does what the product should do."""

from __future__ import annotations

import requests

from provisioner.demo.report import Narrator, Report
from provisioner.fleet import Fleet
from provisioner.planning.idle import IdleVerdict
from provisioner.ports.clock import Clock
from provisioner.services.events import Event, Phase
from provisioner.services.proving import Endpoint

_QUESTION = "What sleeps in the cellar until somebody asks?"
_IDLE_LIMIT_SECONDS = 60.0
_CHAT_SECONDS = 60.0


class NothingHappened(Exception):
    """The path did not lead where it should; the text says where it ended."""


def walk(fleet: Fleet, node: str, report: Report, clock: Clock, narrator: Narrator) -> None:
    """Go from a fleet file to an answer, to sleep, to wake, to an answer, to nothing left."""

    def on_event(event: Event) -> None:
        if event.phase is not Phase.STARTED:
            narrator.say(str(event))

    with report.stage("up: from nothing to a proven node", clock, narrator) as stage:
        up = fleet.up(node, on_event)
        report.up_calls = up.calls
        stage.detail = f"{len(up.changed)} steps changed something, {up.calls} API calls"
    with report.stage("chat", clock, narrator) as stage:
        report.reply = ask(up.endpoint, _QUESTION)
        stage.detail = _quoted(report.reply)
    with report.stage("up again: nothing to do", clock, narrator) as stage:
        again = fleet.up(node, on_event)
        report.second_up_calls, report.second_up_changed = again.calls, list(again.changed)
        if again.changed:
            raise NothingHappened(f"the second up changed {', '.join(again.changed)}")
        stage.detail = f"no step changed anything, {again.calls} API calls"
    with report.stage("idle: nobody asks, so off it goes", clock, narrator) as stage:
        stage.detail = _idle_until_asleep(fleet, node, clock, narrator)
    with report.stage("wake: somebody asks", clock, narrator) as stage:
        wake = fleet.wake_report(model=up.endpoint.model, on_event=on_event)
        report.wake_seconds, report.wake_added_seconds = wake.seconds, wake.added_seconds
        report.wake_calls = wake.calls
        stage.detail = f"{wake.calls} API calls; {wake.added_seconds * 1000:.0f} ms after the engine was ready"
    with report.stage("chat after the wake", clock, narrator) as stage:
        report.reply_after_wake = ask(wake.endpoint, _QUESTION)
        stage.detail = _quoted(report.reply_after_wake)
    with report.stage("destroy", clock, narrator) as stage:
        stage.detail = ", ".join(fleet.destroy(node, on_event))


def ask(endpoint: Endpoint, question: str) -> str:
    """Send one chat as any OpenAI client would, and return the reply."""
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": question}], "max_tokens": 24}
    answer = requests.post(f"{endpoint.url}/chat/completions", json=body, timeout=_CHAT_SECONDS)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"]).strip()


def _idle_until_asleep(fleet: Fleet, node: str, clock: Clock, narrator: Narrator) -> str:
    """Make idle passes, as a timer would, until the node is put to sleep."""
    deadline = clock.monotonic() + _IDLE_LIMIT_SECONDS
    while clock.monotonic() < deadline:
        decision = next(each for each in fleet.idle() if each.node.name == node)
        narrator.say(str(decision))
        if decision.verdict is IdleVerdict.SLEEP:
            return decision.reason
        clock.sleep(0.5)
    raise NothingHappened(f"the node was not put to sleep within {_IDLE_LIMIT_SECONDS:g} s")


def _quoted(reply: str) -> str:
    return f"“{reply}”"
