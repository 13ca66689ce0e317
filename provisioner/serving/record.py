"""The record of requests on its way to a time series database, where the fleet file names one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from provisioner.adapters.web.record_sender import RecordSender
from provisioner.domain.ledger import LedgerEntry
from provisioner.domain.service import RecordSpec
from provisioner.metrics import table
from provisioner.metrics.line_protocol import line
from provisioner.metrics.table import Metric


class Record:
    """Sends what is added. Safe to use from several threads."""

    def __init__(self, spec: RecordSpec, secret: Callable[..., str]) -> None:
        """Begin. Raises InputError when its secret cannot be read."""
        shown = secret(spec.secret, subject="service.record") if spec.secret is not None else ""
        self._sender = RecordSender(spec, shown)
        self._numbers = itertools.count()

    def add(self, entry: LedgerEntry) -> None:
        """Have a request's record sent."""
        self._sender.add(line(entry, next(self._numbers)))

    def figures(self) -> Mapping[Metric, Mapping[tuple[str, ...], float]]:
        """Return how many were sent, and how many not."""
        counts = self._sender.counts()
        return {
            table.RECORD_SENT: {(): counts.sent},
            table.RECORD_LOST: {("refused",): counts.refused, ("dropped",): counts.dropped},
            table.RECORD_PENDING: {(): counts.waiting},
        }

    def close(self) -> None:
        """Send what waits, if that is a matter of a moment."""
        self._sender.close()
