"""What else one may put before an engine, as processes: nginx, HAProxy, and LiteLLM's proxy, where they are at hand."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import yaml

from provisioner.adapters.processes import dying_with_us
from provisioner.adapters.system_clock import SystemClock
from provisioner.waiting import NotYet, Pace, wait_until
from tests.peers import litellm_program

MODEL = "gemma-2-2b-it.gguf"
_QUESTION = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}).encode()
_START_SECONDS = 120.0

_NGINX = """\
user root; daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engine {{ server {engine}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
_HAPROXY = """\
global
  maxconn 4096
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 600s
  timeout server 600s
  http-reuse always
  option http-no-delay
frontend clients
  bind 127.0.0.1:{port}
  default_backend engines
backend engines
  server engine {engine} check inter 1s
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go, the process whose processor time they cost, and the one whose memory, children included."""

    host: str
    port: int
    worker: int
    whole: int
    token: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry."""
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {**bearer, "Content-Type": "application/json"}


@contextlib.contextmanager
def nginx(folder: Path, engine: str) -> Iterator[Place]:
    """Run nginx with one worker."""
    port, settings = _free_port(), folder / "nginx.conf"
    settings.write_text(_NGINX.format(folder=folder, engine=engine, port=port))
    with _running(["nginx", "-c", str(settings)], port, folder / "nginx.log") as (pid, place):
        yield Place("127.0.0.1", port, place, pid)


@contextlib.contextmanager
def haproxy(folder: Path, engine: str) -> Iterator[Place]:
    """Run HAProxy with one thread."""
    port, settings = _free_port(), folder / "haproxy.cfg"
    settings.write_text(_HAPROXY.format(engine=engine, port=port))
    with _running(["haproxy", "-db", "-f", str(settings)], port, folder / "haproxy.log") as (pid, place):
        yield Place("127.0.0.1", port, place, pid)


@contextlib.contextmanager
def litellm(folder: Path, engine: str, *, is_tuned: bool) -> Iterator[Place]:
    """Run LiteLLM's proxy with one worker: as its documents begin, or with what they advise for load."""
    folder.mkdir(exist_ok=True)
    port, settings, key = _free_port(), folder / "litellm.yml", "sk-of-the-bench-0123456789"
    parameters = {"model": f"openai/{MODEL}", "api_base": f"http://{engine}/v1", "api_key": "none"}
    config: dict[str, object] = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": key},
    }
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    if is_tuned:
        config["general_settings"] = {"master_key": key, "disable_spend_logs": True, "disable_error_logs": True}
        config["litellm_settings"] = {"num_retries": 0, "request_timeout": 600, "set_verbose": False}
        config["router_settings"] = {"routing_strategy": "simple-shuffle", "num_retries": 0}
        environment |= {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "PYTHONOPTIMIZE": "1"}
    settings.write_text(yaml.safe_dump(config))
    command = [str(litellm_program()), "--config", str(settings), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    with _running(command, port, folder / "litellm.log", environment, key) as (pid, _):
        yield Place("127.0.0.1", port, pid, pid, key)


def at_hand(stack: contextlib.ExitStack, folder: Path, engine: str) -> dict[str, Place]:
    """Start all that are installed here."""
    found: dict[str, Place] = {}
    if shutil.which("nginx") is not None:
        found["nginx"] = stack.enter_context(nginx(folder, engine))
    if shutil.which("haproxy") is not None:
        found["HAProxy"] = stack.enter_context(haproxy(folder, engine))
    if litellm_program() is not None:
        found["LiteLLM"] = stack.enter_context(litellm(folder / "default", engine, is_tuned=False))
        found["LiteLLM, tuned"] = stack.enter_context(litellm(folder / "tuned", engine, is_tuned=True))
    return found


@contextlib.contextmanager
def _running(
    command: Sequence[str], port: int, log: Path, environment: dict[str, str] | None = None, token: str = ""
) -> Iterator[tuple[int, int]]:
    """Run a proxy until the block ends; yield its process, and its first child where it has one, else itself."""
    place = Place("127.0.0.1", port, 0, 0, token)
    with log.open("w") as words:
        process = subprocess.Popen(
            dying_with_us(*command), env=environment, stdin=subprocess.DEVNULL, stdout=words, stderr=words
        )
        try:

            def look() -> int | NotYet:
                assert process.poll() is None, log.read_text()[-2000:]
                trouble = _trouble(place)
                if trouble:
                    return NotYet(trouble)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                return int(children[0]) if children else process.pid

            yield process.pid, wait_until(look, clock=SystemClock(), seconds=_START_SECONDS, pace=Pace(0.05, 1.2, 1.0))
        finally:
            process.terminate()
            process.wait(20)


def _trouble(place: Place) -> str:
    client = http.client.HTTPConnection(place.host, place.port, timeout=5)
    try:
        client.request("POST", "/v1/chat/completions", _QUESTION, place.headers)
        status = client.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        client.close()
    return "" if status == 200 else f"it answers {status}"


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        return int(opened.getsockname()[1])
