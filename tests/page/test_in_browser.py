"""The pages in a real browser: fresh, asked before acts, readable for all, and with 200 nodes; bench says how quick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import PaintedSite, browser, log_in, painted_site, why_not
from tests.page.painted import SECRETS

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaintedSite]:
    with painted_site(tmp_path_factory.mktemp("painted"), 6) as running:
        yield running


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1360, "height": 900})
    opened = context.new_page()
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    opened.set_default_timeout(20_000)
    yield opened
    context.close()
    # 401 is what the door answers, and a browser calls that an error.
    assert [each for each in troubles if "401" not in each] == []


def test_a_change_is_seen_without_a_reload(site: PaintedSite, page: Any) -> None:
    # How soon is a matter for `make bench`: page.update_after_event.
    log_in(page, site.url)
    page.wait_for_selector("#link-state:not([hidden])")
    site.change("be", "llm-gpu-03", "booting", "nothing answers yet")
    page.wait_for_selector('#node-llm-gpu-03[data-phase="booting"]')
    row = page.locator("#node-llm-gpu-03")
    assert "booting" in row.text_content()
    assert "nothing answers yet" in row.text_content()
    assert "booting" in page.locator("#events").inner_text()


def test_focus_and_an_open_menu_outlive_a_change_of_their_row(site: PaintedSite, page: Any) -> None:
    log_in(page, site.url)
    menu = page.locator("#node-llm-gpu-06 details.menu summary")
    menu.focus()
    page.keyboard.press("Enter")
    site.change("be", "llm-gpu-06", "ready", "its model has answered")
    page.wait_for_selector('#node-llm-gpu-06[data-phase="ready"]')
    assert page.locator("#node-llm-gpu-06 details.menu").get_attribute("open") is not None
    assert page.evaluate("() => document.activeElement.closest('[data-node]').dataset.node") == "llm-gpu-06"
    page.keyboard.press("Escape")
    assert page.locator("#node-llm-gpu-06 details.menu").get_attribute("open") is None


def test_sleep_is_asked_about_first_and_can_be_left_by_keyboard(site: PaintedSite, page: Any) -> None:
    log_in(page, site.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page.locator('#node-llm-gpu-01 a[data-act="sleep"]').first.focus()
    page.keyboard.press("Enter")
    assert "Put llm-gpu-01 to sleep?" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    assert asked == []
    page.locator('#node-llm-gpu-01 a[data-act="sleep"]').first.click()
    page.get_by_role("button", name="Put to sleep").click()
    page.wait_for_selector(".toast.good")
    assert [each.removeprefix(site.url) for each in asked] == ["/api/nodes/llm-gpu-01/sleep"]


def test_a_mode_is_chosen_from_the_nodes_own(site: PaintedSite, page: Any) -> None:
    log_in(page, site.url)
    page.locator("#node-llm-gpu-03 details.menu summary").click()
    page.get_by_role("link", name="Mode…").locator("visible=true").click()
    assert page.locator("dialog select[name=mode] option").all_inner_texts() == ["ml", "small"]
    page.locator("dialog select[name=mode]").select_option("small")
    with page.expect_request("**/api/nodes/llm-gpu-03/mode") as request:
        page.get_by_role("button", name="Switch", exact=True).click()
    assert request.value.post_data_json == {"wait": False, "mode": "small"}


def test_who_may_only_read_finds_no_button(site: PaintedSite, page: Any) -> None:
    log_in(page, site.url, SECRETS["reader"])
    assert page.locator("#rows button, #rows details, dialog").count() == 0
    page.wait_for_selector("#link-state:not([hidden])")


def test_without_scripts_a_table_remains(site: PaintedSite, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    still = context.new_page()
    log_in(still, site.url)
    assert still.get_by_role("row").count() == 7
    assert "its model has answered" in still.get_by_role("table").inner_text()
    still.get_by_role("link", name="Put llm-gpu-01 to sleep").click()
    still.get_by_role("checkbox", name="Put llm-gpu-01 to sleep").check()
    still.get_by_role("button", name="Sleep").click()
    assert "Begun." in still.get_by_role("main").inner_text()
    context.close()


def test_on_a_phone_nothing_sticks_out(site: PaintedSite, chromium: Any) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = context.new_page()
    log_in(page, site.url)
    for path in ("/", "/events", "/nodes/llm-gpu-01"):
        page.goto(site.url + path)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    context.close()


def test_colours_are_chosen_and_kept(site: PaintedSite, page: Any) -> None:
    log_in(page, site.url)
    page.get_by_role("button", name="Switch between light and dark").click()
    page.reload()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"


def test_a_service_that_goes_away_is_said_to_be_away(tmp_path: Path, chromium: Any) -> None:
    context = chromium.new_context()
    page = context.new_page()
    with painted_site(tmp_path, 2) as site:
        log_in(page, site.url)
        page.wait_for_selector("#link-state:not(.away):not([hidden])")
    page.wait_for_selector("#link-state.away")
    assert page.locator("#link-state").inner_text() == "the service does not answer"
    context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1360), ("dark", 390)])
def test_everybody_can_use_it(site: PaintedSite, chromium: Any, scheme: str, width: int) -> None:
    """No rule of axe-core is broken."""
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(site.url)
    found = {"the door": axe.run(page).response["violations"]}
    log_in(page, site.url)
    page.wait_for_selector("#link-state:not([hidden])")
    found["the fleet"] = axe.run(page).response["violations"]
    page.locator('#node-llm-gpu-01 [data-act="hold"]').dispatch_event("click")
    page.wait_for_selector("dialog[open]")
    found["the dialog"] = axe.run(page, "dialog").response["violations"]
    for path in ("/nodes/llm-gpu-01", "/events"):
        page.goto(site.url + path)
        found[path] = axe.run(page).response["violations"]
    context.close()
    told = {
        f"{where}: {each['id']}: {each['nodes'][0]['html'][:200]}: {each['nodes'][0]['failureSummary']}"
        for where, each_found in found.items()
        for each in each_found
    }
    assert not told, "\n".join(sorted(told))


def test_two_hundred_nodes_that_change_at_once_are_all_shown(tmp_path: Path, chromium: Any) -> None:
    with painted_site(tmp_path, 200) as site:
        context = chromium.new_context(viewport={"width": 1360, "height": 900})
        page = context.new_page()
        log_in(page, site.url)
        page.wait_for_selector("#link-state:not([hidden])")
        assert page.locator("#rows > [role=row]").count() == 200
        site.change("all", "booting")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#rows > [role=row]')].every((row) => row.dataset.phase === 'booting')"
        )
        context.close()
