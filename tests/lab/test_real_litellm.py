"""A real LiteLLM includes the file that we write: its client's request goes through our gateway and wakes a node."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests

from tests.lab.serving import running_service
from tests.lab.support import NODE, Site
from tests.peers import litellm_program

pytestmark = pytest.mark.skipif(
    litellm_program() is None, reason="LiteLLM is not at hand: python -m tests.peers litellm"
)
TOKEN = "token-of-litellm-0123456789"
KEY = "sk-of-litellms-clients-0123456789"
_START_SECONDS = 240
CHAT = {"model": "tiny.gguf", "messages": [{"role": "user", "content": "Say hello."}]}


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        return int(opened.getsockname()[1])


@contextmanager
def running_litellm(folder: Path, ours: Path) -> Iterator[str]:
    """Run LiteLLM with a configuration of somebody's own, to which ours is added in one line."""
    port, settings, log = free_port(), folder / "config.yaml", folder / "litellm.log"
    settings.write_text(f"include: [{ours}]\ngeneral_settings: {{master_key: {KEY}}}\n")
    command = [str(litellm_program()), "--config", str(settings), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "CHAT_TOKEN": TOKEN}
    with (
        log.open("w") as words,
        subprocess.Popen([*command, "--telemetry", "False"], env=environment, stdout=words, stderr=words) as process,
    ):
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health/liveliness", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def test_its_clients_have_our_models_and_wake_their_nodes(site: Site) -> None:
    ours = site.folder / "litellm" / "provisioner.yaml"
    port = free_port()
    token = "chat: {secret: env:CHAT_TOKEN, may: [route]}"
    service = f"service: {{listen: '127.0.0.1:{port}', tokens: {{{token}}}}}\n"
    fleet = site.fleet(
        lambda text: f"{text}{service}orchestrators: {{litellm: {{config_file: {ours}, token: chat}}}}\n"
    )
    secret = {"CHAT_TOKEN": TOKEN}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAT_TOKEN", TOKEN)
        fleet.up(NODE)
    fleet.sleep(NODE, force=True)
    assert TOKEN not in ours.read_text()
    with (
        running_service(site, listen=f"127.0.0.1:{port}", token=TOKEN, environment=secret),
        running_litellm(site.folder, ours) as url,
    ):
        shown = {"Authorization": f"Bearer {KEY}"}
        listed = requests.get(f"{url}/v1/models", headers=shown, timeout=30).json()["data"]
        assert [each["id"] for each in listed] == ["tiny.gguf"]
        answer = requests.post(f"{url}/v1/chat/completions", json=CHAT, headers=shown, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
