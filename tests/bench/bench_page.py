"""The web page with 500 active nodes in 50 graphs, and a day of history.

The page is that of a real browser. Pages beyond the first are streams without a
browser: what they cost the agent is the same.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, sync_playwright
from tests.agents import Agent, until
from tests.bench.bench_store import DAY, fill
from tests.bench.report import OURS, Promise, Row, figure
from tests.bench.rounds import Effort
from tests.bench.usage import cpu_seconds
from tests.conftest import ROOT
from tests.e2e.page.conftest import OPTIONS
from tests.servers import require

NODES = 500
SHAPE = {"services": 1, "graphs": 50}
PAGES = 50
SETTLE_SECONDS = 5
UPDATE_SECONDS = 20
HEAP_SECONDS = 600
PAGE = ROOT / "agent/kaywatch_agent/web/page/assets"

PUSH = """
import sys, time
import kaywatch
kaywatch.configure()
print("started", flush=True)
nodes, graphs = map(int, sys.argv[1:])
due = time.monotonic()
while True:
    for n in range(nodes):
        with kaywatch.execution(f"graph-{n % graphs}", f"node-{n}"):
            pass
    due += 1
    time.sleep(max(0, due - time.monotonic()))
"""


def measure(effort: Effort) -> list[Row]:
    """Return the rows of the page."""
    nodes = effort.whole(NODES, 20)
    with busy_agent(nodes, effort.whole(DAY, 60)) as agent, browsing() as browser:
        return [
            first_view(browser, agent, effort),
            *updates(browser, agent, effort),
            update_size(agent, effort.whole(UPDATE_SECONDS, 2)),
            bundle(),
            open_pages(agent, effort),
        ]


@contextlib.contextmanager
def busy_agent(nodes: int, history: int) -> Iterator[Agent]:
    """Run an agent with a history, all nodes of which are active each second."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder))
        fill(Path(agent.store), nodes, history, **SHAPE)
        try:
            agent.start()
            agent.spawn(
                PUSH, str(nodes), str(SHAPE["graphs"]), KAYWATCH_SERVICE="service-0"
            )
            until(lambda: len(agent.executions()) >= nodes, "all nodes are active")
            yield agent
        finally:
            agent.close()


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Run Debian's chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require("chromium"), args=[*OPTIONS]
        )
        yield browser
        browser.close()


def first_view(browser: Browser, agent: Agent, effort: Effort) -> Row:
    """Measure from the request of the page until the table of graphs is drawn."""
    times = []
    for _ in range(effort.rounds):
        context = browser.new_context()
        page = context.new_page()
        page.goto(agent.url, wait_until="commit")
        page.wait_for_selector("#graphs tbody tr")
        times.append(page.evaluate("performance.now()"))
        context.close()
    return Row("page: the first view", "ms", figure(OURS, times), Promise(1000))


def updates(browser: Browser, agent: Agent, effort: Effort) -> list[Row]:
    """Measure the main thread per update, and the growth of the heap."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(agent.url)
    page.wait_for_selector("#graphs tbody tr")
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    seconds = effort.whole(UPDATE_SECONDS, 2)
    time.sleep(effort.whole(SETTLE_SECONDS, 1))
    busy = []
    for _ in range(effort.rounds):
        before = metrics(session)["TaskDuration"]
        time.sleep(seconds)
        busy.append((metrics(session)["TaskDuration"] - before) / seconds * 1e3)
    first = heap(session)
    time.sleep(effort.of(HEAP_SECONDS, 2))
    growth = 100 * (heap(session) / first - 1)
    context.close()
    note = f"{first / 1e6:.1f} MB, in {effort.of(HEAP_SECONDS, 2)} s"
    return [
        Row("page: main thread per update", "ms", figure(OURS, busy), Promise(16)),
        Row("page: growth of the heap", "%", figure(OURS, [growth], note), Promise(10)),
    ]


def metrics(session: CDPSession) -> dict[str, float]:
    """Return what the browser counts of the page."""
    answer = session.send("Performance.getMetrics")
    return {each["name"]: each["value"] for each in answer["metrics"]}


def heap(session: CDPSession) -> float:
    """Return the bytes that are in use after a collection."""
    session.send("HeapProfiler.collectGarbage")
    return metrics(session)["JSHeapUsedSize"]


def update_size(agent: Agent, count: int) -> Row:
    """Measure the bytes of an update, without compression."""
    connection, response = stream(agent)
    sizes: list[float] = []
    while len(sizes) < count:
        event = read_event(response)
        if event.startswith(b"id:") and b"event: changes" in event:
            sizes.append(len(event) / 1024)
    connection.close()
    return Row("page: an update", "KiB", figure(OURS, sizes), Promise(20))


def bundle() -> Row:
    """Measure the compressed scripts and styles."""
    files = [*PAGE.glob("*.js"), *PAGE.glob("*.css")]
    size = sum(len(gzip.compress(file.read_bytes())) for file in files) / 1000
    return Row("page: the bundle, gzipped", "KB", figure(OURS, [size]), Promise(120))


def open_pages(agent: Agent, effort: Effort) -> Row:
    """Measure what many open pages cost the agent, in percent of a core."""
    assert agent.process is not None
    seconds = effort.whole(UPDATE_SECONDS, 2)
    used = []
    for _ in range(effort.rounds):
        without = share(agent.process.pid, seconds)
        with contextlib.ExitStack() as stack:
            for _ in range(effort.whole(PAGES, 2)):
                stack.enter_context(reading(agent))
            used.append(share(agent.process.pid, seconds) - without)
    return Row(
        f"page: {PAGES} open pages, of a core", "%", figure(OURS, used), Promise(10)
    )


def share(pid: int, seconds: float) -> float:
    """Return the CPU that a process uses, in percent of a core."""
    started, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(seconds)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - started)


@contextlib.contextmanager
def reading(agent: Agent) -> Iterator[None]:
    """Read a stream within the block."""
    connection, response = stream(agent)

    def read() -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            while read_event(response):
                pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        if connection.sock is not None:
            connection.sock.shutdown(2)
        thread.join(5)
        connection.close()


def stream(agent: Agent) -> tuple[http.client.HTTPConnection, Any]:
    """Open a live stream."""
    connection = agent.connection()
    connection.request("GET", "/api/v1/live")
    return connection, connection.getresponse()


def read_event(response: Any) -> bytes:
    """Return the next event; empty at the end."""
    lines = []
    while (line := response.readline()) not in (b"", b"\n"):
        lines.append(line)
    return b"".join(lines)
