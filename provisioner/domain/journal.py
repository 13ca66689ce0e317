"""Lines of a systemd journal, as ``journalctl -o json`` prints them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class JournalLine:
    """What was said, when (UNIX seconds), and by whom. `cursor` is the journal's own name for the place."""

    at: float
    source: str
    text: str
    cursor: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {"time": self._time(), "source": self.source, "text": self.text}

    def __str__(self) -> str:
        return f"{self._time()} {self.source}: {self.text}"

    def _time(self) -> str:
        return datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_journal_line(text: str) -> JournalLine | None:
    """Return a line; None for what is no journal entry, such as ``-- No entries --``."""
    try:
        entry = json.loads(text)
        at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
    except (ValueError, KeyError, TypeError):
        return None
    source = entry.get("SYSLOG_IDENTIFIER") or entry.get("_COMM") or "?"
    return JournalLine(at, str(source), _message(entry.get("MESSAGE")), str(entry.get("__CURSOR", "")))


def _message(value: object) -> str:
    # What is no UTF-8, or holds control signs, comes as a list of byte values (systemd, JOURNAL_EXPORT_FORMATS).
    if isinstance(value, list):
        return bytes(each for each in value if isinstance(each, int) and 0 <= each < 256).decode("utf-8", "replace")
    return "" if value is None else str(value)
