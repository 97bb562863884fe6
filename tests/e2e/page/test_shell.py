"""Features of all views: live figures, reconnecting, tokens, prefixes, names, keys."""

from __future__ import annotations

import http.client
import http.server
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.agents import Agent, new_agent, running_agent, until
from tests.e2e.page.conftest import check_accessibility, overflow, start_demo_desk
from tests.e2e.test_completeness import LOSE

Open = Callable[[str], Page]

HOSTILE = "<img src=x onerror=document.title='owned'>\"'&{{7*7}}"
VIEWS = ("overview", "graph", "node", "runs", "models", "alerts", "processes")
# Addresses under which each view shows something of the support desk.
PLACES = {
    "graph": "&graph=SupportDesk",
    "node": "&service=support-desk&graph=SupportDesk&node=Draft",
}
PHONE = {"width": 360, "height": 740}


# -- views that load and update --------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_loads_and_is_accessible(
    demo_desk: Agent, open_page: Open, view: str
) -> None:
    page = open_view(demo_desk, open_page, view)
    check_accessibility(page)
    # A scheme changes nothing but colors, and the size of the window none of them.
    page.emulate_media(color_scheme="dark")
    check_accessibility(page, colors=True)
    page.set_viewport_size(PHONE)
    until(lambda: overflow(page) <= 0, "nothing is wider than a phone")
    check_accessibility(page, colors=False)


def open_view(agent: Agent, open_page: Open, view: str, more: str = "") -> Page:
    page = open_page(f"{agent.url}/?view={view}{PLACES.get(view, '')}{more}")
    expect(page.get_by_role("status").filter(has_text=STATES)).to_be_visible()
    expect(page.locator("main h1")).to_be_attached()
    expect(page.locator("main .skeleton")).to_have_count(0)
    return page


STATES = re.compile("Live|Paused")


def test_the_overview_shows_what_the_agent_counts(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/?window=1h")
    row = page.get_by_role("row").filter(has_text="SupportDesk")
    expect(row).to_be_visible()

    def shown() -> int:
        title = row.get_by_role("cell").nth(1).get_attribute("title") or "0"
        return int(re.sub(r"\D.*", "", title.replace(",", "")))

    before = shown()
    assert before > 0
    until(lambda: shown() > before, "the figures go on")
    # The page shows a moment between two requests.
    first = count_requests(demo_desk)
    until(lambda: shown() >= first, "the page catches up")
    assert shown() <= count_requests(demo_desk)


def count_requests(agent: Agent) -> int:
    stats = agent.get("/api/v1/graphs/SupportDesk/stats", window="1h")
    count: int = stats["total_executions"]
    return count


def test_a_problem_leads_to_its_alert(demo_desk: Agent, open_page: Open) -> None:
    page = open_page(f"{demo_desk.url}/")
    problems = page.get_by_role("region", name="problem")
    draft = problems.get_by_role("listitem").filter(has_text="Draft")
    alert = draft.get_by_role("link", name="Draft-is-slow")
    expect(alert).to_be_visible()
    expect(page.get_by_label(re.compile(r"^\d+ firing"))).to_be_visible()
    alert.click()
    expect(page).to_have_url(re.compile(r"view=alerts.*alert=|alert=.*view=alerts"))


def test_an_update_of_the_graph_leaves_nothing_in_memory(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/?graph=SupportDesk")
    drawing = page.locator(".canvas")
    for _ in range(3):
        await_change(drawing)
    alive, drawn = count_elements(page)
    assert drawn > 100
    # A tree of before an update would double the number.
    assert alive < 1.5 * drawn


def await_change(part: Locator) -> None:
    before = part.inner_html()
    until(lambda: part.inner_html() != before, "it is updated")


# Elements as Preact keeps them: `__k` has their children, `__b` their depth.
COUNT_ELEMENTS = """function () {
  const count = (each) => each ? 1 + (each.__k ?? []).reduce(addCount, 0) : 0;
  const addCount = (sum, each) => sum + count(each);
  const isElement = (each) => Object.hasOwn(each, "__k") && Object.hasOwn(each, "__b");
  return [this.filter(isElement).length, count(document.querySelector("#page").__k)];
}"""


def count_elements(page: Page) -> tuple[int, int]:
    """Return how many elements are in memory, and how many of them are rendered."""
    session = page.context.new_cdp_session(page)
    prototype = session.send("Runtime.evaluate", {"expression": "Object.prototype"})
    # It collects garbage before it lists the remaining objects.
    objects = session.send(
        "Runtime.queryObjects",
        {"prototypeObjectId": prototype["result"]["objectId"]},
    )
    counts = session.send(
        "Runtime.callFunctionOn",
        {
            "objectId": objects["objects"]["objectId"],
            "functionDeclaration": COUNT_ELEMENTS,
            "returnByValue": True,
        },
    )
    session.detach()
    alive, drawn = counts["result"]["value"]
    return alive, drawn


def test_processes_are_listed_with_their_losses(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/?view=processes")
    (client,) = demo_desk.clients()
    row = page.get_by_role("row").filter(has_text=str(client["pid"]))
    expect(row).to_contain_text("support-desk")
    expect(row).to_contain_text("connected")
    expect(row).to_contain_text("100 %")


# -- time ranges -----------------------------------------------------------------------


def test_a_time_range_is_in_the_address_and_survives_a_reload(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/")
    page.get_by_role("combobox", name="Time range").select_option("6h")
    expect(page).to_have_url(re.compile("window=6h"))
    expect(page.get_by_role("row").filter(has_text="SupportDesk")).to_be_visible()

    page.get_by_role("button", name="Pause").click()
    expect(page).to_have_url(re.compile(r"end=\d+"))
    expect(page.get_by_role("status").filter(has_text="Paused")).to_be_visible()
    page.reload()
    expect(page.get_by_role("combobox", name="Time range")).to_have_value("6h")
    expect(page.get_by_role("status").filter(has_text="Paused")).to_be_visible()
    page.get_by_role("button", name="Now").click()
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("status").filter(has_text="Paused")).to_be_visible()


# -- keyboard --------------------------------------------------------------------------


def test_the_keyboard_reaches_everything(demo_desk: Agent, open_page: Open) -> None:
    page = open_page(f"{demo_desk.url}/")
    expect(page.get_by_role("row").filter(has_text="SupportDesk")).to_be_visible()

    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()

    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)

    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)

    # Nothing is lost of what is typed at once.
    page.keyboard.type("/draft")
    search = page.get_by_role("combobox", name=re.compile("Search"))
    expect(search).to_have_value("draft")
    expect(page.get_by_role("dialog").get_by_role("option").first).to_contain_text(
        "Draft"
    )
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("node=Draft"))

    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="support-desk")).to_be_visible()
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile("window=15m"))


