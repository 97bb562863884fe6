"""Takes the pictures of the web page: `python -m tests.docs.page_images`.

Services of a small company push to a real agent. Each view is shown in light and dark
mode and on a phone, and then each failure mode in the view that shows it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, expect
from tests.agents import Agent, new_agent, until
from tests.browser import run_browser
from tests.docs.company.services import FAULTY, PRODUCTION, Service, running
from tests.docs.slack_images import FOLDER
from tests.docs.webp import to_webp
from tests.e2e.page.conftest import is_firing

# Alerts fire and end within minutes, so that there is a history of them.
CONFIG = """
[alerting.thresholds]
memory_usage_max = 200

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

FAILURES = (
    Shot("failing", "view=overview&service=checkout&window=15m"),
    Shot("failing-node", "view=node&service=checkout&graph=order&node=Pay&window=1h"),
    Shot("low-traffic", "view=overview&service=payroll&window=15m"),
    Shot("died", "view=processes&service=indexing"),
    Shot("silent", "view=overview&service=newsletter&window=15m"),
    Shot("dead-end", "view=graph&service=support&graph=ticket&window=15m"),
    Shot("never-reached", "view=graph&service=claims&graph=answer&window=1h"),
    Shot("runaway", "view=runs&service=research&window=15m"),
    Shot("stuck", "view=runs&service=stock&window=15m"),
    Shot("masked", "view=graph&service=assistant&graph=answer&window=15m"),
    Shot("drift", "view=node&service=reviews&graph=ticket&node=Review&window=1h"),
    Shot("waste", "view=models&service=writer&window=1h"),
    Shot("slow", "view=node&service=search&graph=answer&node=Generate&window=1h"),
    Shot("memory", "view=processes&service=thumbnails"),
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
# A run is stuck after ten seconds, and a process is sampled every few seconds.
FAULT_SECONDS = 45
# Requests and the layout of the graph take less.
SETTLE_MS = 3_000
PATIENCE_MS = 30_000


def main() -> None:
    """Take all pictures, or those of one set: `views` or `failures`."""
    sets = sys.argv[1:] or ["views", "failures"]
    with run_browser() as browser:
        if "views" in sets:
            _with_services(
                PRODUCTION, HISTORY_SECONDS, lambda url: _views(browser, url)
            )
        if "failures" in sets:
            _with_services(FAULTY, FAULT_SECONDS, lambda url: _failures(browser, url))


def _with_services(
    services: Iterable[Service], seconds: float, take: Callable[[str], None]
) -> None:
    with tempfile.TemporaryDirectory() as folder, new_agent() as agent:
        config = Path(folder) / "kaywatch.toml"
        config.write_text(CONFIG)
        agent.start("--config", str(config))
        with running(agent, services):
            _wait(agent, seconds)
            take(agent.url)


def _wait(agent: Agent, seconds: float) -> None:
    started = time.monotonic()
    until(
        lambda: time.monotonic() - started > seconds and is_firing(agent),
        "alerts fire",
        deadline=seconds + 120,
    )


def _views(browser: Browser, url: str) -> None:
    for mode, options in MODES.items():
        for shot in VIEWS:
            _take(browser, f"{url}/?{shot.query}", f"page-{shot.name}{mode}", options)


def _failures(browser: Browser, url: str) -> None:
    for shot in FAILURES:
        name, query = f"failure-{shot.name}", shot.query
        _take(browser, f"{url}/?{query}", name, FAILURE_MODE, has_problem=True)


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
