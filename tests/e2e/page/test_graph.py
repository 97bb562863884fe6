"""The graph of a real application, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.agents import Agent, new_agent, until
from tests.e2e.page.conftest import read_exact, read_stats
from tests.e2e.page.desk import HOSTILE

DESK = Path(__file__).with_name("desk.py")
RUNS = 48
FOUR_DIGITS = 1e-3  # of quantiles in the event stream


@pytest.fixture(scope="module")
def desk() -> Iterator[Agent]:
    """An agent that has seen the support desk."""
    with new_agent() as agent:
        agent.variables["KAYWATCH_SERVICE"] = "support"
        agent.start()
        run_desk(agent, RUNS)
        yield agent


def run_desk(agent: Agent, runs: int) -> None:
    before = agent.executions().get("Triage", 0)
    agent.run_script(DESK, str(runs))
    until(
        lambda: agent.executions().get("Triage") == before + runs,
        "all runs are counted",
    )


@pytest.fixture
def graph(desk: Agent, open_page: Callable[[str], Page]) -> Page:
    """The page with the graph of the support desk."""
    return open_graph(desk, open_page)


def open_graph(
    desk: Agent, open_page: Callable[[str], Page], parameters: str = ""
) -> Page:
    page = open_page(f"{desk.url}/?graph=SupportDesk{parameters}")
    expect(card(page, "Triage")).to_be_visible()
    return page


def card(page: Page, *path: str) -> Locator:
    key = json.dumps(path, separators=(",", ":"), ensure_ascii=False)
    return page.locator(f"[data-key={json.dumps(key)}]")


def positions(page: Page) -> dict[str, str]:
    """Return where each node is."""
    script = "nodes => nodes.map(n => [n.dataset.key, n.getAttribute('transform')])"
    return dict(page.locator("[data-key]").evaluate_all(script))


def find(page: Page, text: str) -> None:
    page.get_by_role("combobox", name="Find").fill(text)


def test_it_shows_what_stands_out(graph: Page) -> None:
    expect(card(graph, "Spam")).to_contain_text("never reached")
    expect(card(graph, "Escalate")).to_contain_text("dead")
    expect(card(graph, "Draft")).to_contain_text("↻")
    expect(card(graph, "Review")).to_contain_text("↪")
    expect(graph.locator(".edge.back")).to_contain_text("revise")
    expect(graph.locator(".edge.back")).to_contain_text("per run")
    expect(graph.locator(".edge.unused")).to_contain_text("spam")
    # Half of all runs are questions.
    label = graph.locator(".edge .label", has_text="question")
    expect(label).to_contain_text("50 %")


def test_figures_equal_those_of_stats(desk: Agent, graph: Page) -> None:
    graph.get_by_role("button", name="Table").click()
    table = graph.locator("#graph-nodes")
    expect(table).to_be_visible()
    for node in ("Triage", "Draft", "Review"):
        stats = read_stats(desk, node, "--graph", "SupportDesk", "--window", "5m")
        expect(card(graph, node)).to_contain_text(f"n {stats['total_executions']}")
        for column, key in (
            ("Executions", "total_executions"),
            ("Success", "success_rate"),
            ("Retries", "total_retries"),
            ("p95", "p95_execution_time"),
        ):
            shown = read_exact(table, node, column)
            assert shown == pytest.approx(stats[key], rel=FOUR_DIGITS), (node, column)

    card(graph, "Draft").click()
    panel = graph.get_by_role("complementary", name="Node Draft")
    errors = read_stats(desk, "Draft", "--window", "5m")["outcomes"]["error"]
    expect(panel).to_contain_text(f"Errors{errors}")


@pytest.mark.parametrize("window", ["1h", "24h"])
def test_the_overview_has_the_runs_that_stats_has(
    desk: Agent, open_page: Callable[[str], Page], window: str
) -> None:
    """Each run executes the first node once; a day is not in the event stream."""
    page = open_page(f"{desk.url}/?window={window}")
    table = page.locator("#graphs")
    expect(table).to_contain_text("SupportDesk")
    first = read_stats(desk, "Triage", "--window", window)
    graph = desk.get("/api/v1/graphs/SupportDesk/stats", window=window)
    row = "support / SupportDesk"
    assert read_exact(table, row, "Runs") == first["total_executions"]
    shown = read_exact(table, row, "p95")
    assert shown == pytest.approx(graph["p95_execution_time"], rel=FOUR_DIGITS)


def test_a_refresh_moves_nothing(desk: Agent, graph: Page) -> None:
    before = positions(graph)
    run_desk(desk, 40)
    count = desk.node("Triage", graph="SupportDesk")["total_executions"]
    expect(card(graph, "Triage")).to_contain_text(f"n {count}")
    assert positions(graph) == before

    graph.reload()
    expect(card(graph, "Triage")).to_be_visible()
    assert positions(graph) == before


def test_the_whole_graph_is_in_view(graph: Page) -> None:
    for width, height in ((1280, 720), (3840, 2160), (360, 740)):
        graph.set_viewport_size({"width": width, "height": height})
        expect(card(graph, "Send")).to_be_visible()
        until(lambda: is_inside(graph), f"all nodes are inside at {width} pixels")
    graph.set_viewport_size({"width": 1280, "height": 720})
    card(graph, "Retrieve").locator(".toggle").click()
    expect(card(graph, "Retrieve", "Rank")).to_be_visible()
    until(lambda: is_inside(graph), "all nodes are inside when one is expanded")


def is_inside(page: Page) -> bool:
    """Return whether no card is cut off, and no two overlap."""
    return bool(
        page.evaluate(
            """() => {
              const outer = document.querySelector(".canvas").getBoundingClientRect();
              const boxes = [...document.querySelectorAll(".card > g > .body")].map(
                (each) => each.getBoundingClientRect());
              const inside = boxes.every((box) => box.left >= outer.left - 1
                && box.right <= outer.right + 1 && box.top >= outer.top - 1
                && box.bottom <= outer.bottom + 1);
              return boxes.length > 6 && inside && boxes.every((a, i) =>
                boxes.slice(0, i).every((b) => a.right <= b.left || b.right <= a.left
                  || a.bottom <= b.top || b.bottom <= a.top));
            }"""
        )
    )


def test_find_and_hide(graph: Page) -> None:
    find(graph, "never or fallbacks > 0")
    expect(graph.get_by_text("2 nodes found")).to_be_visible()
    expect(card(graph, "Triage")).to_have_class(re.compile("dimmed"))
    expect(card(graph, "Review")).not_to_have_class(re.compile("dimmed"))

    graph.get_by_role("combobox", name="Hide").fill("never")
    expect(card(graph, "Spam")).to_have_count(0)
    before = positions(graph)
    graph.get_by_role("combobox", name="Hide").fill("")
    expect(card(graph, "Spam")).to_be_visible()
    assert positions(graph).items() > before.items()

    find(graph, "error > 50")
    expect(graph.get_by_text("did you mean 50%?")).to_be_visible()


def test_completion_by_keyboard(graph: Page) -> None:
    find(graph, "not nev")
    graph.keyboard.press("ArrowDown")
    graph.keyboard.press("Enter")
    expect(graph.get_by_role("combobox", name="Find")).to_have_value("not never")
    expect(graph.get_by_text("7 nodes found")).to_be_visible()


def test_arrows_move_along_edges_and_enter_opens(graph: Page) -> None:
    card(graph, "Triage").focus()
    for key, node in (
        ("ArrowRight", "Retrieve"),
        ("ArrowRight", "Draft"),
        ("ArrowRight", "Review"),
        ("ArrowLeft", "Draft"),
    ):
        graph.keyboard.press(key)
        expect(card(graph, node)).to_be_focused()
    graph.keyboard.press("Enter")
    expect(graph.get_by_role("heading", name="Draft")).to_be_focused()
    graph.keyboard.press("Tab")
    graph.keyboard.press("Escape")
    expect(card(graph, "Draft")).to_be_focused()
    expect(graph.get_by_role("complementary")).to_have_count(0)

    card(graph, "Retrieve").focus()
    graph.keyboard.press("Space")
    expect(card(graph, "Retrieve", "Embed")).to_be_visible()


def test_two_fingers_zoom(graph: Page) -> None:
    graph.get_by_role("button", name="Fit").click()
    before = read_scale(graph)
    box = graph.locator(".canvas svg").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = graph.context.new_cdp_session(graph)
    for kind, distance in (
        ("touchStart", 40),
        *(("touchMove", distance) for distance in (50, 60, 80)),
    ):
        points = [{"x": x - distance, "y": y}, {"x": x + distance, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    until(lambda: read_scale(graph) > 1.5 * before, "the drawing is larger")


def read_scale(page: Page) -> float:
    drawing = page.locator(".canvas svg > g[data-detail]")
    match = re.search(r"scale\(([\d.]+)\)", drawing.get_attribute("transform") or "")
    assert match is not None
    return float(match[1])


def test_a_link_reproduces_the_view(
    desk: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_graph(desk, open_page)
    card(page, "Retrieve").locator(".toggle").click()
    card(page, "Retrieve", "Rank").click()
    find(page, "Rank")
    expect(page.get_by_text("1 node found")).to_be_visible()

    copy = open_page(page.url)
    expect(copy.get_by_role("complementary", name="Node Rank")).to_be_visible()
    expect(card(copy, "Triage")).to_have_class(re.compile("dimmed"))
    copy.get_by_role("link", name="Open node").click()
    expect(copy).to_have_url(re.compile("view=node&.*node=Rank"))


def test_a_hostile_name_is_text(desk: Agent, open_page: Callable[[str], Page]) -> None:
    page = open_graph(desk, open_page, f"&view=graph&node={quote(HOSTILE)}&table=1")
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    expect(page.locator("#graph-nodes")).to_contain_text(HOSTILE)
    assert page.locator("img").count() == 0


def test_the_table_has_what_the_drawing_has(graph: Page) -> None:
    graph.get_by_role("button", name="Table").click()
    rows = graph.locator("#graph-nodes tbody tr")
    expect(rows).to_have_count(8)
    review = graph.get_by_role("row", name=re.compile("^Review"))
    expect(review).to_contain_text("Draft (revise")
    rows.get_by_role("button", name="Escalate").click()
    expect(graph.get_by_role("complementary", name="Node Escalate")).to_be_visible()


def test_compared_with_a_time_before_the_first_run(graph: Page) -> None:
    graph.get_by_label("Compare with").select_option("yesterday")
    expect(graph.get_by_text("No executions in the period to compare")).to_be_visible()


def test_replay_shows_an_earlier_time(graph: Page) -> None:
    graph.get_by_role("button", name="Replay").click()
    time = graph.get_by_role("slider", name="Time")
    time.fill("0")
    expect(card(graph, "Triage")).to_contain_text("no executions")
    graph.get_by_role("button", name="Back to live").click()
    expect(card(graph, "Triage")).to_contain_text("n ")


def test_it_is_saved_as_a_picture(graph: Page, tmp_path: Path) -> None:
    with graph.expect_download() as download:
        graph.get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "SupportDesk.svg"
    download.value.save_as(tmp_path / "graph.svg")
    text = (tmp_path / "graph.svg").read_text()
    assert "Triage" in text
    assert "&lt;img" in text
    assert "<img" not in text

    with graph.expect_download() as download:
        graph.get_by_role("button", name="Save PNG").click()
    download.value.save_as(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
