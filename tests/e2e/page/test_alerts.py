"""The alerts of a real agent, in a real browser, from a real Slack message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.agents import Agent, free_port, new_agent, until
from tests.receivers import Receivers, run_receivers

HOSTILE = "<img src=x onerror=alert(1)>"
CONFIG = """
[alerting]
external_url = "{agent}"
group_wait = "0"

[alerting.thresholds]
success_rate_min = false
error_rate_max = false

[[rule]]
name = "pay-fails"
metric = "error_rate"
op = ">"
value = 0.1
window = "1m"
for = "0"
min_executions = 5

[receiver.slack]
type = "slack"
webhook_url = "{slack}/services/T/B/x"

[receiver.broken]
type = "webhook"
url = "{slack}/broken"
"""
FAIL = """
import sys
import kaywatch
kaywatch.configure(service="web")
for n in range(20):
    try:
        with kaywatch.execution(sys.argv[1], "pay"):
            if n < 8:
                raise TimeoutError("the bank is slow")
    except TimeoutError:
        pass
kaywatch.flush(10)
"""


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    with run_receivers() as receivers:
        yield receivers


@pytest.fixture(scope="module")
def alerting(
    receivers: Receivers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    """An agent with an alert that fires, for a graph whose name is markup."""
    port = free_port()
    config = tmp_path_factory.mktemp("alerts") / "kaywatch.toml"
    address = f"http://127.0.0.1:{port}"
    config.write_text(CONFIG.format(agent=address, slack=receivers.url))
    config.chmod(0o600)
    with new_agent() as agent:
        agent.start("--config", str(config), "--http", f"127.0.0.1:{port}")
        agent.run(FAIL, HOSTILE)
        until(lambda: slack_links(receivers), "Slack has the message")
        yield agent


def slack_links(receivers: Receivers) -> dict[str, str]:
    """Return the links of the last message to Slack, by their text."""
    requests = receivers.accepted("/services/T/B/x")
    text = json.dumps(requests[-1].json, ensure_ascii=False) if requests else ""
    links = re.findall(r"<(https?://[^|>]+)\|([^>]+)>", text)
    return {label: url.replace("&amp;", "&") for url, label in links}


def is_firing(agent: Agent) -> dict[str, Any]:
    alert: dict[str, Any] = agent.get("/api/v1/alerts", state="firing")["alerts"][0]
    return alert


Open = Callable[[str], Page]


def test_a_link_in_slack_opens_the_alert(
    alerting: Agent, receivers: Receivers, open_page: Open
) -> None:
    alert = is_firing(alerting)
    page = open_page(slack_links(receivers)["Dashboard"])
    assert f"alert={alert['id']}" in page.url
    # It opens the graph, at the node of the alert.
    panel = page.get_by_role("complementary", name="Node pay")
    expect(panel).to_contain_text("Executions20")
    expect(panel).to_contain_text("Errors8")
    panel.get_by_role("link", name="Alerts").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(alert["summary"])
    expect(page.get_by_role("region", name="Why")).to_contain_text(
        "8 of 20 executions failed"
    )


def test_the_alerts_of_a_service_claim_no_node(
    alerting: Agent, open_page: Open
) -> None:
    page = open_page(f"{alerting.url}/?view=alerts&service=web&graph=g&node=other")
    expect(page.get_by_role("heading", level=1)).to_have_text("Alerts of web")
    expect(page.locator("#alerts tbody tr")).to_contain_text(
        is_firing(alerting)["rule"]
    )
    place = page.get_by_role("navigation", name="Breadcrumbs")
    expect(place.get_by_role("listitem")).to_have_text(["All services", "web"])
    expect(page).to_have_title("Alerts · kaywatch")


def test_an_alert_shows_why_and_who_was_notified(
    alerting: Agent, open_page: Open
) -> None:
    alert = is_firing(alerting)
    page = open_page(f"{alerting.url}/?view=alerts&alert={alert['id']}")
    expect(page.get_by_role("heading", level=1)).to_have_text(alert["summary"])
    why = page.get_by_role("region", name="Why")
    expect(why).to_contain_text("8 of 20 executions failed")
    expect(why).to_contain_text("TimeoutError (8)")
    expect(why).to_contain_text("the bank is slow")
    table = page.locator("#notifications")
    expect(table.get_by_role("row").filter(has_text="slack")).to_contain_text("sent")
    expect(page.locator("img")).to_have_count(0)


def test_the_chart_of_an_alert_is_exported_and_read_by_keyboard(
    alerting: Agent, open_page: Open
) -> None:
    alert = is_firing(alerting)
    page = open_page(f"{alerting.url}/?view=alerts&alert={alert['id']}&window=1h")
    chart = page.get_by_role("figure")
    plot = chart.get_by_role("img")
    expect(plot).to_be_visible()
    plot.press("End")
    while "0.4" not in chart.inner_text():
        before = chart.inner_text()
        plot.press("ArrowLeft")
        assert chart.inner_text() != before, "no step has the share of failures"
    expect(chart).to_contain_text("n 20")

    title = "error_rate, threshold > 0.1"
    with page.expect_download() as download:
        chart.get_by_role("button", name=f"Save {title} as CSV").click()
    rows = Path(download.value.path()).read_text().split()
    assert rows[0] == "time,error_rate,error_rate" or "error_rate" in rows[0]
    assert any(row.endswith(",0.4,20") for row in rows)
    with page.expect_download() as download:
        chart.get_by_role("button", name=f"Save {title} as PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    chart.get_by_role("button", name=f"Table of {title}").click()
    expect(chart.get_by_role("table")).to_contain_text("0.4")


def test_another_threshold_is_tried_before_it_is_copied(
    alerting: Agent, open_page: Open
) -> None:
    page = open_page(f"{alerting.url}/?view=alerts")
    page.locator("#rules").get_by_role("link", name="pay-fails", exact=True).click()
    trial = page.get_by_role("region", name="Try another threshold")
    backtest = trial.get_by_role("button", name="Backtest")
    backtest.click()
    expect(trial).to_contain_text("It would have fired once")
    trial.get_by_role("spinbutton").fill("0.9")
    backtest.click()
    expect(trial).to_contain_text("It would have fired 0 times")
    expect(trial.locator("pre")).to_have_text(
        '[[rule]]\nname = "pay-fails"\nvalue = 0.9  # was 0.1\n'
    )
    groups = page.get_by_role("region", name="Groups nearest to firing")
    expect(groups).to_contain_text(HOSTILE)


def test_an_alert_is_silenced_by_a_click_with_a_reason(
    alerting: Agent, open_page: Open
) -> None:
    alert = is_firing(alerting)
    page = open_page(f"{alerting.url}/?view=alerts&alert={alert['id']}")
    page.get_by_label("Reason").fill("the bank knows")
    page.get_by_role("button", name="Silence", exact=True).click()
    expect(page.locator("main")).to_contain_text("Silenced until")
    (silence,) = alerting.get("/api/v1/silences", state="active")["silences"]
    assert silence["comment"] == "the bank knows"
    assert silence["alerts"] == 1

    page.get_by_role("link", name="All alerts and rules").click()
    silences = page.get_by_role("region", name="Silences")
    expect(silences).to_contain_text("the bank knows")
    silences.get_by_role("button", name=re.compile("Expire")).click()
    until(
        lambda: not alerting.get("/api/v1/silences", state="active")["silences"],
        "the silence has expired",
    )
    expect(silences).to_have_count(0)