def test_the_search_finds_what_the_stream_does_not_have(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/")
    (client,) = demo_desk.clients()
    for text, kind, address in (
        ("masked_failures", "Rule", "view=alerts.*rule=masked_failures"),
        (str(client["pid"]), "Process", "view=processes"),
    ):
        expect(page.locator("main h1")).to_be_attached()
        page.keyboard.press("/")
        page.keyboard.type(text)
        options = page.get_by_role("dialog").get_by_role("option")
        options.filter(has_text=re.compile(f"{kind} {text}")).click()
        expect(page).to_have_url(re.compile(address))


# Notes which of the elements that take the focus get it.
WATCH_FOCUS = """() => {
  window.targets = [...document.querySelectorAll(
    "a[href], button, input, select, textarea, [tabindex='0']")];
  window.focused = new Set();
  document.addEventListener("focusin", ({target}) => window.focused.add(target));
}"""
# Runs in progress come and go, also while the page is paused.
MISSED = """() => window.targets
  .filter((each) => each.isConnected && each.tabIndex >= 0 && !each.disabled)
  .filter((each) => each.checkVisibility())
  .filter((each) => !window.focused.has(each))
  .map((each) => each.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("view", VIEWS)
def test_tab_reaches_everything_in_every_view(
    demo_desk: Agent, open_page: Open, view: str
) -> None:
    # Paused, so that no update replaces an element.
    page = open_view(demo_desk, open_page, view, f"&end={int(time.time())}")
    page.evaluate(WATCH_FOCUS)
    missed: list[str] = page.evaluate(MISSED)
    assert len(missed) > 5
    for _ in range(3 * len(missed)):
        page.keyboard.press("Tab")
        # After the last element, or when the focused one was replaced: then the next
        # Tab continues from its place.
        if page.evaluate("document.activeElement === document.body"):
            missed = page.evaluate(MISSED)
            if not missed:
                break
    assert page.evaluate(MISSED) == []


def test_digits_open_the_views(demo_desk: Agent, open_page: Open) -> None:
    page = open_view(demo_desk, open_page, "overview")
    for number, view in reversed([*enumerate(VIEWS, 1)]):
        page.keyboard.press(str(number))
        pattern = rf"view={view}\b" if view != "overview" else "^[^?]*$|view=overview"
        expect(page).to_have_url(re.compile(pattern))
        expect(page.locator("main h1")).to_be_attached()


def test_j_and_k_move_between_the_rows_of_a_table(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/")
    table = page.get_by_role("table", name="Services and graphs")
    first = table.get_by_role("link", name="DailyDigest", exact=True)
    first.focus()
    page.keyboard.press("j")
    expect(table.get_by_role("link", name="SupportDesk", exact=True)).to_be_focused()
    page.keyboard.press("k")
    expect(first).to_be_focused()


def test_rows_off_screen_are_updated_again_and_again(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/")
    page.set_viewport_size({"width": 800, "height": 240})
    table = page.get_by_role("table", name="Services and graphs")
    row = table.get_by_role("row").filter(has_text="SupportDesk")
    expect(row).not_to_be_in_viewport()
    # One update is not enough: the next needs a timer of its own.
    for _ in range(3):
        before = row.text_content() or ""
        expect(row).not_to_have_text(before)
    expect(row).not_to_be_in_viewport()


def test_a_rule_of_hidden_failures_has_a_chart(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/?view=alerts&rule=masked_failures")
    trial = page.get_by_role("region", name="Try another threshold")
    expect(trial).to_contain_text("masked_rate, threshold > 0.2")
    expect(trial.locator("canvas")).to_be_visible()


# -- deep links ------------------------------------------------------------------------


def test_the_links_of_earlier_notifications_still_open(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/?graph=SupportDesk")
    expect(page.locator("main")).to_contain_text("Draft")


# -- several tabs ----------------------------------------------------------------------


# A browser has six connections to a host: with a stream each, no seventh tab loads.
@pytest.mark.parametrize("count", [7, pytest.param(11, marks=pytest.mark.long)])
def test_many_tabs_share_one_stream(
    demo_desk: Agent, open_page: Open, count: int
) -> None:
    first = open_page(f"{demo_desk.url}/")
    tabs = [first, *(open_page(f"{demo_desk.url}/") for _ in range(count - 1))]
    for tab in tabs:
        expect(tab.get_by_role("row").filter(has_text="SupportDesk")).to_be_visible()
    assert streams(demo_desk) == 1
    shown = [tab.locator("main").inner_text() for tab in tabs]
    for tab, before in zip(tabs, shown, strict=True):
        expect(tab.locator("main")).not_to_have_text(before, use_inner_text=True)

    # The next tab takes over from the one that is closed.
    first.close()
    expect(tabs[5].get_by_role("status").filter(has_text="Live")).to_be_visible()
    until(lambda: streams(demo_desk) == 1, "another tab reads the stream")


def streams(agent: Agent) -> int:
    connection = agent.connection()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    match = re.search(r"^kaywatch_stream_clients (\d+)", text, re.MULTILINE)
    assert match is not None
    return int(match[1])


# -- reconnecting ----------------------------------------------------------------------


def test_a_killed_agent_is_reported_and_found_again(
    open_page: Open, expected_complaints: list[str], tmp_path: Path
) -> None:
    expected_complaints += ["ERR_", "Failed to load"]
    with running_agent() as agent:
        start_demo_desk(agent, tmp_path)
        page = open_page(f"{agent.url}/")
        row = page.get_by_role("row").filter(has_text="SupportDesk")
        expect(row).to_be_visible()
        agent.stop(signal.SIGKILL)
        expect(
            page.get_by_role("alert").filter(has_text="Disconnected")
        ).to_contain_text("Disconnected for")
        expect(
            page.get_by_role("alert").filter(has_text="Disconnected")
        ).to_contain_text("figures are those of")
        # The last figures stay.
        expect(row).to_be_visible()
        agent.start("--http", urlsplit(agent.url).netloc)
        expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
        expect(page.get_by_text("Disconnected for")).to_have_count(0)


def test_a_page_without_updates_is_stale(open_page: Open) -> None:
    # More than 3 s, because a page is stale after 4 s without an update.
    with running_agent() as agent:
        page = open_page(f"{agent.url}/")
        expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
        assert agent.process is not None
        agent.process.send_signal(signal.SIGSTOP)
        try:
            expect(page.locator(".notice")).to_contain_text("Stale: no update for")
            expect(page.get_by_role("status").filter(has_text="Stale")).to_be_visible()
        finally:
            agent.process.send_signal(signal.SIGCONT)
        expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
        expect(page.locator(".notice")).to_have_count(0)


def test_lost_events_are_reported_with_their_process(open_page: Open) -> None:
    with new_agent() as agent:
        child = agent.spawn(LOSE)
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "full\n"
        agent.start()
        page = open_page(f"{agent.url}/")
        child.stdin.write("\n")
        child.stdin.flush()
        notice = page.locator(".notice", has_text="Incomplete")
        expect(notice).to_contain_text("were lost")
        notice.get_by_role("link").click()
        expect(page.get_by_role("row").filter(has_text="lossy")).to_be_visible()


# -- kaywatch open ---------------------------------------------------------------------


def test_kaywatch_open_starts_the_browser_at_a_node(
    demo_desk: Agent, open_page: Open, tmp_path: Path
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/address\n')
    browser.chmod(0o755)
    demo_desk.variables["BROWSER"] = f"{browser} %s"
    printed = demo_desk.command("open", "--graph", "SupportDesk", "--node", "Draft")
    address = (tmp_path / "address").read_text().strip()
    assert address in printed
    page = open_page(address)
    expect(page.get_by_role("heading", level=1)).to_have_text("Draft")
    expect(page.locator(".failures li").first).to_contain_text("exec")


# -- tokens ----------------------------------------------------------------------------


def test_a_token_is_asked_for_and_kept_for_the_session_only(
    open_page: Open, expected_complaints: list[str], tmp_path: Path
) -> None:
    expected_complaints.append("401")
    tokens = tmp_path / "tokens"
    token = "correct-horse-battery-staple-0123456789"
    tokens.write_text(token + "\n")
    tokens.chmod(0o600)
    config = tmp_path / "kaywatch.toml"
    config.write_text(f'[http]\nread_tokens_file = "{tokens}"\n')
    with new_agent() as agent:
        agent.start("--config", str(config))
        page = open_page(f"{agent.url}/?view=processes")
        page.get_by_role("textbox", name="Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="rejected")).to_contain_text(
            "unknown token"
        )
        page.get_by_role("textbox", name="Token").fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
        expect(page.get_by_role("heading", name="Processes").first).to_be_visible()

        assert page.evaluate("[document.cookie, localStorage.length]") == ["", 0]
        assert token not in page.url
        # Another tab gets it from this one.
        other = open_page(f"{agent.url}/?view=processes")
        expect(other.get_by_role("status").filter(has_text="Live")).to_be_visible()
        expect(other.get_by_role("dialog")).to_have_count(0)


# -- a proxy with a path prefix --------------------------------------------------------


def test_the_page_works_behind_a_path_prefix(demo_desk: Agent, open_page: Open) -> None:
    with proxy(demo_desk.url, "/monitoring/kaywatch") as url:
        page = open_page(f"{url}/")
        expect(page.get_by_role("row").filter(has_text="SupportDesk")).to_be_visible()
        page.get_by_role("link", name="SupportDesk", exact=True).click()
        expect(page).to_have_url(re.compile("/monitoring/kaywatch/[?].*SupportDesk"))
        page.get_by_role("link", name="Processes").click()
        expect(page.get_by_role("row").filter(has_text="connected")).to_be_visible()


@contextmanager
def proxy(target: str, prefix: str) -> Iterator[str]:
    """Serve an agent below a prefix, as a reverse proxy does; other paths are 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            parts = urlsplit(target)
            assert parts.hostname is not None
            upstream = http.client.HTTPConnection(parts.hostname, parts.port)
            headers = {k: v for k, v in self.headers.items() if k != "Host"}
            upstream.request("GET", self.path[len(prefix) :], headers=headers)
            response = upstream.getresponse()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name not in ("Transfer-Encoding", "Connection"):
                    self.send_header(name, value)
            self.end_headers()
            try:
                while data := response.read1(65_536):
                    self.wfile.write(data)
            except OSError:
                pass  # the browser has left
            finally:
                upstream.close()

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


# -- hostile names ---------------------------------------------------------------------


def test_hostile_names_are_shown_as_text(open_page: Open) -> None:
    with running_agent() as agent:
        agent.run(
            "import kaywatch, sys\n"
            "with kaywatch.execution(sys.argv[1], sys.argv[1]): pass\n"
            "kaywatch.flush(10)",
            HOSTILE,
            KAYWATCH_SERVICE=HOSTILE,
        )
        until(agent.executions, "the execution has arrived")
        page = open_page(agent.url)
        for view in VIEWS:
            page.goto(f"{agent.url}/?view={view}")
            expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
            assert page.title() != "owned"
            assert page.locator("main img").count() == 0
        page.goto(f"{agent.url}/")
        expect(page.locator("main")).to_contain_text(HOSTILE)
        page.keyboard.press("/")
        expect(
            page.get_by_role("dialog")
            .get_by_role("option")
            .filter(has_text=HOSTILE)
            .first
        ).to_be_visible()


# -- the first steps -------------------------------------------------------------------


def test_the_first_steps_are_ticked_off_as_they_happen(open_page: Open) -> None:
    with running_agent() as agent:
        page = open_page(f"{agent.url}/")
        steps = page.get_by_role("listitem").filter(has=page.get_by_role("heading"))
        expect(steps).to_have_count(3)
        expect(steps.nth(0)).to_contain_text("(done)")
        expect(steps.nth(1)).to_contain_text("(not done yet)")
        child = agent.spawn(
            "import kaywatch, sys\n"
            "kaywatch.instrument()\n"
            "kaywatch.count('ready', 1); kaywatch.flush(10)\n"
            "sys.stdin.readline()\n"
            "with kaywatch.execution('g', 'first'): pass\n"
            "kaywatch.flush(10)\n"
        )
        expect(steps.nth(1)).to_contain_text("(done)")
        expect(steps.nth(2)).to_contain_text("(not done yet)")
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
