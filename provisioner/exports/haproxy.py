"""A configuration for HAProxy: nodes that are ready are served directly, and our gateway is the server that wakes.

For those who outgrow one process. HAProxy looks at the engines itself; as soon as one lists its model, requests for
that model go straight there. While none does, the gateway is the backup: it wakes a node and holds the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provisioner.domain.callers import Scope
from provisioner.domain.fleet import FleetSpec, SecretSource
from provisioner.domain.names import EngineName
from provisioner.domain.service import ListenAddress, TokenSpec
from provisioner.engines.base import InferenceEngine
from provisioner.errors import RefusedError
from provisioner.planning.model_table import ModelEntry, ModelTable, Offer

# The model's name is looked for in the body. One that does not fit goes to the gateway, which takes any.
_BUFFER_BYTES = 262_144
# A cold start, and the longest answer.
_LONGEST = "30m"


@dataclass(frozen=True, slots=True)
class HaproxyWishes:
    """Where HAProxy listens, and where our gateway does."""

    listen: ListenAddress
    gateway: ListenAddress


def configuration(fleet: FleetSpec, engines: Mapping[EngineName, InferenceEngine], wishes: HaproxyWishes) -> str:
    """Return the text of a ``haproxy.cfg``. No secret is in it: tokens are read when HAProxy starts.

    Raises:
        RefusedError: others would reach it, and no token is needed.
    """
    tokens = [each for each in fleet.service.tokens.values() if each.may & {Scope.ROUTE, Scope.ADMIN}]
    if not tokens and not wishes.listen.is_private_to_us:
        raise RefusedError(
            f"cannot let HAProxy listen on {wishes.listen}: others reach it, and no token may use models",
            subject=f"fleet file {fleet.path}",
            next_step="add tokens with may: [route] to its service:, or listen on 127.0.0.1",
        )
    entries = ModelTable(fleet, engines).entries
    direct = [(entry, offers) for entry in entries if (offers := _direct(fleet, engines, entry))]
    parts = [_HEAD, _frontend(tokens, [entry for entry, _ in direct], wishes)]
    parts += [_backend(fleet, engines, entry, offers, wishes) for entry, offers in direct]
    parts.append(f"backend gateway\n    server gateway {_gateway(fleet, wishes)}\n")
    return "\n".join(parts)


_HEAD = f"""\
# Written by: provisioner export haproxy. Change the fleet file and write it again.
# Ready nodes are served directly; the gateway of `provisioner serve` wakes the others, and knows all other names.
# Engines that are served directly see the client's token; those that ask for an api_key go through the gateway.
global
    maxconn 4000
    tune.bufsize {_BUFFER_BYTES}
    log stderr format raw local0 notice

defaults
    mode http
    log global
    timeout connect 2s
    timeout check 3s
    timeout client {_LONGEST}
    timeout server {_LONGEST}
    timeout http-request 30s
    timeout http-keep-alive 75s
    timeout queue 1m
    # Only what no engine has taken yet is sent again, elsewhere.
    retries 2
    retry-on conn-failure
    option redispatch 1
    # The first connection that fails takes a node out, so that the next try of that same request finds the backup.
    default-server inter 1s fastinter 200ms downinter 500ms fall 2 rise 1
    default-server observe layer4 error-limit 1 on-error mark-down
"""


def _frontend(tokens: Iterable[TokenSpec], entries: Iterable[ModelEntry], wishes: HaproxyWishes) -> str:
    lines = ["frontend models", f"    bind {wishes.listen}", "    option http-buffer-request"]
    for token in tokens:
        secret = token.secret
        where = f'"${{{secret.name}}}"' if secret.source is SecretSource.ENV else f"-f {_word(secret.name)}"
        lines.append(f"    acl knows_a_token req.hdr(authorization),field(2,' ') -m str {where}")
    if tokens:
        lines.append("    http-request deny deny_status 401 unless knows_a_token")
    lines.append("    http-request set-var(txn.model) req.body,json_query('$.model')")
    for entry in entries:
        wanted = f"{{ path_beg /v1/ }} {{ var(txn.model) -m str {_word(entry.name)} }}"
        lines.append(f"    use_backend {_name(entry)} if {wanted}")
    return "\n".join([*lines, "    default_backend gateway", ""])


def _backend(
    fleet: FleetSpec,
    engines: Mapping[EngineName, InferenceEngine],
    entry: ModelEntry,
    offers: tuple[Offer, ...],
    wishes: HaproxyWishes,
) -> str:
    lines = [
        f"backend {_name(entry)}",
        "    balance leastconn",
        # An engine that runs another mode lists another model.
        "    option httpchk",
        f"    http-check send meth GET uri {engines[offers[0].engine].models_path}",
        f"    http-check expect rstring {_word(_listed(entry.name))}",
        *(f"    server {offer.node} {offer.host}:{offer.port} check" for offer in offers),
        f"    server gateway {_gateway(fleet, wishes)} backup",
    ]
    return "\n".join([*lines, ""])


def _direct(fleet: FleetSpec, engines: Mapping[EngineName, InferenceEngine], entry: ModelEntry) -> tuple[Offer, ...]:
    """Return those that may be asked directly; one look fits one engine, so they all have the same."""

    def asks_for_a_key(offer: Offer) -> bool:
        return fleet.nodes[offer.node].api_key is not None and bool(engines[offer.engine].key_variable)

    found = [offer for offer in entry.offers if not offer.stands_in and not asks_for_a_key(offer)]
    return tuple(offer for offer in found if offer.engine == found[0].engine)


def _gateway(fleet: FleetSpec, wishes: HaproxyWishes) -> str:
    tls = fleet.service.tls
    return f"{wishes.gateway}" + (f" ssl verify required ca-file {_word(str(tls.certificate))}" if tls else "")


def _listed(model: str) -> str:
    """Return a pattern for a model's name as a value in JSON."""
    return f'"{re.escape(model)}"'


def _name(entry: ModelEntry) -> str:
    return "model-" + re.sub(r"[^A-Za-z0-9_.:-]", "_", entry.name)


def _word(text: str) -> str:
    """Return one word as HAProxy reads it, whatever is in it."""
    return '"' + re.sub(r'([\\"$])', r"\\\1", text) + '"'
