"""The fleet page of a real service, in a real browser: what a person does there, on the embedded Proxmox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import RunningService, running_service
from tests.lab.support import NODE, Site, site_for
from tests.page.browser import browser, log_in, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

TOKEN = "admin-0123456789abcdef"
ANSWER = "a small light woke in the rack and said that it was ready to think about"


@pytest.fixture(scope="module")
def asleep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab whose first node exists, sleeps, and takes a while to wake."""
    folder = tmp_path_factory.mktemp("page")
    with served_folder(folder) as images, RunningLab(folder / "lab", boot_seconds=1, engine_seconds=1) as lab:
        site = site_for(lab, folder, images, nodes=2)
        service = "service: {look_every: 1s, tokens: {admin: {secret: env:T_ADMIN, may: [admin]}}}\n"
        fleet = site.fleet(lambda text: text + service)
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        yield site


@pytest.fixture(scope="module")
def service(asleep: Site) -> Iterator[RunningService]:
    with running_service(asleep, environment={"T_ADMIN": TOKEN}, token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def page(service: RunningService, chromium: Any) -> Iterator[Any]:
    service.client.post(f"/api/nodes/{NODE}/release")
    service.client.post(f"/api/nodes/{NODE}/sleep", {"force": True})
    context = chromium.new_context(viewport={"width": 1360, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    log_in(opened, service.client.url, TOKEN)
    opened.wait_for_selector(f'#node-{NODE}[data-phase="asleep"]')
    yield opened
    context.close()


def put_to_sleep(page: Any) -> None:
    page.locator(f'#node-{NODE} a[data-act="sleep"]').first.click()
    page.get_by_role("button", name="Put to sleep").click()
    page.wait_for_selector(f'#node-{NODE}[data-phase="asleep"]')


def test_a_node_is_woken_by_a_click_and_its_progress_is_seen_until_it_answers(
    page: Any, service: RunningService
) -> None:
    page.evaluate(
        """(id) => {
            window.phases = [];
            new MutationObserver(() => {
                const phase = document.getElementById(id).dataset.phase;
                if (window.phases.at(-1) !== phase) window.phases.push(phase);
            }).observe(document.getElementById("rows"), {childList: true});
            window.told = [];
            new MutationObserver((found) => found.forEach((each) => each.addedNodes.forEach(
                (toast) => window.told.push(toast.textContent)
            ))).observe(document.getElementById("toasts"), {childList: true});
        }""",
        f"node-{NODE}",
    )
    page.get_by_role("button", name=f"Wake {NODE}").click()
    page.wait_for_selector(f'#node-{NODE}[data-phase="ready"]')
    page.wait_for_function("() => window.told.length > 0")
    assert page.evaluate("() => window.told")[0].startswith(f"{NODE}: awake")
    phases = page.evaluate("() => window.phases")
    assert {"queued", "starting", "booting", "loading"} & set(phases)
    assert phases[-1] == "ready"
    assert service.client.get(f"/api/nodes/{NODE}").value["phase"] == "ready"
    why = page.locator(f"#node-{NODE}").text_content()
    assert "its model has answered" in why or "llama.cpp is healthy" in why, "the second is a later look"
    assert f"{NODE} done" in page.locator("#events").inner_text()
    put_to_sleep(page)
    page.goto(f"{service.client.url}/events?q=asked+admin&kind=wake&node={NODE}")
    assert f"{NODE} asked by admin" in page.locator(".events").inner_text()


def test_a_question_wakes_a_node_and_its_answer_is_seen(page: Any, service: RunningService) -> None:
    page.get_by_label("Question").fill("Say hello.")
    page.get_by_role("button", name="Send").click()
    page.wait_for_function(f"() => document.getElementById('answer-state').textContent.includes('{NODE} is ')")
    page.wait_for_function(f"() => document.getElementById('answer-state').textContent.startsWith('{NODE} answered')")
    assert page.locator("#answer-text").inner_text().startswith(ANSWER)
    assert "first word after" in page.locator("#answer-state").inner_text()
    put_to_sleep(page)


def test_what_is_refused_is_told_with_its_reason(page: Any, service: RunningService) -> None:
    page.get_by_role("button", name=f"Wake {NODE}").click()
    page.wait_for_selector(f'#node-{NODE}[data-phase="ready"]')
    page.locator(f"#node-{NODE} details.menu summary").click()
    page.get_by_role("link", name="Hold…").locator("visible=true").click()
    page.get_by_label("Why").fill("<b>chess</b>")
    page.get_by_role("button", name="Hold").click()
    page.wait_for_selector(f"#node-{NODE} .held")
    assert "held by admin for 2 h: <b>chess</b>" in page.locator(f"#node-{NODE} .held").text_content()
    page.locator(f'#node-{NODE} a[data-act="sleep"]').first.click()
    page.get_by_role("button", name="Put to sleep").click()
    page.wait_for_selector(".toast.bad")
    assert "held by admin" in page.locator(".toast.bad").inner_text()
    page.locator(f"#node-{NODE} details.menu summary").click()
    page.get_by_role("link", name="Release…").locator("visible=true").click()
    page.get_by_role("button", name="Release").click()
    page.wait_for_selector(f"#node-{NODE}:not(:has(.held))")
    put_to_sleep(page)


def test_a_node_that_is_gone_from_proxmox_says_so(page: Any, service: RunningService) -> None:
    row = page.locator("#node-llm-gpu-02")
    assert "absent" in row.text_content()
    assert "no VM yet: provisioner up llm-gpu-02" in row.text_content()
    assert row.get_by_role("button").count() == 0
