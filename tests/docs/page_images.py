"""Takes the pictures of the web page: `python -m tests.docs.page_images`.

A real agent, to which the application of `kaywatch demo` pushes, is shown in each view,
in light and dark mode and on a phone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from tests.agents import Agent, new_agent, until
from tests.docs.slack_images import CHROMIUM, FOLDER
from tests.e2e.page.conftest import OPTIONS, RULE, firing, start_demo_desk

VIEWS = {
    "overview": "",
    "graph": "graph=SupportDesk",
    "node": "graph=SupportDesk&node=Draft",
    "runs": "",
    "models": "",
    "alerts": "",
    "processes": "",
}
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
MODES = {
    "": {"viewport": DESKTOP, "color_scheme": "light"},
    "-dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "-phone": {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 2},
}

# So that there is something to see over time.
WORK_SECONDS = 60
# Requests and the layout of the graph take less.
SETTLE_MS = 3_000


def main() -> None:
    """Take all pictures."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        sys.exit("no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, new_agent() as agent:
        config = Path(folder) / "kaywatch.toml"
        config.write_text(RULE)
        agent.start("--config", str(config))
        workload = start_demo_desk(agent, Path(folder))
        try:
            _wait(agent)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=program, args=[*OPTIONS]
                )
                _take_all(browser, agent.url)
                browser.close()
        finally:
            workload.terminate()
            workload.wait(20)


def _wait(agent: Agent) -> None:
    started = time.monotonic()
    until(
        lambda: time.monotonic() - started > WORK_SECONDS and firing(agent),
        "an alert fires",
        deadline=WORK_SECONDS + 60,
    )


def _take_all(browser: Browser, url: str) -> None:
    for mode, options in MODES.items():
        context = browser.new_context(**options)
        page = context.new_page()
        for view, query in VIEWS.items():
            page.goto(f"{url}/?view={view}&{query}")
            page.wait_for_timeout(SETTLE_MS)
            path = FOLDER / f"page-{view}{mode}.png"
            page.screenshot(path=path)
            _reduce(path)
            print(f"{path.name}  {path.stat().st_size:,} bytes")
        context.close()


def _reduce(path: Path) -> None:
    """Reduce the colours of a picture, where pngquant is installed."""
    if program := shutil.which("pngquant"):
        subprocess.run(
            [program, "--force", "--ext", ".png", "--skip-if-larger", str(path)],
            check=False,
        )


if __name__ == "__main__":
    main()
