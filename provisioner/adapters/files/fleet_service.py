"""The fleet file's `service:` as a value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from provisioner.adapters.files.fleet_schema import RecordShape, ServiceShape
from provisioner.domain.callers import Scope
from provisioner.domain.fleet import SecretReference
from provisioner.domain.service import CertificateFiles, RecordSpec, ServiceSpec, TokenSpec


def service_spec(
    entry: ServiceShape, secret: Callable[[str], SecretReference], path: Callable[[str], Path]
) -> ServiceSpec:
    """Return the service as wanted.

    Args:
        entry: what the file says.
        secret: reads a reference to a secret.
        path: reads a path; relative ones are taken from the file's folder.
    """
    return ServiceSpec(
        listen=entry.listen,
        tokens={
            name: TokenSpec(name, secret(token.secret), frozenset(Scope(each) for each in token.may))
            for name, token in entry.tokens.items()
        },
        tls=CertificateFiles(path(entry.tls.certificate), path(entry.tls.key)) if entry.tls else None,
        url=(entry.url or "").rstrip("/"),
        look_every_seconds=entry.look_every,
        idle_every_seconds=entry.idle_every,
        figures_every_seconds=entry.figures_every,
        drain_seconds=entry.drain_within,
        keep_events_seconds=entry.keep_events,
        record=_record(entry.record, secret) if entry.record else None,
    )


def _record(entry: RecordShape, secret: Callable[[str], SecretReference]) -> RecordSpec:
    return RecordSpec(
        url=entry.url.rstrip("/"),
        database=entry.database or "",
        user=entry.user or "",
        organization=entry.organization or "",
        bucket=entry.bucket or "",
        secret=secret(entry.secret) if entry.secret else None,
    )
