"""A node and its calls of models in a real browser: the figures are the agent's."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from tests.agents import Agent, new_agent, until
from tests.e2e.page.conftest import read_exact, read_stats

HOSTILE = "<img src=x onerror=alert(1)>"
APPLICATION = f"""
import kaywatch
from pocketflow import Flow, Node

class Quote(Node):
    def exec(self, prepared):
        raise TimeoutError("no quote")

    def exec_fallback(self, prepared, error):
        return None

kaywatch.instrument()
flow = kaywatch.name(Flow(start=Quote(max_retries=2)), "shop")
for number in range(3):
    flow.run({{}})
for number in range(40):
    with kaywatch.execution("shop", "pay") as span:
        kaywatch.record_llm(
            model="large", input_tokens=1_000, output_tokens=100,
            cost_usd=0.25, seconds=0.5,
        )
        kaywatch.observe("basket", number)
    try:
        with kaywatch.execution("shop", {HOSTILE!r}):
            raise ConnectionError("no answer from <b>the bank</b>")
    except ConnectionError:
        pass
assert kaywatch.flush(10)
"""


@pytest.fixture(scope="module")
def shop() -> Iterator[Agent]:
    """An agent that has seen 40 payments, and as many failures of a hostile name."""
    with new_agent() as agent:
        agent.variables["KAYWATCH_SERVICE"] = "shop"
        agent.start()
        agent.run(APPLICATION)
        until(lambda: agent.executions().get("pay") == 40, "all payments are counted")
        yield agent


def open_node(agent: Agent, open_page: Callable[[str], Page], node: str) -> Page:
    page = open_page(
        f"{agent.url}/?view=node&service=shop&graph=shop&node={quote(node)}&window=1h"
    )
    expect(page.get_by_role("heading", level=1)).to_have_text(node)
    return page


def figure(page: Page, label: str) -> str:
    """Return the exact text of a figure at the top."""
    place = page.locator(".figure", has=page.locator("dt", has_text=label)).first
    return place.locator("dd").inner_text()


def test_without_a_node_all_are_listed_the_failing_ones_first(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{shop.url}/?view=node&window=1h")
    rows = page.get_by_role("table", name="Nodes").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text(HOSTILE)
    expect(rows.first).to_contain_text("100 %")
    expect(rows.first).to_contain_text("shop / shop")

    page.get_by_role("link", name="pay", exact=True).click()

    expect(page.get_by_role("heading", level=1)).to_have_text("pay")
    assert "service=shop" in page.url and "graph=shop" in page.url


def test_the_figures_are_those_of_kaywatch_stats(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_node(shop, open_page, "pay")
    stats = read_stats(shop, "pay", "--window", "1h")

    expect(page.locator(".figures")).to_contain_text("n=40")
    assert stats["total_executions"] == 40
    page.get_by_text("p95", exact=True).first.wait_for()
    tooltip = page.locator(".figure", has=page.locator("dt", has_text="p95")).first
    shown = tooltip.locator("[role=tooltip]").inner_text()
    assert float(shown.split()[0].replace(",", "")) == pytest.approx(
        stats["p95_execution_time"], rel=1e-12
    )
    assert "$10.00" in figure(page, "Cost")


def test_a_rate_is_that_of_the_time_since_counting_began(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_node(shop, open_page, "pay")
    # 40 within an hour would be 40 /h; the agent has counted for minutes.
    rate = page.locator(".figure", has_text="Executions, 1h").locator(".note")
    expect(rate).to_have_text(re.compile(r"^[\d.]+ /(min|s)$"))


def test_failures_that_attempts_hid_are_shown(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_node(shop, open_page, "Quote")
    stats = read_stats(shop, "Quote", "--window", "1h")
    assert (stats["total_retries"], stats["outcomes"]["fallback"]) == (3, 3)
    assert figure(page, "Retries").startswith("3")
    assert figure(page, "Fallbacks") == "3"
    errors = page.get_by_role("region", name="Errors")
    row = errors.get_by_role("row").filter(has_text="TimeoutError")
    expect(row.first).to_contain_text("exec")


def test_the_heatmap_has_every_execution(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_node(shop, open_page, "pay")
    heatmap = page.get_by_role("figure", name="Latency heatmap")
    expect(heatmap.locator("canvas")).to_be_visible()
    with page.expect_download() as saved:
        heatmap.get_by_role("button", name="CSV").click()
    with saved.value.path().open(newline="") as file:
        cells = [*csv.DictReader(file)]
    assert sum(float(cell["executions"]) for cell in cells) == 40


def test_a_name_and_a_message_of_markup_are_text(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_node(shop, open_page, HOSTILE)

    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    failures = page.locator(".failures li")
    expect(failures).to_have_count(20)
    expect(failures.first).to_contain_text("no answer from <b>the bank</b>")
    assert page.locator("main img, .failures b b").count() == 0
    expect(page.get_by_text("The latest 20 of 40.")).to_be_visible()


def test_a_chart_is_saved_and_read_by_keyboard(
    shop: Agent, open_page: Callable[[str], Page], tmp_path: Path
) -> None:
    page = open_node(shop, open_page, "pay")

    # The step that has only begun is left out, so payments in two steps come one by
    # one.
    until(lambda: saved_payments(page, tmp_path) == 40, "the CSV has all payments")

    with page.expect_download() as image:
        page.get_by_role("button", name="Save Duration as PNG").click()
    image.value.save_as(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")

    page.get_by_role("button", name="Table of Duration").click()
    expect(page.get_by_role("table", name="Duration")).to_be_visible()


def saved_payments(page: Page, folder: Path) -> float:
    """Save the chart of outcomes as CSV; return the sum of the successful ones."""
    # The buttons wait for the data.
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save Executions by outcome as CSV").click()
    saved.value.save_as(folder / "chart.csv")
    with open(folder / "chart.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    column = next(name for name in rows[0] if re.match(r"ok\b", name))
    return sum(float(row[column] or 0) for row in rows)


def test_a_chart_without_data_is_not_saved(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_node(shop, open_page, "pay")
    chart = page.get_by_role("figure", name="Errors by type")
    expect(chart).to_contain_text("No data in this period")
    for kind in ("CSV", "PNG"):
        expect(chart.get_by_role("button", name=f"as {kind}")).to_be_disabled()


def test_the_models_view_has_what_the_calls_cost(
    shop: Agent, open_page: Callable[[str], Page]
) -> None:
    page = open_page(f"{shop.url}/?view=models&window=1h")

    row = page.locator("#models tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("large")
    expect(row).to_contain_text("$10.00")
    table, stats = page.locator("#models"), read_stats(shop, "pay", "--window", "1h")
    sums = {each["name"]: each["sum"] for each in stats["custom"]}
    assert read_exact(table, "large", "Calls") == sums["llm_calls"]
    assert read_exact(table, "large", "Cost") == sums["llm_cost_usd"]
    assert read_exact(table, "large", "Tokens in") == sums["llm_input_tokens"]
    assert read_exact(table, "large", "Tokens out") == sums["llm_output_tokens"]
    page.get_by_role("button", name="node", exact=True).click()
    expect(page.get_by_text("Cost by node")).to_be_visible()
    assert "by=node" in page.url
    row.get_by_role("link", name="large").click()
    expect(page.get_by_text("Charts of the model large")).to_be_visible()


@pytest.mark.parametrize("window", ["1h", "24h"])
def test_the_overview_has_the_cost_of_a_graph(
    shop: Agent, open_page: Callable[[str], Page], window: str
) -> None:
    """The event stream has an hour; a day is requested."""
    page = open_page(f"{shop.url}/?window={window}")
    table = page.locator("#graphs")
    expect(table).to_contain_text("$10.00")
    assert read_exact(table, "shop / shop", "Cost") == 10
