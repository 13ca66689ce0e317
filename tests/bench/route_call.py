"""Our share of a request that comes by n8n: the call that asks which node answers, while one is ready."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

from tests.bench.command_line import PROVISIONER
from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import lab_site

MOST_P95_MS = 5.0
ROUNDS, WARM = 1000, 50
_TOKEN = "token-of-the-bench-0123456789"


def measure(bench: Bench) -> Iterator[Result]:
    """Measure ``POST /api/route`` on one kept connection, as n8n's HTTP node does it."""
    with lab_site(bench.folder / "lab", 1) as site:
        environment = {**site.environment, "T_ME": _TOKEN}
        words = "service: {tokens: {n8n: {secret: env:T_ME, may: [route, wake]}}}\n"
        site.fleet_file.write_text(site.fleet_file.read_text() + words)
        subprocess.run([PROVISIONER, "up"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        command = [sys.executable, "-m", "provisioner", "serve", "--json", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                place = urlsplit(json.loads(process.stdout.readline())["ready"]["url"])
                found = [_milliseconds(each) for each in _calls(place.netloc)]
            finally:
                process.terminate()
    figures = Figures.of(found[WARM:])
    note = "one client, one connection, a node that is ready"
    yield Result(
        "wake.route_call", "ms", f"p95 <= {MOST_P95_MS:g}", figures, {}, figures.percentile(95) <= MOST_P95_MS, note
    )


def _calls(place: str) -> Iterator[float]:
    heads = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
    body = json.dumps({"model": "tiny.gguf"})
    with closing(http.client.HTTPConnection(place, timeout=60)) as connection:
        for _ in range(WARM + ROUNDS):
            began = time.perf_counter()
            connection.request("POST", "/api/route", body, heads)
            answer = connection.getresponse()
            text = answer.read()
            yield time.perf_counter() - began
            assert answer.status == 200, text


def _milliseconds(seconds: float) -> float:
    return seconds * 1000
