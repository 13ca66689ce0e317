"""Pictures of a fleet that lives on the embedded Proxmox: page and terminal, as the README shows them.

They are written to `build/pictures`; those in `tests/pictures` are copies of them.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from provisioner.cli.status_watch import Looks, picture
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import Client, running_service
from tests.lab.support import NODE, Site, site_for
from tests.page.browser import browser, log_in, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

FOLDER = Path(__file__).resolve().parents[2] / "build" / "pictures"
TOKEN = "admin-0123456789abcdef"
HELD, ASLEEP = "llm-gpu-02", "llm-cpu-01"
SERVICE = """\
service: {look_every: 1s, tokens: {admin: {secret: env:T_ADMIN, may: [admin]}}}
electricity: {price: 0.30 EUR/kWh}
"""


@pytest.fixture(scope="module")
def lived() -> Iterator[tuple[Site, Client]]:
    """Three nodes that have been up, asked, held, put to sleep and woken."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served_folder(Path(folder)) as images,
        RunningLab(Path(folder) / "lab", boot_seconds=2, engine_seconds=1) as lab,
    ):
        site = site_for(lab, Path(folder), images, nodes=3)
        fleet = site.fleet(lambda text: text + SERVICE)
        for name in (NODE, HELD, ASLEEP):
            fleet.up(name)
        with running_service(site, environment={"T_ADMIN": TOKEN}, token=TOKEN) as service:
            client = service.client
            for name in (NODE, ASLEEP):
                client.post(f"/api/nodes/{name}/sleep", {"force": True})
            client.post(f"/api/nodes/{HELD}/hold", {"duration": "2h", "why": "training until tonight"})
            assert client.post(f"/api/nodes/{NODE}/wake").status == 200
            for question in range(8):
                words = [{"role": "user", "content": f"What is {question}?"}]
                said = client.post("/v1/chat/completions", {"model": "tiny.gguf", "messages": words, "max_tokens": 24})
                assert said.status == 200, said.value
            yield site, client


def test_the_page(lived: tuple[Site, Client]) -> None:
    _, client = lived
    sizes = {"desk": (1360, 900), "phone": (390, 844)}
    with browser() as chromium:
        for name, (width, height) in sizes.items():
            for scheme in ("light", "dark"):
                size: Any = {"width": width, "height": height}
                context = chromium.new_context(viewport=size, color_scheme=scheme)
                page = context.new_page()
                log_in(page, client.url, TOKEN)
                page.locator(f'#node-{NODE}[data-phase="ready"]', has_text="°C").wait_for()
                for node in (NODE, HELD, ASLEEP):
                    assert page.locator(f"#node-{node}").is_visible()
                assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing runs off its side"
                FOLDER.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=str(FOLDER / f"page-{name}-{scheme}.png"), full_page=True, animations="disabled")
                context.close()


def test_the_terminal(lived: tuple[Site, Client]) -> None:
    site, _ = lived
    fleet = site.fleet()
    with closing(Looks(fleet, list(fleet.spec.nodes))) as looks:
        screen = looks.look()
    assert {row.node for row in screen.rows} == {NODE, HELD, ASLEEP}
    console = Console(record=True, width=150, file=io.StringIO(), force_terminal=True)
    console.print(picture(screen))
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1300, "height": 700})
        page.set_content(console.export_svg(title="provisioner status --watch"))
        FOLDER.mkdir(parents=True, exist_ok=True)
        page.locator("svg.rich-terminal").screenshot(path=str(FOLDER / "status-watch.png"))
