"""A real n8n wakes a real guest: one webhook call, with its times, and what n8n knew before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from provisioner.demo.lab_process import processes_using, running_lab
from provisioner.lab import host_packages
from provisioner.lab.images.store import default_cache_dir
from tests.lab.support import NODE
from tests.n8n.install import why_not
from tests.n8n.server import RunningN8n, free_port, running_n8n

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

SECRETS = {"T_N8N": "token-of-n8n-0123456789", "T_HOOK": "webhook-key-0123456789"}
CHAT = {
    "model": "tiny.gguf",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "Tell me of a small light."}],
}


@contextmanager
def served(environment: Mapping[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "provisioner", "serve", "--json"]
    with subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield
        finally:
            process.terminate()
            process.wait(60)


def known(n8n: RunningN8n) -> list[str]:
    """Return what n8n knows, a line for each thing."""
    lines = [
        f"workflow {each['name']!r} {'active' if each['active'] else 'off'} {[tag['name'] for tag in each['tags']]}"
        for each in n8n.workflows().values()
    ]
    lines += [f"credential {each['name']!r}" for each in n8n.api("GET", "/credentials?limit=250")["data"]]
    return sorted(lines)


def test_one_webhook_call_wakes_a_real_guest_and_destroy_takes_everything_back(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if host_packages.missing():
        pytest.skip("QEMU cannot be had here: make lab-packages installs it, as root or with sudo")
    port = free_port()
    with (
        running_lab(tmp_path, backend="qemu", cache=default_cache_dir()) as fleet_file,
        running_n8n(tmp_path_factory.mktemp("n8n")) as n8n,
    ):
        kept = [
            line
            for line in fleet_file.read_text().splitlines(keepends=True)
            if not line.startswith(("  llm-gpu-02:", "  llm-cpu-01:"))
        ]
        fleet_file.write_text(
            "".join(kept)
            + f"service: {{listen: '127.0.0.1:{port}', tokens: {{n8n: {{secret: env:T_N8N, may: [route, wake]}}}}}}\n"
            + f"orchestrators: {{n8n: {{url: {n8n.url}, api_key: env:T_API, webhook_key: env:T_HOOK}}}}\n"
        )
        places = {"PROVISIONER_FLEET": str(fleet_file), "PROVISIONER_STATE": str(tmp_path / "client")}
        environment = {**os.environ, **SECRETS, **places, "T_API": n8n.key}

        def run(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "provisioner", *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            print(f"$ provisioner {' '.join(words)}\n{done.stdout}", flush=True)
            return done.stdout

        def show(words: str, lines: list[str]) -> None:
            print(words, *(f"  {line}" for line in lines or ["nothing"]), sep="\n", flush=True)

        def ask() -> requests.Response:
            began = time.monotonic()
            answer = requests.post(
                f"{n8n.url}/webhook/llm/chat",
                json=CHAT,
                headers={"Authorization": f"Bearer {SECRETS['T_HOOK']}"},
                timeout=900,
            )
            seconds = time.monotonic() - began
            said: Any = answer.json()["choices"][0]["message"]["content"] if answer.ok else answer.text
            print(
                f"$ curl -H 'Authorization: Bearer ...' -d '{json.dumps(CHAT)}' {n8n.url}/webhook/llm/chat\n"
                f"HTTP {answer.status_code} after {seconds:.2f} s, x-served-by: {answer.headers.get('x-served-by')}, "
                f"x-fallback: {answer.headers.get('x-fallback')}\n{said!r}",
                flush=True,
            )
            return answer

        show("n8n knows before:", known(n8n))
        assert known(n8n) == []
        assert "registered at n8n" in run("up", NODE)
        run("register")
        show("n8n knows after up:", known(n8n))
        assert len(known(n8n)) == 7
        run("sleep", NODE)
        run("status")
        with served(environment):
            cold = ask()
            assert (cold.status_code, cold.headers["x-served-by"]) == (200, NODE)
            warm = ask()
            assert (warm.status_code, warm.headers["x-served-by"]) == (200, NODE)
            service, shown = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {SECRETS['T_N8N']}"}
            deadline = time.monotonic() + 60
            records: list[dict[str, Any]] = []
            # n8n tells of a request when its caller has the answer already.
            while len(records) < 2 and time.monotonic() < deadline:
                records = requests.get(f"{service}/api/requests", headers=shown, timeout=10).json()["requests"]
                time.sleep(0.1)
            show("the record of requests:", [json.dumps(each) for each in records])
            assert [(each["node"], each["success"]) for each in records] == [(NODE, True)] * 2
        run("destroy", NODE, "--confirm", NODE)
        run("register")
        show("n8n knows after destroy:", known(n8n))
        assert known(n8n) == []
    assert processes_using(tmp_path) == []
