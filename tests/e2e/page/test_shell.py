"""What all views share: live figures, reconnecting, tokens, prefixes, names, keys."""

from __future__ import annotations

import http.client
import http.server
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.agents import Agent, new_agent, running_agent, until
from tests.e2e.page.conftest import check_accessibility, start_demo_desk

Open = Callable[[str], Page]

HOSTILE = "<img src=x onerror=document.title='owned'>\"'&{{7*7}}"
VIEWS = ("overview", "graph", "node", "runs", "models", "alerts", "processes")


# -- views that load and update --------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_loads_and_is_accessible(
    demo_desk: Agent, open_page: Open, view: str
) -> None:
    page = open_page(f"{demo_desk.url}/?view={view}")
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    expect(page.locator("main h1")).to_be_visible()
    check_accessibility(page)
    page.emulate_media(color_scheme="dark")
    check_accessibility(page)


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
    first = counted(demo_desk)
    until(lambda: shown() >= first, "the page catches up")
    assert shown() <= counted(demo_desk)


def counted(agent: Agent) -> int:
    stats = agent.get("/api/v1/graphs/SupportDesk/stats", window="1h")
    count: int = stats["total_executions"]
    return count


def test_an_alert_and_its_graph_are_marked(demo_desk: Agent, open_page: Open) -> None:
    page = open_page(f"{demo_desk.url}/")
    alerts = page.get_by_role("region", name="Alerts")
    alert = alerts.get_by_role("link", name=re.compile("Draft: latency p95"))
    expect(alert).to_be_visible()
    expect(page.get_by_label(re.compile(r"\d+ firing"))).to_be_visible()
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
    # It collects garbage before it lists what is left.
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

    page.keyboard.press("/")
    page.keyboard.type("draft")
    expect(page.get_by_role("dialog").get_by_role("option").first).to_contain_text(
        "Draft"
    )
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("node=Draft"))

    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="support-desk")).to_be_visible()
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile("window=15m"))


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


# -- deep links ------------------------------------------------------------------------


def test_the_links_of_earlier_notifications_still_open(
    demo_desk: Agent, open_page: Open
) -> None:
    page = open_page(f"{demo_desk.url}/?graph=SupportDesk")
    expect(page.locator("main")).to_contain_text("Draft")


# -- several tabs ----------------------------------------------------------------------


def test_ten_tabs_share_one_stream_and_an_eleventh_loads(
    demo_desk: Agent, open_page: Open
) -> None:
    first = open_page(f"{demo_desk.url}/")
    tabs = [first, *(open_page(f"{demo_desk.url}/") for _ in range(10))]
    for tab in tabs:
        expect(tab.get_by_role("row").filter(has_text="SupportDesk")).to_be_visible()
    assert streams(demo_desk) == 1

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
        workload = start_demo_desk(agent, tmp_path)
        try:
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
        finally:
            workload.terminate()
            workload.wait(20)


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
        for view in VIEWS:
            page = open_page(f"{agent.url}/?view={view}")
            expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
            assert page.title() != "owned"
            assert page.locator("main img").count() == 0
        page = open_page(f"{agent.url}/")
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
