"""The port `Streams` over requests: a connection for each stream, read as its pieces come in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3

from provisioner.ports.web import NO_HEADERS, Headers, NoAnswer

_CONNECT_SECONDS = 5.0
_PART_BYTES = 1 << 16
_WORDS = 300


class HttpStreams:
    """Streams from engines."""

    @contextmanager
    def open(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Iterator[Iterator[str]]:
        """Send a JSON document; yield the lines of the answer."""
        with requests.Session() as session:
            # Nodes are on the local network; a proxy meant for the internet has no way there.
            session.trust_env = False
            try:
                response = session.post(
                    url,
                    json=body,
                    stream=True,
                    timeout=(_CONNECT_SECONDS, seconds),
                    allow_redirects=False,
                    headers=headers,
                )
                if response.status_code != 200:
                    raise NoAnswer(f"HTTP {response.status_code} {response.text[:_WORDS]}", response.status_code)
            except requests.exceptions.Timeout as error:
                raise NoAnswer("no answer yet") from error
            except requests.exceptions.RequestException as error:
                raise NoAnswer(
                    "connection refused" if "refused" in str(error) else "the connection was closed"
                ) from error
            try:
                yield _lines(response)
            finally:
                response.close()


def _lines(response: requests.Response) -> Iterator[str]:
    raw = response.raw
    # A chunked body is read chunk by chunk as it comes. Of any other, asking for more than a byte would wait for all
    # that was asked for.
    parts = raw.stream(_PART_BYTES if getattr(raw, "chunked", False) else 1, decode_content=True)
    rest = b""
    try:
        for part in parts:
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                yield line.rstrip(b"\r").decode("utf-8", "replace")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        silent = isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError))
        raise NoAnswer("it fell silent" if silent else "the connection was closed") from error
    if rest:
        yield rest.decode("utf-8", "replace")
