"""A real browser, one for each module; what a page complains about fails its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright
from tests.servers import require

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)

# Tests wait for conditions; a busy machine takes its time.
PATIENCE_MS = 15_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require("chromium"), args=[*OPTIONS]
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A new profile, with a large window."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Callable[[str], Page]]:
    """Opens addresses; fails if a page logs an error or asks another host.

    A violation of the content security policy is an error in the log, too.
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
            lambda message: message.type == "error" and complaints.append(message.text),
        )
        page.goto(url)
        return page

    yield open_page
    assert not complaints, complaints
