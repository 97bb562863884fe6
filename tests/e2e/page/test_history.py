"""The page shows earlier times, from a store with two days of history."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.agents import Agent, new_agent
from tests.bench.bench_store import DAY, fill_store

NODES = 8


@pytest.fixture(scope="module")
def past() -> Iterator[Agent]:
    """An agent with a graph of eight nodes that were active for two days."""
    with new_agent() as agent:
        fill_store(Path(agent.store), NODES, 2 * DAY, services=1, graphs=1)
        yield agent.start()


@pytest.fixture
def graph(past: Agent, open_page: Callable[[str], Page]) -> Page:
    page = open_page(f"{past.url}/?view=graph&graph=graph-a&node=node-a")
    expect(page.locator(".card")).to_have_count(NODES)
    return page


def test_replay_plays_from_the_past_towards_the_present(graph: Page) -> None:
    graph.get_by_role("button", name="Replay").click()
    time = graph.get_by_role("slider", name="Time")
    time.fill("1800")
    start = int(time.input_value())
    expect(graph.locator(".card").first).to_contain_text("n ")
    graph.get_by_role("button", name="Play", exact=True).click()
    expect(time).not_to_have_value(str(start))
    assert int(time.input_value()) > start
    graph.get_by_role("button", name="Pause", exact=True).last.click()
    expect(graph.get_by_role("button", name="Play", exact=True)).to_be_visible()


def test_a_graph_is_compared_with_an_earlier_period(graph: Page) -> None:
    graph.get_by_label("Compare with").select_option("yesterday")
    panel = graph.get_by_role("complementary", name="Node node-a")
    expect(panel).to_contain_text("Compared with yesterday")
    expect(panel.get_by_text("It was not in the graph then")).to_have_count(0)
    # The stored executions have one distribution: the p95 hardly differs.
    expect(panel.locator("section", has_text="Compared with")).to_contain_text("p95")
    expect(graph).to_have_url(re.compile("compare=yesterday"))
