"""From a decoded request to an answer: find the endpoint, check rights, check parameters, call.

Rights come before the schema, as in the real thing: somebody without rights
does not learn which parameters are wrong. No HTTP in here, so tests can call it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.lab.core import Lab
from provisioner.lab.guests.base import GuestFailure
from provisioner.lab.refusals import failed, not_implemented
from provisioner.lab.routes import access, agent, cluster, pools, qemu, rules, storage, storage_config, tasks
from provisioner.lab.routes.registry import HANDLERS, Call
from provisioner.lab.schema.endpoints import Endpoint

ROUTES = (access, agent, cluster, pools, qemu, rules, storage, storage_config, tasks)
"""The modules whose import registers every handler."""


@dataclass(frozen=True, slots=True)
class Match:
    """An endpoint and what its path said."""

    endpoint: Endpoint
    values: Mapping[str, str]


class Dispatcher:
    """Finds endpoints by path and calls their handlers."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        missing = sorted(set(lab.endpoints) ^ set(HANDLERS))
        if missing:
            raise RuntimeError(f"declared and served endpoints differ: {missing}")
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Endpoint]]] = {}
        for (method, path), endpoint in sorted(lab.endpoints.items()):
            self._patterns.setdefault((method, _first_segment(path)), []).append((_pattern(path), endpoint))

    def match(self, method: str, path: str) -> Match:
        """Return the endpoint for a path. Raises Refusal 501 when there is none."""
        found = [
            Match(endpoint, match.groupdict())
            for pattern, endpoint in self._patterns.get((method, _first_segment(path)), ())
            if (match := pattern.fullmatch(path))
        ]
        if not found:
            raise not_implemented(method, path)
        # A literal segment outranks one in braces.
        return min(found, key=lambda match: len(match.values))

    async def call(
        self,
        who: str | None,
        method: str,
        path: str,
        params: Mapping[str, object],
        upload: Path | None = None,
    ) -> object:
        """Return the data of the answer. Raises Refusal."""
        match = self.match(method, path)
        given: dict[str, object] = {**params, **match.values}
        self._lab.access.check(match.endpoint.rule, who, given)
        if "node" in match.values:
            self._lab.cluster.node(match.values["node"])
        accepted = self._lab.schema.verify(given, match.endpoint.params)
        handler = HANDLERS[match.endpoint.method, match.endpoint.path]
        try:
            return await handler(self._lab, Call(who or "", accepted, upload))
        except GuestFailure as failure:
            raise failed(str(failure)) from failure


def _first_segment(path: str) -> str:
    return path.strip("/").partition("/")[0]


def _pattern(path: str) -> re.Pattern[str]:
    parts = []
    for part in path.strip("/").split("/"):
        name = part.strip("{}")
        # A volume's own name has slashes in it; it is always the last part.
        inner = ".+" if name == "volume" else "[^/]+"
        parts.append(f"(?P<{name}>{inner})" if part.startswith("{") else re.escape(part))
    return re.compile("/" + "/".join(parts))
