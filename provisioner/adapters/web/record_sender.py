"""Sends lines to a time series database, from a thread of its own: who adds one never waits.

What cannot be sent waits, and is tried again with growing pauses. A database that is away for long costs the oldest
records, and one that refuses a line costs that line: the ledger has them all.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlencode

import requests

from provisioner.domain.service import RecordSpec

_LOGGER = logging.getLogger("provisioner.record")
_MOST_WAITING = 20_000
_MOST_AT_ONCE = 1000
# A moment in which those that end together are gathered.
_GATHER_SECONDS = 0.5
_ANSWER_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_LAST_SECONDS = 3.0
_TAKEN = (200, 204)
# A line that it cannot read, or that is outside what it keeps: the same line will be refused again.
_NEVER = (400, 413, 422)


@dataclass(frozen=True, slots=True)
class SentCounts:
    """Lines since the service began."""

    sent: int = 0
    refused: int = 0
    dropped: int = 0
    waiting: int = 0


class RecordSender:
    """Safe to use from several threads.

    Args:
        spec: where to.
        secret: the user's password, or the bucket's token; empty where none is needed.
    """

    def __init__(self, spec: RecordSpec, secret: str) -> None:
        self._url, self._headers = _door(spec, secret)
        self._subject = spec.url
        self._lines: deque[str] = deque()
        self._lock = threading.Condition()
        self._is_ending = False
        self._sent = self._refused = self._dropped = 0
        self._trouble = ""
        self._session = requests.Session()
        # It is on the local network; a proxy meant for the internet has no way there.
        self._session.trust_env = False
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def add(self, line: str) -> None:
        """Have a line sent."""
        with self._lock:
            if len(self._lines) >= _MOST_WAITING:
                self._lines.popleft()
                self._dropped += 1
            self._lines.append(line)
            self._lock.notify()

    def counts(self) -> SentCounts:
        """Return how many were sent, and how many not."""
        with self._lock:
            return SentCounts(self._sent, self._refused, self._dropped, len(self._lines))

    def close(self) -> None:
        """Send what waits, if that is a matter of a moment."""
        with self._lock:
            self._is_ending = True
            self._lock.notify()
        self._thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._lock:
                self._lock.wait_for(lambda: bool(self._lines) or self._is_ending)
                if not self._is_ending:
                    self._lock.wait_for(lambda: self._is_ending, _GATHER_SECONDS)
                batch = [self._lines.popleft() for _ in range(min(len(self._lines), _MOST_AT_ONCE))]
                is_ending = self._is_ending
            if not batch:
                return
            left = self._left_of(batch)
            if not left:
                pause = _FIRST_PAUSE
                continue
            with self._lock:
                room = max(_MOST_WAITING - len(self._lines), 0)
                self._dropped += max(len(left) - room, 0)
                # The newest of them, back in their place before what came meanwhile.
                self._lines.extendleft(reversed(left[max(len(left) - room, 0) :]))
                if is_ending:
                    return
                self._lock.wait_for(lambda: self._is_ending, pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _left_of(self, batch: list[str]) -> list[str]:
        """Send lines; return those that are to be sent again."""
        try:
            answer = self._session.post(
                self._url,
                "\n".join(batch).encode(),
                timeout=_ANSWER_SECONDS,
                headers=self._headers,
                allow_redirects=False,
            )
        except requests.exceptions.RequestException as error:
            # Its words may hold the address with everything in it.
            self._say(f"no answer ({type(error).__name__})")
            return batch
        if answer.status_code in _TAKEN:
            self._say("")
            self._count(sent=len(batch))
            return []
        words = " ".join(answer.text.split())[:200]
        if answer.status_code not in _NEVER:
            self._say(f"HTTP {answer.status_code} {words}".strip())
            return batch
        if len(batch) == 1:
            _LOGGER.warning("the record of a request is refused; on: %s; it says: %s", self._subject, words)
            self._count(refused=1)
            return []
        # One bad line must not cost the others. Those that were written already are written again as they are.
        half = len(batch) // 2
        return [*self._left_of(batch[:half]), *self._left_of(batch[half:])]

    def _count(self, *, sent: int = 0, refused: int = 0) -> None:
        with self._lock:
            self._sent += sent
            self._refused += refused

    def _say(self, trouble: str) -> None:
        """Log what changed only: a database that is away is said once."""
        if trouble and not self._trouble:
            _LOGGER.warning("cannot send the record of requests: %s; on: %s; it waits", trouble, self._subject)
        if self._trouble and not trouble:
            _LOGGER.warning("the record of requests is sent again; on: %s", self._subject)
        self._trouble = trouble


def _door(spec: RecordSpec, secret: str) -> tuple[str, dict[str, str]]:
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if spec.bucket:
        query = {"org": spec.organization, "bucket": spec.bucket, "precision": "ns"}
        if secret:
            headers["Authorization"] = f"Token {secret}"
        return f"{spec.url}/api/v2/write?{urlencode(query)}", headers
    if spec.user:
        login = base64.b64encode(f"{spec.user}:{secret}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    return f"{spec.url}/write?{urlencode({'db': spec.database, 'precision': 'ns'})}", headers
