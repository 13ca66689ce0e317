"""exo: one model spread over several machines that find each other. On Linux it computes on CPUs.

A model answers once an instance of it has been placed and its runners are
ready, which ``/state`` tells; the same document lists the tasks under way. It
promises neither a health check nor numbers, and has no release to install but
its source. The shapes here are those of its source of June 2026
(src/exo/shared/types), and nobody has run them for us.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from provisioner.domain.activity import EngineActivity
from provisioner.domain.mode import ArgumentValue, EngineSpec, EngineTraits, Software
from provisioner.domain.names import EngineName
from provisioner.domain.refusal import Refusal
from provisioner.engines.arguments import command_line, variables_of
from provisioner.engines.base import (
    DATA,
    FOLDER,
    AnswerUnreadable,
    Installation,
    JsonRequest,
    Launch,
    LoadedModel,
    Setting,
)
from provisioner.engines.flags.table import State, table_of
from provisioner.engines.json_answers import document_of
from provisioner.engines.limits import cpu_quota_percent, memory_max_bytes
from provisioner.engines.one_model import OneModelEngine
from provisioner.engines.secrets import secrets_of, unlocked

_WORKING = frozenset({"Pending", "Running"})
_NAMESPACE_FLAG = "--namespace"
_NAMESPACE_VARIABLE = "EXO_LIBP2P_NAMESPACE"
_READY = frozenset({"RunnerReady", "RunnerRunning"})


class Exo(OneModelEngine):
    """exo, run as a systemd unit from its source with an environment of its own."""

    name = EngineName("exo")
    traits = EngineTraits(
        software=Software.ARCHIVES,
        serves_files=False,
        serves_many=False,
        knows=frozenset(),
        port=52415,
        published="tags: https://github.com/exo-explore/exo/tags; of a file: sha256sum FILE",
        spans_nodes=True,
        lacks={"pull": "exo fetches a model whenever one is placed, and has no call that only fetches"},
        uses_gpus=False,
    )
    port = traits.port
    playbook = "deploy-exo"
    health_path = "/node_id"
    loaded_path = "/state"
    activity_path = "/state"
    # Each time it is asked it places one more instance.
    loads_again = False

    def installation(self, software: EngineSpec) -> Installation:
        """Return its source, which is built on the node."""
        return Installation(archives=software.archives)

    def refusal(self, setting: Setting) -> Refusal | None:
        """Refuse a version of which it is not known how it is kept apart from others in the network."""
        if _separation(setting.software.version):
            return None
        said = f"version {setting.software.version}" if setting.software.version else "its version"
        return Refusal(
            f"exo is told in {_NAMESPACE_VARIABLE} or with {_NAMESPACE_FLAG} whom it may join, by its version, the "
            f"wrong one ends it or lets anybody in, and {said} does not tell which"
            + ("" if setting.software.version else " while the fleet file says none"),
            "write the tag of its source under engines.exo.version, such as 1.0.71, or b5375f8 for that commit",
        )

    def cautions(self, setting: Setting) -> tuple[str, ...]:
        """Say that GPUs lie idle, and that nobody is kept out."""
        told = ["exo computes on the CPU on Linux: the node's GPU lies idle"] if setting.gpus else []
        if setting.node.api_key is not None:
            told.append(unlocked("exo", self.port))
        return tuple(told)

    def launch(self, setting: Setting) -> Launch:
        """Return the command line; only nodes of one mode find each other."""
        mode = setting.mode
        name = f"provisioner-{mode.name}"
        by_flag = _separation(setting.software.version) == _NAMESPACE_FLAG
        own: dict[str, ArgumentValue] = {_NAMESPACE_FLAG.removeprefix("--"): name} if by_flag else {}
        return Launch(
            argv=(f"{FOLDER}/.venv/bin/exo", *command_line(own, mode.arguments)),
            environment={
                "EXO_DEFAULT_MODELS_DIR": f"{DATA}/exo",
                **({} if by_flag else {_NAMESPACE_VARIABLE: name}),
                "HF_HOME": f"{DATA}/huggingface",
                **variables_of(mode.arguments),
            },
            secrets=secrets_of(setting, self.key_variable),
            needs_gpu=False,
            memory_max_bytes=memory_max_bytes(mode),
            cpu_quota_percent=cpu_quota_percent(mode),
        )

    def load(self, model: str, *, pinned: bool = False, nodes: int = 1) -> JsonRequest | None:
        """Return the request that places an instance of a model; it is answered before the instance is ready."""
        # src/exo/shared/types/api.py: one node is enough by default, and then it may spread over one only.
        return JsonRequest("/place_instance", {"model_id": model, **({"min_nodes": nodes} if nodes > 1 else {})})

    def loaded_models(self, answer: str) -> tuple[LoadedModel, ...]:
        """Read ``/state``: the instances all of whose runners are ready."""
        state = _state(answer)
        ready = {name for name, status in _table(state, "runners").items() if _READY & set(_words(status))}
        models = []
        for instance in _table(state, "instances").values():
            runners = {
                name
                for table in _found(instance, "runnerToShard", "runner_to_shard")
                if isinstance(table, dict)
                for name in table
            }
            names = [name for name in _found(instance, "modelId", "model_id") if isinstance(name, str)]
            if names and runners and runners <= ready:
                models.append(LoadedModel(names[0], 0, 0))
        return tuple(models)

    def activity(self, answer: str, now: float) -> EngineActivity:
        """Read ``/state``: tasks that wait or run are use, and the number of all that it has had only grows."""
        state = _state(answer)
        tasks = _table(state, "tasks")
        statuses = [next(iter(_found(task, "taskStatus", "task_status")), "") for task in tasks.values()]
        running = sum(status == "Running" for status in statuses)
        waiting = sum(status in _WORKING for status in statuses) - running
        index = state.get("lastEventAppliedIdx", state.get("last_event_applied_idx"))
        if not isinstance(index, int):
            raise AnswerUnreadable(f"no count of events in: {answer[:200]}")
        return EngineActivity(running, waiting, float(len(tasks)))


def _separation(version: str) -> str:
    """Return how a version is told whom it may join: by the flag, else by the variable; "" where it is not known.

    Since its network layer was changed (commit 09f9ea3 of June 2026), exo ends
    at once where the variable is set. The one that its message names instead,
    EXO_ZENOH_NAMESPACE, is read nowhere: only the flag counts.
    """
    table = table_of("exo")
    at = table.version(version) if table is not None and version else None
    if table is None or at is None:
        return ""
    for name in (_NAMESPACE_FLAG, _NAMESPACE_VARIABLE):
        if table.sighting(table.flags[name].seen, at).state is State.HERE:
            return name
    return ""


def _state(answer: str) -> dict[str, Any]:
    document = document_of(answer)
    if not isinstance(document, dict):
        raise AnswerUnreadable(f"no state in: {answer[:200]}")
    return document


def _table(state: dict[str, Any], key: str) -> dict[str, Any]:
    table = state.get(key)
    if not isinstance(table, dict):
        raise AnswerUnreadable(f"a state without {key}")
    return table


def _found(value: Any, *keys: str) -> Iterator[Any]:
    """Yield what stands under any of some keys, however deep."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in keys:
                yield each
            yield from _found(each, *keys)
    elif isinstance(value, list):
        for each in value:
            yield from _found(each, *keys)


def _words(status: Any) -> tuple[str, ...]:
    """Return the tags of a status: it is written as ``{"RunnerReady": {}}``."""
    return tuple(status) if isinstance(status, dict) else (str(status),)
