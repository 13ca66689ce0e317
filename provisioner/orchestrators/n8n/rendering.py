"""The workflows that n8n gets, rendered from the templates beside this file. No secret goes into them.

Templates are JSON with `<< >>` and `<% %>`, for n8n's own expressions have the curly brackets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner.orchestrators.base import News
from provisioner.orchestrators.n8n.marks import with_mark

if TYPE_CHECKING:
    import jinja2

KEYS = ("llm-load-balancer", "health-check-and-failover", "idle-shutdown", "request-metrics")
"""The workflows by the names of their templates."""
WEBHOOK = "llm/chat"
"""The path of the load balancer's webhook, below ``/webhook/``."""
CONTROL, CALLERS = "provisioner: control service", "provisioner: callers of the webhook"
"""The names of the credentials that our workflows use."""
GATEWAY = "provisioner: gateway (OpenAI)"
"""That of the one for workflows of people's own: nodes that speak to OpenAI take it, and may stream."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Ids that n8n gave them; `control` is empty where our service asks nobody for a token."""

    control: str
    callers: str


def workflows(news: News, credentials: Credentials) -> Mapping[str, dict[str, Any]]:
    """Return every workflow by its key: name, nodes, connections and settings, with our mark."""
    return {key: with_mark(_rendered(key, news, credentials), key) for key in KEYS}


def _rendered(key: str, news: News, credentials: Credentials) -> dict[str, Any]:
    text = (
        _templates()
        .get_template(f"{key}.json.j2")
        .render(
            service=news.service_url,
            credentials=credentials,
            control_name=CONTROL,
            callers_name=CALLERS,
            gateway_name=GATEWAY,
            webhook=WEBHOOK,
            nodes=news.nodes,
            models=news.models,
            version=news.version,
            # Keys of engines are nobody's but our gateway's.
            through_gateway=any(node.has_key for node in news.nodes),
        )
    )
    workflow: dict[str, Any] = json.loads(text)
    return workflow


@cache
def _templates() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - JSON, not HTML; every text goes through tojson
    )
