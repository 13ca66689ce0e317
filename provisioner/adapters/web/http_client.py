"""The port `Web` over requests: one connection kept open per place and thread."""

from __future__ import annotations

import threading

import requests

from provisioner.ports.web import Answer, NoAnswer


class HttpClient:
    """Fetches from engines."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, url: str, *, seconds: float) -> Answer:
        """Fetch. Raises NoAnswer."""
        return self._send("GET", url, None, seconds)

    def post_json(self, url: str, body: object, *, seconds: float) -> Answer:
        """Send a JSON document. Raises NoAnswer."""
        return self._send("POST", url, body, seconds)

    def _send(self, method: str, url: str, body: object, seconds: float) -> Answer:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # Nodes are on the local network; a proxy meant for the internet has no way there.
            session.trust_env = False
        try:
            response = session.request(method, url, json=body, timeout=seconds, allow_redirects=False)
            return Answer(response.status_code, response.text)
        except requests.exceptions.Timeout as error:
            raise NoAnswer("no answer yet") from error
        except requests.exceptions.RequestException as error:
            refused = "refused" in str(error)
            raise NoAnswer("connection refused" if refused else "the connection was closed") from error
