"""The API against its own OpenAPI document: schemathesis asks what the document allows, and what it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.serving import Client, running_service
from tests.lab.support import NODE, Site

TOKEN = "token-of-the-fuzzer-0123456789"
_EXAMPLES = 3
CONFIG = f"""\
base-url = "BASE"
headers = {{ Authorization = "Bearer {TOKEN}" }}
parameters = {{ "path.name" = "{NODE}" }}

[checks.not_a_server_error]
# Proxmox, a guest or an engine has failed: no failure of ours. Ours is 500.
expected-statuses = ["2xx", "3xx", "4xx", 502, 504, 507]
"""


@pytest.mark.parametrize("seed", [1])
def test_no_question_breaks_it_and_every_answer_is_as_documented(site: Site, tmp_path: Path, seed: int) -> None:
    # Its node has no VM yet: every act is judged and refused, which is quick.
    site.fleet(lambda text: f"{text}service: {{tokens: {{me: {{secret: env:T_ME, may: [admin]}}}}}}\n")
    with running_service(site, token=TOKEN, environment={"T_ME": TOKEN}) as running:
        url = running.client.url
        document, config = tmp_path / "openapi.json", tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.replace("BASE", url))
        document.write_text(json.dumps(Client(url).get("/api/openapi.json").value))
        command = [Path(sys.executable).parent / "st", f"--config-file={config}", "run", document]
        # The stream of events never ends, which is no answer that can be judged.
        command += ["--exclude-path=/api/events", "--phases=examples,coverage,fuzzing", "--no-color"]
        # One worker: the parser of Python 3.11.2, which filters are described with, is not safe in several threads.
        command += [f"--max-examples={_EXAMPLES}", f"--seed={seed}", "--workers=1", "--request-timeout=30"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert running.client.get("/api/service").status == 200
