"""The port `Web` over requests: one connection kept open per place and thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import requests

from provisioner.ports.web import NO_HEADERS, Answer, Headers, NoAnswer


class HttpClient:
    """Fetches from engines."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Fetch. Raises NoAnswer."""
        return self._send("GET", url, None, seconds, headers)

    def post_json(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Send a JSON document. Raises NoAnswer."""
        return self._send("POST", url, body, seconds, headers)

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Send a JSON document with any method. Raises NoAnswer."""
        return self._send(method, url, body, seconds, headers)

    def lines(
        self, method: str, url: str, body: object, *, silence_seconds: float, headers: Headers = NO_HEADERS
    ) -> Iterator[str]:
        """Yield an answer's lines as they come. Raises NoAnswer."""
        try:
            with self._session().request(
                method, url, json=body, timeout=silence_seconds, allow_redirects=False, stream=True, headers=headers
            ) as response:
                if response.status_code != 200:
                    status = response.status_code
                    raise NoAnswer(f"HTTP {status} {response.text.strip()[:200]}", status)
                # Sign by sign: a larger piece is waited for, and a line that came would be told with the next one.
                for line in response.iter_lines(chunk_size=1):
                    if line:
                        yield line.decode("utf-8", "replace")
        except requests.exceptions.RequestException as error:
            raise _no_answer(error) from error

    def _send(self, method: str, url: str, body: object, seconds: float, headers: Headers) -> Answer:
        try:
            response = self._session().request(
                method, url, json=body, timeout=seconds, allow_redirects=False, headers=headers
            )
            return Answer(response.status_code, response.text)
        except requests.exceptions.RequestException as error:
            raise _no_answer(error) from error

    def _session(self) -> requests.Session:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # Nodes are on the local network; a proxy meant for the internet has no way there.
            session.trust_env = False
        return session


def _no_answer(error: requests.exceptions.RequestException) -> NoAnswer:
    # What breaks off in the middle of an answer is told as a failed connection, whatever the reason.
    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return NoAnswer("no answer yet")
    return NoAnswer("connection refused" if "refused" in str(error) else "the connection was closed")
