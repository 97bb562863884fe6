"""A real browser: opens a page, and returns what became of it."""

from __future__ import annotations

import http.server
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright
from tests.servers import find, require

__all__ = ["OPTIONS", "Trap", "render_page", "run_browser", "trap"]

# Chromium without a window around each page, which takes most of the time; else, with.
SHELL = "chromium-headless-shell"

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)
QUIET = (
    *OPTIONS,
    *("--headless", "--virtual-time-budget=8000"),
)


@contextmanager
def run_browser() -> Iterator[Browser]:
    """Run Debian's chromium within the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_find_chromium(), args=[*OPTIONS]
        )
        yield browser
        browser.close()


def render_page(url: str, *options: str) -> str:
    """Return the document at a URL, as it is once its scripts have run.

    Args:
        url: the address to open.
        *options: of Chromium, such as a name's address.
    """
    program = _find_chromium()
    # It goes on writing there for a moment after its end.
    with tempfile.TemporaryDirectory(
        prefix="kw-", ignore_cleanup_errors=True
    ) as folder:
        done = subprocess.run(
            [program, *QUIET, f"--user-data-dir={folder}", *options, "--dump-dom", url],
            capture_output=True,
            timeout=90,
        )
    return done.stdout.decode()


def _find_chromium() -> str:
    return find(SHELL) or require("chromium")


class Trap:
    """Somebody else's site: shows a page, and notes who comes by."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.page = b""
        self.paths: list[str] = []

    def reported(self) -> dict[str, str]:
        """Return what the page reported, as in `/report?name=what`."""
        result = (re.fullmatch(r"/report\?(\w+)=(.*)", path) for path in self.paths)
        return {match[1]: match[2] for match in result if match}


@contextmanager
def trap() -> Iterator[Trap]:
    """Serve another site within the block."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(made.page if self.path == "/" else b"")

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Trap(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
