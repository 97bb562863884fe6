"""A real browser for each module; an error on a page fails its test."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Request,
    expect,
)
from tests.agents import DEADLINE, Agent, new_agent, until
from tests.browser import run_browser
from tests.conftest import ROOT, make_once

AXE = ROOT / "agent/dashboard/node_modules/axe-core/axe.min.js"

PATIENCE_MS = 1000 * DEADLINE

RULE = """
[[rule]]
name = "Draft-is-slow"
metric = "latency_p95"
op = ">"
value = 0.005
match = ['node="Draft"']
window = "1m"
for = "1s"
"""


@pytest.fixture(scope="session")
def built_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The page that the agent of this tree serves is that of the sources."""

    def build(folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, str(ROOT / "scripts" / "build_page.py")]
        subprocess.run(command, check=True, capture_output=True)

    make_once(tmp_path_factory, "page", build)


@pytest.fixture(scope="module")
def browser(built_page: None) -> Iterator[Browser]:
    """Debian's chromium."""
    expect.set_options(timeout=PATIENCE_MS)
    with run_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """A profile with a large window, whose cache spares compiling the page again."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def context(profile: BrowserContext) -> Iterator[BrowserContext]:
    """The profile; the test's tabs are closed after it."""
    yield profile
    for page in profile.pages:
        page.close()


@pytest.fixture
def expected_complaints() -> list[str]:
    """Patterns of what the test provokes; it adds them."""
    return []


@pytest.fixture
def open_page(
    context: BrowserContext, expected_complaints: list[str]
) -> Iterator[Callable[[str], Page]]:
    """Opens addresses, each in a tab of the same browser.

    Fails if a page logs an error or asks another host. A violation of the content
    security policy is an error in the log, too.
    """
    complaints: list[str] = []

    def open_page(url: str) -> Page:
        page = context.new_page()
        host = urlsplit(url).netloc

        def check(request: Request) -> None:
            scheme, netloc, *_ = urlsplit(request.url)
            if scheme not in ("data", "blob") and netloc != host:
                complaints.append(f"request to {request.url}")

        page.on("request", check)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                message.type == "error"
                and complaints.append(f"{message.text} {message.location['url']}")
            ),
        )
        page.goto(url)
        return page

    yield open_page
    unexpected = [
        each
        for each in complaints
        if not any(re.search(pattern, each) for pattern in expected_complaints)
    ]
    assert not unexpected, unexpected


@pytest.fixture(scope="module")
def demo_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that the application of `kaywatch demo` pushes to; an alert fires."""
    folder = tmp_path_factory.mktemp("demo")
    config = folder / "kaywatch.toml"
    config.write_text(RULE)
    with new_agent() as agent:
        agent.start("--config", str(config))
        start_demo_desk(agent, folder)
        until(lambda: agent.executions().get("Refund", 0) > 5, "the desk works")
        until(lambda: is_firing(agent), "an alert fires")
        yield agent


def is_firing(agent: Agent) -> bool:
    alerts = agent.get("/api/v1/alerts")["alerts"]
    return any(alert["state"] == "firing" for alert in alerts)


def start_demo_desk(agent: Agent, folder: Path) -> subprocess.Popen[str]:
    """Start the application of `kaywatch demo`, as service `support-desk`."""
    command = "kaywatch_agent.cli.demo.workload"
    return agent.start_process(
        *(agent.python, "-m", command, f"--counts={folder / 'counts.json'}"),
        environment={"KAYWATCH_SERVICE": "support-desk"},
    )


def check_accessibility(page: Page, *, colors: bool | None = None) -> None:
    """Fail for what axe-core calls serious or critical.

    Args:
        page: the page.
        colors: whether only the contrast of colors is checked, or all else; by
            default, both. The contrast takes most of the time.
    """
    # Evaluated, because the policy forbids a script element.
    page.evaluate(AXE.read_text())
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if colors:
        options["runOnly"] = ["color-contrast"]
    elif colors is not None:
        options["rules"] = {"color-contrast": {"enabled": False}}
    result = page.evaluate("options => axe.run(document, options)", options)
    serious = [
        (rule["id"], node["target"], node["failureSummary"])
        for rule in result["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
    assert not serious, serious


# A panel clips what is too wide, so the page itself does not scroll.
_OVERFLOW = """() => Math.max(
  document.documentElement.scrollWidth - innerWidth,
  ...[...document.querySelectorAll(".table-scroll")].map(
    (each) => each.scrollWidth - each.clientWidth),
  ...[...document.querySelectorAll("main :is(table, figure, ul, ol)")].map(
    (each) => each.getBoundingClientRect().right - innerWidth))"""


def overflow(page: Page) -> float:
    """Return by how many pixels the page or a part of it is too wide for the window."""
    pixels: float = page.evaluate(_OVERFLOW)
    return pixels


def read_stats(agent: Agent, node: str, *options: str) -> dict[str, Any]:
    """Return what `kaywatch stats` has about a node."""
    stats: dict[str, Any] = json.loads(agent.command("stats", node, "--json", *options))
    return stats


def read_exact(table: Locator, row: str, column: str) -> float:
    """Return the exact figure behind a cell; `row` is how the row's text begins."""
    titles = table.locator("thead th").all_inner_texts()
    place = table.locator("tbody tr").filter(has_text=re.compile(rf"^\s*{row}"))
    title = place.locator("td").nth(titles.index(column)).get_attribute("title")
    assert title, f"{column} of {row} has no exact figure"
    return float(title.split()[0].replace(",", ""))
