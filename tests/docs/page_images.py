"""Takes the pictures of the web page: `python -m tests.docs.page_images`.

Services of a small company push to a real agent. Each view is shown in light and dark
mode and on a phone, and then each failure mode in the view that shows it: what some
rules find needs a past of a week, and a pause of five minutes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, expect
from tests.agents import Agent, new_agent, until
from tests.browser import run_browser
from tests.docs.company.failures import FAILURES, Failure
from tests.docs.company.history import repeat_hour
from tests.docs.company.services import FAULTY, PRODUCTION, record_hour, running
from tests.docs.slack_images import FOLDER
from tests.docs.webp import to_webp
from tests.e2e.page.conftest import is_firing

from kaywatch.errors import AgentUnreachable

THRESHOLDS = """
[alerting.thresholds]
memory_usage_max = 200
"""

# Alerts fire and end within minutes, so that there is a history of them.
RULES = """
[[rule]]
name = "Pay-fails"
metric = "error_rate"
op = ">"
value = 0.1
match = ['node="Pay"']
per = ["service", "graph", "node"]
window = "1m"
for = "5s"
min_executions = 5
severity = "critical"

[[rule]]
name = "answers-are-slow"
metric = "latency_p95"
op = ">"
value = 3.2
match = ['node="Generate"']
per = ["service", "graph", "node"]
window = "1m"
for = "0"
keep_firing_for = "0"
min_executions = 3

[[rule]]
name = "search-retries"
metric = "retry_rate"
op = ">"
value = 0.3
match = ['node="WebSearch"']
per = ["service", "graph", "node"]
window = "1m"
for = "0"
keep_firing_for = "0"
min_executions = 3
severity = "info"
"""


class Shot(NamedTuple):
    """A picture: the name of its file, and the query of the page's address."""

    name: str
    query: str


VIEWS = (
    Shot("overview", "window=15m"),
    Shot("graph", "view=graph&service=assistant&graph=answer&window=15m"),
    Shot("node", "view=node&service=checkout&graph=order&node=Pay&window=1h"),
    Shot("runs", "view=runs&window=15m"),
    Shot("models", "view=models&window=1h"),
    Shot("alerts", "view=alerts&window=15m"),
    Shot("processes", "view=processes&window=15m"),
)

MODES: dict[str, dict[str, Any]] = {
    "": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "-dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "-phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 1.5,
    },
}
FAILURE_MODE: dict[str, Any] = {
    "viewport": {"width": 1280, "height": 640},
    "color_scheme": "light",
}

# So long do alerts come and go.
HISTORY_SECONDS = 200
# A graph is silent after five minutes; the agent may be busy with the past before.
FAULTS_SECONDS = 900
# Requests and the layout of the graph take less.
SETTLE_MS = 3_000
PATIENCE_MS = 30_000


def main() -> None:
    """Take all pictures, or those that are named: `views`, `failures`, `silent` …"""
    names = {*sys.argv[1:]} or {"views", "failures"}
    failures = [each for each in FAILURES if "failures" in names or each.name in names]
    unknown = names - {"views", "failures", *(each.name for each in FAILURES)}
    if unknown:
        raise SystemExit(f"unknown pictures: {', '.join(sorted(unknown))}")
    with run_browser() as browser:
        if "views" in names:
            _take_views(browser)
        if failures:
            _take_failures(browser, failures)


def _take_views(browser: Browser) -> None:
    with new_agent() as agent:
        _start(agent, THRESHOLDS + RULES)
        with running(agent, PRODUCTION):
            started = time.monotonic()
            until(
                lambda: (
                    time.monotonic() - started > HISTORY_SECONDS and is_firing(agent)
                ),
                "alerts have come and gone",
                deadline=2 * HISTORY_SECONDS,
            )
            for mode, options in MODES.items():
                for shot in VIEWS:
                    name = f"page-{shot.name}{mode}"
                    _take(browser, f"{agent.url}/?{shot.query}", name, options)


def _take_failures(browser: Browser, failures: Collection[Failure]) -> None:
    with new_agent() as agent:
        _start(agent, THRESHOLDS)
        record_hour(agent, FAULTY)
        agent.stop()
        repeat_hour(Path(agent.store))
        _start(agent, THRESHOLDS)
        with running(agent, FAULTY):
            _wait_for_problems(agent, failures)
            for failure in failures:
                url, name = f"{agent.url}/?{failure.query}", f"failure-{failure.name}"
                _take(browser, url, name, FAILURE_MODE, has_problem=True)


def _start(agent: Agent, config: str) -> None:
    path = agent.folder / "kaywatch.toml"
    path.write_text(config)
    agent.start("--config", str(path))


def _wait_for_problems(agent: Agent, failures: Collection[Failure]) -> None:
    missing: set[tuple[str, str]] = set()

    def are_reported() -> bool:
        problems: list[dict[str, Any]] = []
        # At first it is busy with the past of all processes.
        with contextlib.suppress(AgentUnreachable):
            problems = agent.get("/api/v1/problems")["problems"]
        missing.clear()
        missing.update((each.service, each.kind) for each in failures)
        missing.difference_update((each["service"], each["kind"]) for each in problems)
        return not missing

    try:
        until(are_reported, "all problems", deadline=FAULTS_SECONDS)
    except AssertionError as error:
        raise SystemExit(f"{error}; not reported: {sorted(missing)}") from None


def _take(
    browser: Browser,
    url: str,
    name: str,
    options: dict[str, Any],
    *,
    has_problem: bool = False,
) -> None:
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(url)
    if has_problem:
        problem = page.locator(".problems li").first
        expect(problem).to_be_visible(timeout=PATIENCE_MS)
    page.wait_for_timeout(SETTLE_MS)
    expect(page.locator(".skeleton")).to_have_count(0, timeout=PATIENCE_MS)
    expect(page.locator(".live-state")).to_contain_text("Live")
    picture = to_webp(context.new_page(), page.screenshot())
    context.close()
    path = FOLDER / f"{name}.webp"
    path.write_bytes(picture)
    print(f"{path.name}  {len(picture):,} bytes", flush=True)


if __name__ == "__main__":
    main()
