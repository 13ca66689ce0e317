"""The pages without a browser: what they show, whom they let in, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from provisioner.domain.callers import Callers
from provisioner.domain.events import Kind
from provisioner.domain.serving import Phase
from tests.page.painted import HOST, ORIGIN, SECRETS, Painted, paint_a_day

NODE = "llm-gpu-01"


@pytest.fixture
def site(tmp_path: Path) -> Painted:
    return Painted(tmp_path)


def test_without_a_token_there_is_a_door_and_nothing_behind_it(site: Painted) -> None:
    for path in ("/", "/events", f"/nodes/{NODE}", "/page/live", "/page/rows?node=llm-gpu-01", "/page/charts"):
        answer = site.get(path)
        assert (answer.status, NODE in answer.text) == (401, False)
    assert '<input type="password"' in site.get("/").text


def test_a_token_opens_the_door_and_never_stands_in_the_cookie(site: Painted) -> None:
    answer = site.post("/login", {"token": SECRETS["reader"]})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    flags = answer.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert SECRETS["reader"] not in flags
    page = site.get("/", answer.cookie)
    assert (page.status, page.headers["cache-control"]) == (200, "no-store")
    for name in site.names:
        assert name in page.text


@pytest.mark.parametrize("token", ["", "nobody-0123456789abcdef", SECRETS["admin"][:-1], "\x00", "ÿ" * 40])
def test_a_wrong_token_opens_nothing(site: Painted, token: str) -> None:
    answer = site.post("/login", {"token": token})
    assert (answer.status, "set-cookie" in answer.headers) == (401, False)


def test_a_pass_that_was_changed_or_is_over_opens_nothing(site: Painted) -> None:
    cookie = site.log_in("admin")
    name, _, value = cookie.partition("=")
    until, _, signature = value.partition(".")
    for forged in (
        f"{int(until) + 1}.{signature}",
        f"{until}.{signature[:-1]}0",
        f"{until}.",
        "x.y",
        ".",
        "²." + signature,
    ):
        assert site.get("/", f"{name}={forged}").status == 401
    assert site.get("/", cookie).status == 200
    site.clock.advance(8 * 86400)
    assert site.get("/", cookie).status == 401


def test_cookies_of_other_programs_do_not_hide_ours(site: Painted) -> None:
    cookie = site.log_in("reader")
    assert site.get("/", f'other={{"a": [1, "]}}; {cookie}; =; ;;').status == 200


def test_who_may_only_read_is_offered_nothing_else_and_gets_nothing_else(site: Painted) -> None:
    cookie = site.log_in("reader")
    page = site.get("/", cookie).text + site.get(f"/nodes/{NODE}", cookie).text
    for offer in ('data-act="wake"', 'data-act="sleep"', 'name="act"', 'id="tester"', "<dialog"):
        assert offer not in page
    for act in ("wake", "sleep", "mode", "hold", "release"):
        form = {"act": act, "mode": "small", "duration": "2h"}
        assert site.post(f"/nodes/{NODE}", form, cookie).status == 403
    assert (site.acts.done, site.waker.asked) == ([], [])


def test_a_waker_may_not_force_or_change_modes(site: Painted) -> None:
    cookie = site.log_in("waker")
    assert site.post(f"/nodes/{NODE}", {"act": "mode", "mode": "small"}, cookie).status == 403
    assert site.post(f"/nodes/{NODE}", {"act": "sleep", "force": "yes"}, cookie).status == 403
    assert site.post(f"/nodes/{NODE}", {"act": "sleep"}, cookie).status == 303
    assert site.acts.done == [("sleep", NODE, False)]
    assert 'name="force"' not in site.get("/", cookie).text


def test_a_token_that_may_not_read_sees_nothing(site: Painted) -> None:
    answer = site.get("/", site.log_in("router"))
    assert (answer.status, NODE in answer.text) == (403, False)


def test_forms_work_without_a_script(site: Painted) -> None:
    cookie = site.log_in("admin")
    for form in (
        {"act": "wake"},
        {"act": "sleep", "force": "yes"},
        {"act": "mode", "mode": "small"},
        {"act": "hold", "duration": "90m", "why": "chess"},
        {"act": "release"},
    ):
        answer = site.post(f"/nodes/{NODE}", form, cookie)
        assert (answer.status, answer.headers["location"]) == (303, f"/nodes/{NODE}?done={form['act']}")
    assert site.waker.asked == [NODE]
    assert site.acts.done == [
        ("sleep", NODE, True),
        ("mode", NODE, "small", False),
        ("hold", NODE, "admin", 5400.0, "chess"),
        ("release", NODE, "admin"),
    ]


def test_what_is_refused_is_said_with_its_reason_and_escaped(site: Painted) -> None:
    site.acts.refuses = "cannot hold it: <script>alert(1)</script>"
    answer = site.post(f"/nodes/{NODE}", {"act": "hold", "duration": "2h"}, site.log_in("admin"))
    assert answer.status == 409
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "&lt;b&gt;force" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        # Another port of this machine is the same site to a browser, which sends it the cookie.
        {"origin": "http://fleet.example:9999"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://["},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_a_form_on_somebody_elses_page_does_nothing(site: Painted, headers: dict[str, str]) -> None:
    cookie = site.log_in("admin")
    answer = site.post(f"/nodes/{NODE}", {"act": "wake"}, cookie, **headers)
    assert answer.status in (401, 403)
    api = site.ask(
        "POST",
        f"/api/nodes/{NODE}/wake",
        b"{}",
        cookie=cookie,
        **({"content_type": "application/json", "origin": ORIGIN} | headers),
    )
    assert api.status == 401
    assert site.waker.asked == []


def test_where_no_token_is_needed_foreign_forms_do_nothing_either(tmp_path: Path) -> None:
    site = Painted(tmp_path, callers=Callers())
    assert site.get("/").status == 200
    assert "Log out" not in site.get("/").text
    assert site.post(f"/nodes/{NODE}", {"act": "wake"}, origin="http://evil.example").status == 403
    assert site.post(f"/nodes/{NODE}", {"act": "wake"}).status == 303
    assert site.waker.asked == [NODE]


def test_the_cookie_opens_the_api_and_the_gateway_for_what_our_own_pages_ask(site: Painted) -> None:
    cookie = site.log_in("admin")
    assert site.get("/api/nodes", cookie).status == 200
    assert site.get("/api/nodes", cookie, sec_fetch_site="same-site").status == 401
    own = {"origin": ORIGIN, "sec_fetch_site": "same-origin"}
    site.ask("POST", "/v1/chat/completions", b"{}", cookie=cookie, **own)
    site.get("/v1/models", cookie)
    site.ask("POST", "/v1/chat/completions", b"{}", cookie=cookie, authorization="Bearer no", **own)
    assert [getattr(each, "name", None) for each in site.seen_by_gateway] == ["admin", None, None]


def test_nothing_that_events_or_names_hold_becomes_a_part_of_a_page(site: Painted) -> None:
    evil = "</script><img src=x onerror=alert(1)>\"'--><svg onload=alert(2)>\u2028{{ 7*7 }}\ud800"
    site.be(NODE, Phase.UNKNOWN, evil)
    site.tell(Kind.WAKE, NODE, "failed", evil, by=evil)
    cookie = site.log_in("admin")
    rows = json.loads(site.get(f"/page/rows?node={NODE}", cookie).text)[NODE]
    live = json.loads(site.get("/page/live", cookie).text)["events"]
    for text in (site.get("/", cookie).text, site.get(f"/nodes/{NODE}", cookie).text, rows, live):
        assert "<img" not in text
        assert "onload=alert(2)&gt;" in text
        assert "49" not in re.findall(r"\{\{ 7\*7 \}\}|49(?=\?)", text)
    answer = site.get(f"/events?q={'%3Cimg+src%3Dx%3E'}&kind=%3Cb%3E&node=%3Cb%3E", cookie)
    assert (answer.status, "<img" in answer.text, "<b>" in answer.text.split("<main")[1].split("<ol")[0]) == (
        200,
        False,
        False,
    )


def test_pages_run_no_script_but_our_file(site: Painted) -> None:
    cookie = site.log_in("admin")
    for path in ("/", "/events", f"/nodes/{NODE}"):
        answer = site.get(path, cookie)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert re.findall(r"<script(?![^>]* src=\"/assets/)", answer.text) == []
        assert re.findall(r"\son\w+=|\sstyle=|<style|javascript:", answer.text) == []


def test_assets_are_kept_for_ever_under_names_that_change_with_them(site: Painted) -> None:
    page = site.get("/").text
    paths = re.findall(r'"(/assets/[^"]+)"', page)
    assert len(paths) == 4
    for path in paths:
        answer = site.get(path)
        assert "immutable" in answer.headers["cache-control"]
        again = site.get(path, if_none_match=answer.headers["etag"])
        assert (again.status, again.text) == (304, "")
    assert site.get("/assets/page-000000000000.css").status == 404
    assert site.get("/assets/..%2fapp.py").status == 404


def test_a_row_is_another_when_what_it_shows_is_and_only_then(site: Painted) -> None:
    cookie = site.log_in("reader")

    def versions() -> dict[str, str]:
        return dict(json.loads(site.get("/page/live", cookie).text)["versions"])

    before = versions()
    site.clock.advance(30)
    assert versions() == before
    site.be(NODE, Phase.QUEUED, "it is being woken", left=30.0)
    site.traffic.enter(site.names[1], 1.0)
    changed = {name for name, version in versions().items() if before[name] != version}
    assert changed == {NODE, site.names[1]}


def test_events_are_sent_again_only_when_there_are_new_ones(site: Painted) -> None:
    cookie = site.log_in("reader")
    site.tell(Kind.WAKE, NODE, "done")
    first = json.loads(site.get("/page/live?after=0", cookie).text)
    assert "events" in first
    assert "events" not in json.loads(site.get(f"/page/live?after={first['last']}", cookie).text)


def test_ten_thousand_events_are_shown_a_hundred_at_a_time_and_searched(site: Painted) -> None:
    for number in range(10_000):
        site.tell(Kind.STEP, site.names[number % 3], "done", f"step no. {number}", ago=10_000.0 - number)
    cookie = site.log_in("reader")
    page = site.get("/events", cookie)
    assert page.text.count('class="event"') == 100
    assert "step no. 9999" in page.text
    older = re.search(r'href="(/events\?before=\d+)"', page.text)
    assert older is not None
    assert "step no. 9899" in site.get(older[1].replace("&amp;", "&"), cookie).text
    assert site.get("/events?q=no.+4242", cookie).text.count('class="event"') == 1
    assert site.get("/", cookie).text.count('class="event"') == 12
    for odd in ("before=x", "before=99999999999999999999", "q=" + "a+" * 500, "kind=nothing", "node=nobody"):
        assert site.get(f"/events?{odd}", cookie).status == 200


def test_nodes_are_found_without_a_script(site: Painted) -> None:
    cookie = site.log_in("reader")
    page = site.get("/?q=GPU-02+asleep", cookie).text
    assert ("node-llm-gpu-02" in page, "node-llm-gpu-01" in page) == (True, False)


def test_a_day_is_told_in_words_to_who_does_not_see_it(tmp_path: Path) -> None:
    site = Painted(tmp_path, nodes=5)
    paint_a_day(site)
    page = site.get("/", site.log_in("reader")).text
    assert len(re.findall(r'aria-label="Last day: [^"]*(asleep|awake)', page)) == 5
    assert "1 failed" in page
    assert "18.4 of 24 GiB" in page
    assert "held by anna for 1 h 50 min: a model is being tried" in page


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nodes/nobody", 404),
        ("GET", "/nodes/llm-gpu-01/more", 404),
        ("GET", "/page/nothing", 404),
        ("GET", "/page/charts?node=nobody", 404),
        ("GET", "/page/charts?reach=for-ever", 200),
        ("GET", "/page/rows?node=nobody", 200),
        ("PUT", "/", 405),
        ("GET", "/login", 405),
        ("HEAD", "/", 200),
    ],
)
def test_what_is_not_there_is_said_on_a_page(site: Painted, method: str, path: str, status: int) -> None:
    assert site.ask(method, path, cookie=site.log_in("reader")).status == status


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"a" * 20_000, "application/x-www-form-urlencoded"),
        (b"act=wake", "text/plain"),
        (b"act=wake", "multipart/form-data; boundary=x"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"&".join([b"a=1"] * 50), "application/x-www-form-urlencoded"),
        (b"act=fly", "application/x-www-form-urlencoded"),
        (b"act=hold&duration=400d", "application/x-www-form-urlencoded"),
    ],
)
def test_what_is_no_form_of_ours_is_refused(site: Painted, body: bytes, kind: str) -> None:
    answer = site.ask("POST", f"/nodes/{NODE}", body, cookie=site.log_in("admin"), content_type=kind, origin=ORIGIN)
    assert answer.status == 400
    assert site.acts.done == []


def test_who_logs_out_keeps_nothing(site: Painted) -> None:
    answer = site.post("/logout", {}, site.log_in("admin"))
    assert (answer.status, 'provisioner=""' in answer.headers["set-cookie"]) == (303, True)


def test_a_token_in_the_header_is_as_good_as_a_cookie(site: Painted) -> None:
    assert site.get("/", authorization=f"Bearer {SECRETS['reader']}").status == 200
    assert HOST
