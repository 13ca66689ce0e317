"""The fleet file's `orchestrators:` as values, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from provisioner.adapters.files.fleet_schema import FleetShape
from provisioner.domain.callers import Scope
from provisioner.domain.fleet import SecretReference
from provisioner.domain.orchestrator import OrchestratorName, OrchestratorSpec
from provisioner.domain.problems import Problem


def orchestrator_specs(
    shape: FleetShape, secret: Callable[[str], SecretReference], path: Callable[[str], Path]
) -> Mapping[OrchestratorName, OrchestratorSpec]:
    """Return the orchestrators as wanted; `secret` reads a reference to one, `path` a path."""
    return {
        OrchestratorName(name): OrchestratorSpec(
            name=OrchestratorName(name),
            url=(entry.url or "").rstrip("/"),
            api_key=secret(entry.api_key) if entry.api_key else None,
            token=entry.token or (name if name in shape.service.tokens else ""),
            webhook_key=secret(entry.webhook_key) if entry.webhook_key else None,
            file=path(text) if (text := entry.targets_file or entry.config_file) else None,
        )
        for name, entry in shape.orchestrators.items()
    }


def orchestrator_problems(shape: FleetShape) -> Iterator[Problem]:
    """Return what an orchestrator cannot be told, lacks, or would have to be given and is not there."""
    if not shape.orchestrators:
        return
    # Few fleet files name one, and `status` has little time.
    from provisioner.orchestrators.registry import ORCHESTRATORS

    for name, entry in shape.orchestrators.items():
        place = ("orchestrators", name)
        known = ORCHESTRATORS.get(OrchestratorName(name))
        if known is None:
            yield Problem(place, f'unknown orchestrator "{name}"', f"one of: {', '.join(sorted(ORCHESTRATORS))}")
            continue
        traits = known.traits
        said = [key for key in type(entry).model_fields if getattr(entry, key) is not None]
        yield from (
            Problem((*place, key), f"no {key}", f"a {key}; {name} cannot be told anything without it")
            for key in traits.needs
            if key not in said
        )
        yield from (
            Problem((*place, key), f"{key} of {name}", f"the keys {', '.join((*traits.needs, *traits.takes))}")
            for key in said
            if key not in (*traits.needs, *traits.takes)
        )
        yield from _token_problems(shape, name, entry.token, known.scopes)


def _token_problems(shape: FleetShape, name: str, chosen: str | None, scopes: frozenset[Scope]) -> Iterator[Problem]:
    tokens, wanted = shape.service.tokens, sorted(scope.value for scope in scopes)
    if not tokens or not scopes:
        return
    token = chosen or name
    words = f"{{secret: env:NAME, may: [{', '.join(wanted)}]}}"
    if token not in tokens:
        place = ("orchestrators", name, "token") if chosen else ("orchestrators", name)
        yield Problem(place, f'no token "{token}" for it', f"service: {{tokens: {{{token}: {words}}}}}, or token: NAME")
        return
    missing = [scope for scope in wanted if scope not in tokens[token].may and "admin" not in tokens[token].may]
    if missing:
        yield Problem(
            ("service", "tokens", token, "may"), f"nothing of {', '.join(missing)}", f"{words}, for {name} uses it so"
        )
