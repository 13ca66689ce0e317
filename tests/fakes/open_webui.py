"""The settings of an Open WebUI in memory, behind the port `Web`: lists side by side, replaced as a whole."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from provisioner.ports.web import NO_HEADERS, Answer, Headers, NoAnswer

URL = "http://127.0.0.1:3000"
KEY = "sk-of-an-administrator"
_WANTED = {"OPENAI_API_BASE_URLS", "OPENAI_API_KEYS", "OPENAI_API_CONFIGS"}


class FakeOpenWebUi:
    """OpenAI connections; everything in it is there to be looked at and broken."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {
            "ENABLE_OPENAI_API": True,
            "OPENAI_API_BASE_URLS": ["https://api.example.org/v1"],
            "OPENAI_API_KEYS": ["sk-somebody-elses"],
            "OPENAI_API_CONFIGS": {"0": {"enable": True, "prefix_id": "theirs"}},
            "ENABLE_API_DEBUG_LOGGING": False,
        }
        self.writes = 0
        self.is_down = False

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        if self.is_down or not url.startswith(URL):
            raise NoAnswer("connection refused")
        if headers.get("Authorization") != f"Bearer {KEY}":
            return Answer(401, json.dumps({"detail": "Your session has expired or the token is invalid."}))
        match method, urlsplit(url).path:
            case "GET", "/openai/config":
                return Answer(200, json.dumps(self.config))
            case "POST", "/openai/config/update":
                sent: Any = json.loads(json.dumps(body))
                if not set(sent) >= _WANTED:
                    return Answer(422, json.dumps({"detail": [{"type": "missing"}]}))
                places = {str(at) for at in range(len(sent["OPENAI_API_BASE_URLS"]))}
                sent["OPENAI_API_CONFIGS"] = {k: v for k, v in sent["OPENAI_API_CONFIGS"].items() if k in places}
                self.config = sent
                self.writes += 1
                return Answer(200, json.dumps(self.config))
            case _:
                return Answer(404, json.dumps({"detail": "Not Found"}))
