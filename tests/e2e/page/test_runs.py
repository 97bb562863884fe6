"""The runs of a real application, in a real browser."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.agents import Agent, new_agent, until

TIMES = "\u00d7"  # the sign of multiplication
LOOP = Path(__file__).with_name("loop.py").read_text()


@pytest.fixture(scope="module")
def interview() -> Iterator[Agent]:
    """An agent, and an application with one run that goes round and round."""
    with new_agent() as agent:
        agent.variables["KAYWATCH_SERVICE"] = "office"
        agent.start()
        agent.spawn(LOOP)
        until(lambda: agent.executions().get("Ask", 0) >= 152, "it waits")
        yield agent


def test_a_run_in_trouble_comes_first(
    interview: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{interview.url}/?view=runs")
    row = page.locator("#runs-in-progress tbody tr").first
    expect(row).to_contain_text("Interview")
    expect(row).to_contain_text("looping")
    (client,) = interview.clients()
    expect(row).to_contain_text(f"pid {client['pid']}")
    cost = "$0.42 + 1,200 tokens without a price"
    expect(row).to_contain_text(cost)

    row.get_by_role("link", name="Ask").click()
    expect(page).to_have_url(re.compile("view=graph.*graph=Interview.*node=Ask"))
    panel = page.get_by_role("complementary", name="Node Ask")
    expect(panel).to_contain_text("In flight1")
    here = panel.get_by_role("listitem").filter(has_text=cost)
    expect(here).to_contain_text(f"{cost} so far · looping")
    expect(page.locator(".loop-line")).to_be_visible()


def test_runs_are_those_of_the_graph_whatever_node_was_shown_before(
    interview: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{interview.url}/?view=node&graph=Interview&node=Answer")
    place = page.get_by_role("navigation", name="Breadcrumbs")
    expect(place).to_contain_text("Answer")
    expect(page).to_have_title("Answer · kaywatch")

    page.get_by_role("link", name="Runs", exact=True).click()
    # All of them are at Ask, or ended there.
    expect(page.locator("#runs-failed tbody tr")).to_have_count(2)
    expect(page.locator("#runs-in-progress tbody tr")).to_have_count(1)
    ends = page.get_by_role("region", name="Why runs ended")
    expect(ends.get_by_role("row", name=re.compile("exception"))).to_be_attached()
    here = page.get_by_role("region", name="Problems here")
    expect(here).to_contain_text("goes in circles")
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs of Interview")
    expect(place).to_contain_text("Interview")
    expect(place).not_to_contain_text("Answer")
    expect(page).to_have_title("Interview · kaywatch")


def test_a_failed_run_is_a_path_on_the_graph(
    interview: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{interview.url}/?view=runs&graph=Interview")
    rows = page.locator("#runs-failed tbody tr")
    expect(rows).to_have_count(2)
    row = rows.filter(has_not_text=TIMES)
    expect(row).to_contain_text("an exception at Ask")
    expect(row).to_contain_text(re.compile("Plan . Ask"))

    row.get_by_role("link", name="on the graph").click()
    expect(page.get_by_text(re.compile("^Run .* ended at Ask: an exc"))).to_be_visible()
    expect(page.locator(".edge.taken")).to_have_count(1)
    expect(page.locator(".card.dimmed")).to_contain_text("Answer")
    page.get_by_role("link", name="without the run").click()
    expect(page.locator(".card.dimmed")).to_have_count(0)


def test_a_failed_run_with_a_loop_has_its_visits_on_the_graph(
    interview: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{interview.url}/?view=runs&graph=Interview")
    row = page.locator("#runs-failed tbody tr").filter(
        has_text=re.compile(f"Plan . Ask {TIMES}3")
    )
    row.get_by_role("link", name="on the graph").click()
    expect(page.get_by_text("how often it came there")).to_be_visible()
    steps = page.locator(""".card[data-key='["Ask"]'] .steps""")
    expect(steps).to_have_text(re.compile(f"2 .* .3{TIMES}"))
    expect(page.locator(".edge.taken")).to_have_count(1)


def test_why_runs_ended_equals_the_graph_s_statistics(
    interview: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{interview.url}/?view=runs&window=1h")
    ends = page.get_by_role("region", name="Why runs ended")
    expect(
        ends.get_by_role("row", name=re.compile("end of the graph"))
    ).to_contain_text("5")
    expect(ends.get_by_role("row", name=re.compile("exception"))).to_contain_text("2")
    with page.expect_download() as saved:
        ends.get_by_role("button", name="CSV").click()
    with saved.value.path().open(newline="") as file:
        runs = {row["reason"]: row["runs"] for row in csv.DictReader(file)}
    assert runs == {"no_successors": "5", "error": "2"}
    with page.expect_download() as saved:
        ends.get_by_role("button", name="PNG").click()
    assert saved.value.path().read_bytes().startswith(b"\x89PNG")


def search(page: Page, text: str) -> Locator:
    """Search for a text; return what is found."""
    page.keyboard.press("/")
    page.keyboard.type(text)
    return page.get_by_role("dialog").get_by_role("option")


def test_the_search_finds_runs_by_id(
    interview: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{interview.url}/")
    expect(page.locator("main h1")).to_be_attached()
    runs = interview.get("/api/v1/runs")
    failed = min(runs["ended"], key=lambda run: len(run["path"]))["run"]
    (current,) = (run["run"] for run in runs["in_progress"])
    # The process has begun all of its runs' ids alike.
    results = search(page, failed.split("-")[0])
    expect(
        results.filter(has_text=f"{failed} office / Interview, failed")
    ).to_be_visible()
    expect(results.filter(has_text=f"{current} office / Interview, in")).to_be_visible()
    page.keyboard.press("Escape")

    search(page, failed).first.click()
    expect(page).to_have_url(re.compile(f"view=graph.*run={failed}"))
    expect(page.get_by_text(re.compile(f"^Run {failed} ended at Ask"))).to_be_visible()

    search(page, current).first.click()
    expect(page).to_have_url(re.compile(f"view=runs.*run={current}"))
    expect(page.locator("#runs-in-progress tr.selected")).to_contain_text(current)


def test_a_run_that_is_no_longer_kept(
    interview: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{interview.url}/?view=graph&graph=Interview&run=gone")
    expect(page.get_by_text("no longer kept")).to_be_visible()
