"""Services with faults, in a real browser: what is wrong, where, and at what cost."""

from __future__ import annotations

import contextlib
import csv
import re
import struct
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect
from tests.agents import Agent, new_agent, until
from tests.docs.company.failures import FAILURES
from tests.docs.company.services import FAULTY, running
from tests.e2e.page.conftest import check_accessibility, is_firing, overflow

from kaywatch.errors import AgentUnreachable

CONFIG = """
[[rule]]
name = "Pay-fails"
metric = "error_rate"
op = ">"
value = 0.1
match = ['node="Pay"']
per = ["service", "graph", "node"]
for = "0"
severity = "critical"
"""
SHOWN = ("checkout", "support", "research", "indexing")

PHONE = {"width": 390, "height": 844}
# With rows in every table.
FULL = (
    "view=overview",
    "view=graph&service=checkout&graph=order&table=1",
    "view=node&service=checkout&graph=order&node=Pay",
    "view=runs",
    "view=models",
    "view=alerts",
    "view=alerts&rule=error_rate_max",
    "view=processes",
)

Open = Callable[[str], Page]


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent of four services, each of which has another problem."""
    config = tmp_path_factory.mktemp("company") / "kaywatch.toml"
    config.write_text(CONFIG)
    services = [
        service._replace(minutes=min(8.0, service.minutes), past=1200.0)
        for service in FAULTY
        if service.name in SHOWN
    ]
    with new_agent() as agent:
        agent.start("--config", str(config))
        with running(agent, services):
            until(lambda: len(kinds(agent)) == len(SHOWN), "all problems")
            until(lambda: is_firing(agent), "an alert fires")
            yield agent


def kinds(agent: Agent) -> set[str]:
    wanted = {failure.kind for failure in FAILURES if failure.service in SHOWN}
    # At first it is busy with the past of all processes.
    with contextlib.suppress(AgentUnreachable):
        problems = agent.get("/api/v1/problems")["problems"]
        return wanted & {each["kind"] for each in problems}
    return set()


def problem(page: Page, place: str) -> Locator:
    region = page.get_by_role("region", name=re.compile("problem"))
    more = region.get_by_role("button", name=re.compile("Show"))
    expect(region.get_by_role("listitem").first).to_be_visible()
    if more.count():
        more.click()
    return region.get_by_role("listitem").filter(has_text=place)


def test_a_sentence_says_what_is_wrong_since_when_where_and_what_it_cost(
    company: Agent, open_page: Open
) -> None:
    page = open_page(f"{company.url}/")
    sentence = problem(page, "checkout / order / Pay")
    expect(sentence).to_contain_text(
        re.compile(
            r"\d+ % of executions fail since \d\d:\d\d \(\d+ min ago\); \d+ failures;"
            r" TimeoutError 100 %; \$\d+\.\d+ spent on failed attempts"
        )
    )
    check_accessibility(page)
    sentence.get_by_role("link", name="Pay-fails").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(
        "checkout / order / Pay"
    )


def test_a_problem_leads_to_the_view_that_shows_it(
    company: Agent, open_page: Open
) -> None:
    page = open_page(f"{company.url}/")
    for failure in FAILURES:
        if failure.service not in SHOWN or failure.view == "overview":
            continue
        problem(page, failure.text).get_by_role("link").first.click()
        place = f"view={failure.view}&service={failure.service}"
        expect(page).to_have_url(re.compile(place))
        here = page.get_by_role("region", name="Problems here")
        expect(here).to_contain_text(failure.text)
        page.go_back()


def test_alerts_are_on_one_timeline(company: Agent, open_page: Open) -> None:
    page = open_page(f"{company.url}/?view=alerts&window=15m")
    panel = page.get_by_role("region", name="When alerts fired")
    row = panel.get_by_role("listitem").filter(has_text="Pay-fails")
    bar = row.get_by_role("link").last
    bar.hover()
    expect(panel).to_contain_text(
        re.compile(
            r"Pay-fails, critical: fires for .* threshold 10.0 %; \d+ of \d+ failed"
        )
    )
    check_accessibility(page)
    panel.get_by_role("button", name="Table").click()
    table = panel.get_by_role("table", name="When alerts fired")
    expect(table.get_by_role("row").filter(has_text="Pay-fails")).to_be_visible()
    panel.get_by_role("button", name="Table").click()
    bar.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("error rate")


def test_the_timeline_of_alerts_can_be_saved(company: Agent, open_page: Open) -> None:
    page = open_page(f"{company.url}/?view=alerts&window=15m&service=checkout")
    panel = page.get_by_role("region", name="When alerts fired")
    expect(panel.get_by_role("listitem").first).to_be_visible()
    with page.expect_download() as saved:
        panel.get_by_role("button", name="CSV").click()
    assert saved.value.suggested_filename == "checkout-When-alerts-fired.csv"
    with saved.value.path().open(newline="") as file:
        episodes = [*csv.DictReader(file)]
    (pay,) = [row for row in episodes if row["rule"] == "Pay-fails"]
    assert (pay["service"], pay["graph"], pay["node"]) == ("checkout", "order", "Pay")
    assert (pay["severity"], pay["end"]) == ("critical", "")
    assert "threshold 10.0 %" in pay["reason"]

    with page.expect_download() as saved:
        panel.get_by_role("button", name="PNG").click()
    png = saved.value.path().read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    rows = {(row["rule"], row["node"]) for row in episodes}
    # A row for each alert, the title above and the axis below.
    assert width > 900
    assert height >= 26 * len(rows) + 52


def test_a_dead_process_has_what_it_was_running(
    company: Agent, open_page: Open
) -> None:
    page = open_page(f"{company.url}/?view=processes&service=indexing")
    row = page.locator("#processes tbody tr")
    expect(row).to_contain_text("died while running documents / Embed")


def test_an_alert_without_a_line_has_its_known_values(
    company: Agent, open_page: Open
) -> None:
    def died() -> list[str]:
        alerts = company.get("/api/v1/alerts", rule="process_died", state="firing")
        return [alert["id"] for alert in alerts["alerts"]]

    (alert,) = until(died, "the death is an alert")
    page = open_page(f"{company.url}/?view=alerts&alert={alert}")
    known = page.get_by_role("figure", name="processes_died > 0")
    expect(known).to_contain_text(
        "There is no line over time: the state of processes is known for the present"
    )
    rows = known.locator("tbody tr")
    expect(rows.first).to_contain_text(re.compile("now.*firing.*1.*0"))
    expect(rows.filter(has_text=re.compile(r"\d\d:\d\d"))).not_to_have_count(0)
    why = page.get_by_role("region", name="Why")
    expect(why).to_contain_text("The worst value was 1")
    expect(why).not_to_contain_text("executions failed")
    check_accessibility(page)


@pytest.mark.parametrize("query", FULL)
def test_nothing_scrolls_sideways_on_a_phone(
    company: Agent, open_page: Open, query: str
) -> None:
    page = open_page(f"{company.url}/?{query}&window=15m")
    page.set_viewport_size(PHONE)
    expect(page.locator("main tbody tr").first).to_be_visible()
    expect(page.locator("main .skeleton")).to_have_count(0)
    until(lambda: overflow(page) <= 0, "nothing is wider than the phone")
    check_accessibility(page)


def test_a_card_on_a_phone_names_its_figures(company: Agent, open_page: Open) -> None:
    page = open_page(f"{company.url}/?view=runs&service=checkout&window=15m")
    page.set_viewport_size(PHONE)
    table = page.locator("#runs-failed")
    card = table.locator("tbody tr").first
    expect(card).to_contain_text("an exception at Pay")
    labels = card.locator("td").evaluate_all(
        "cells => cells.map((cell) => getComputedStyle(cell, '::before').content)"
    )
    assert "Took" in {label.strip('" ') for label in labels}
    table.get_by_role("button", name="Took").click()
    expect(page).to_have_url(re.compile("sort-runs-failed=-seconds"))


def test_an_alert_fits_on_a_phone(company: Agent, open_page: Open) -> None:
    alerts = company.get("/api/v1/alerts", state="firing")["alerts"]
    page = open_page(f"{company.url}/?view=alerts&alert={alerts[0]['id']}")
    page.set_viewport_size(PHONE)
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("firing")
    until(lambda: overflow(page) <= 0, "nothing is wider than the phone")
