"""Measure the web page with 500 active nodes in 50 graphs, and a day of history.

Up to eleven tabs are in a real browser. The 50 open pages are streams without a
browser, which cost the agent the same.
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

from playwright.sync_api import Browser, CDPSession, Page
from tests.agents import Agent, until
from tests.bench.bench_store import DAY, fill_store
from tests.bench.report import OURS, Promise, Row, summarize
from tests.bench.rounds import Effort
from tests.bench.series import letters
from tests.bench.usage import cpu_seconds
from tests.browser import run_browser
from tests.conftest import ROOT

NODES = 500
SHAPE = {"services": 1, "graphs": 50}
PAGES = 50
TABS = 10
# The address of each view, and an element that exists once the view is drawn.
VIEWS = {
    "overview": ("/", "#graphs tbody tr"),
    "graph": ("/?view=graph&service=service-0&graph=graph-a", ".card"),
}
SETTLE_SECONDS = 5
UPDATE_SECONDS = 20
HEAP_SECONDS = 600
HEAP_MEASUREMENTS = 5
HEAP_PAUSE = 0.7  # seconds; not a divisor of the second between two updates
PAGE = ROOT / "agent/kaywatch_agent/web/page/assets"

PUSH = """
import sys, time
from pocketflow import Flow, Node
import kaywatch
kaywatch.instrument()

class Step(Node):
    def post(self, shared, prepared, result):
        shared["visits"] += 1
        return "again" if shared["visits"] == shared["back"] else None

def build(names):
    steps = [kaywatch.name(Step(), name) for name in names]
    for before, after in zip(steps, steps[1:]):
        before >> after
    steps[-2] - "again" >> steps[0]
    return Flow(start=steps[0])

names = sys.argv[2:]
graphs = int(sys.argv[1])
flows = [
    kaywatch.name(build(names[g::graphs]), f"graph-{names[g][5:]}")
    for g in range(graphs)
]
due = time.monotonic()
while True:
    for flow in flows:
        # Before its last node, each run goes back to its first one, once.
        flow.run({"visits": 0, "back": len(names) // graphs - 1})
    due += 1
    time.sleep(max(0, due - time.monotonic()))
"""


def measure(effort: Effort) -> list[Row]:
    """Return the rows of the page."""
    nodes = effort.whole(NODES, 2 * SHAPE["graphs"])
    with busy_agent(nodes, effort.whole(DAY, 60)) as agent, run_browser() as browser:
        return [
            first_view(browser, agent, effort),
            *updates(browser, agent, effort),
            many_tabs(browser, agent, effort),
            update_size(agent, effort.whole(UPDATE_SECONDS, 2)),
            bundle(),
            open_pages(agent, effort),
        ]


@contextlib.contextmanager
def busy_agent(nodes: int, history: int) -> Iterator[Agent]:
    """Run an agent with a history, whose nodes are all active each second."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder), fork=False)
        fill_store(Path(agent.store), nodes, history, **SHAPE)
        try:
            agent.start()
            names = [f"node-{letters(n)}" for n in range(nodes)]
            agent.spawn(
                PUSH, str(SHAPE["graphs"]), *names, KAYWATCH_SERVICE="service-0"
            )
            until(lambda: are_active(agent, nodes), "all nodes are active")
            yield agent
        finally:
            agent.close()


def are_active(agent: Agent, nodes: int) -> bool:
    """Return whether as many nodes were executed within the last seconds."""
    known = agent.get("/api/v1/nodes", window="10s")["nodes"]
    return sum(node["total_executions"] > 0 for node in known) == nodes


def first_view(browser: Browser, agent: Agent, effort: Effort) -> Row:
    """Measure the time from the request until the table of graphs is drawn."""
    times = []
    for _ in range(effort.rounds):
        context = browser.new_context()
        page = open_view(context.new_page(), agent, "overview")
        times.append(page.evaluate("performance.now()"))
        context.close()
    return Row("page: first view", "ms", summarize(OURS, times), Promise(1000))


def open_view(page: Page, agent: Agent, view: str) -> Page:
    """Open a view in a tab, and wait until it is drawn."""
    path, selector = VIEWS[view]
    page.goto(agent.url + path, wait_until="commit")
    page.wait_for_selector(selector)
    return page


def updates(browser: Browser, agent: Agent, effort: Effort) -> list[Row]:
    """Measure the main thread's time per update, and the growth of the heap."""
    with open_sessions(browser, agent) as sessions:
        time.sleep(effort.whole(SETTLE_SECONDS, 1))
        busy = measure_busy(sessions, effort)
        growth, notes = measure_growth(sessions, effort.of(HEAP_SECONDS, 2))
    return [
        *(
            Row(
                f"page: main thread time per update, {view}",
                "ms",
                summarize(OURS, figures),
                Promise(16),
            )
            for view, figures in busy.items()
        ),
        *(
            Row(
                f"page: growth of the heap, {view}",
                "%",
                summarize(OURS, [growth[view]], notes[view]),
                Promise(10),
            )
            for view in growth
        ),
    ]


@contextlib.contextmanager
def open_sessions(browser: Browser, agent: Agent) -> Iterator[dict[str, CDPSession]]:
    """Open each view in a profile of its own, with its performance metrics."""
    sessions: dict[str, CDPSession] = {}
    with contextlib.ExitStack() as stack:
        for view in VIEWS:
            context = stack.enter_context(browser.new_context())
            page = open_view(context.new_page(), agent, view)
            sessions[view] = context.new_cdp_session(page)
            # CPU time, which the load of the machine does not change.
            domain = {"timeDomain": "threadTicks"}
            sessions[view].send("Performance.enable", domain)
        yield sessions


def measure_busy(
    sessions: dict[str, CDPSession], effort: Effort
) -> dict[str, list[float]]:
    """Return the milliseconds per second in which each page's main thread worked."""
    seconds = effort.whole(UPDATE_SECONDS, 2)
    busy: dict[str, list[float]] = {view: [] for view in sessions}
    for _ in range(effort.rounds):
        before = {
            v: metrics(session)["TaskDuration"] for v, session in sessions.items()
        }
        time.sleep(seconds)
        for view, session in sessions.items():
            used = task_seconds(session) - before[view]
            busy[view].append(used / seconds * 1e3)
    return busy


def measure_growth(
    sessions: dict[str, CDPSession], seconds: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the growth of each page's heap in percent, and its size as text."""
    first = measure_heaps(sessions)
    time.sleep(seconds)
    last = measure_heaps(sessions)
    growth = {view: 100 * (last[view] / first[view] - 1) for view in sessions}
    notes = {view: f"{first[view] / 1e6:.1f} MB, in {seconds} s" for view in sessions}
    return growth, notes


def many_tabs(browser: Browser, agent: Agent, effort: Effort) -> Row:
    """Measure the first view of a tab, while ten others of its browser are live."""
    times = []
    for _ in range(effort.rounds):
        with browser.new_context() as context:
            tabs = [open_view(context.new_page(), agent, "overview")]
            tabs += [
                open_view(context.new_page(), agent, "overview")
                for _ in range(effort.whole(TABS, 2) - 1)
            ]
            one_more = open_view(context.new_page(), agent, "overview")
            times.append(one_more.evaluate("performance.now()"))
            for tab in tabs:
                await_update(tab)
    note = f"while {TABS} tabs share a stream"
    return Row(
        "page: first view in one more tab",
        "ms",
        summarize(OURS, times, note),
        Promise(1000),
    )


def await_update(page: Page) -> None:
    """Wait until a page shows other figures."""
    text = "document.querySelector('main').innerText"
    page.wait_for_function(f"before => {text} !== before", arg=page.evaluate(text))


def metrics(session: CDPSession) -> dict[str, float]:
    """Return the browser's performance metrics of the page."""
    answer = session.send("Performance.getMetrics")
    return {each["name"]: each["value"] for each in answer["metrics"]}


def task_seconds(session: CDPSession) -> float:
    """Return the seconds that the page's main thread has worked."""
    return metrics(session)["TaskDuration"]


def measure_heaps(sessions: dict[str, CDPSession]) -> dict[str, float]:
    """Return the bytes of each page's heap, after garbage collections.

    The least of a few is what the page keeps: a response that is being read when the
    garbage is collected is a megabyte more.
    """
    return {view: measure_least(session) for view, session in sessions.items()}


def measure_least(session: CDPSession) -> float:
    sizes = [measure_heap(session)]
    while len(sizes) < HEAP_MEASUREMENTS:
        time.sleep(HEAP_PAUSE)
        sizes.append(measure_heap(session))
    return min(sizes)


def measure_heap(session: CDPSession) -> float:
    """Return the bytes of the heap in use after a garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    return metrics(session)["JSHeapUsedSize"]


def update_size(agent: Agent, count: int) -> Row:
    """Measure the uncompressed size of an update."""
    connection, response = open_stream(agent)
    sizes: list[float] = []
    while len(sizes) < count:
        event = read_event(response)
        if event.startswith(b"id:") and b"event: changes" in event:
            sizes.append(len(event) / 1024)
    connection.close()
    return Row("page: size of an update", "KiB", summarize(OURS, sizes), Promise(20))


def bundle() -> Row:
    """Measure the compressed size of scripts and styles."""
    files = [*PAGE.glob("*.js"), *PAGE.glob("*.css")]
    size = sum(len(gzip.compress(file.read_bytes())) for file in files) / 1000
    return Row("page: bundle, gzipped", "KB", summarize(OURS, [size]), Promise(120))


def open_pages(agent: Agent, effort: Effort) -> Row:
    """Measure the agent's CPU for many open pages, in percent of a core."""
    assert agent.process is not None
    seconds = effort.whole(UPDATE_SECONDS, 2)
    used = []
    for _ in range(effort.rounds):
        without = measure_core_share(agent.process.pid, seconds)
        with contextlib.ExitStack() as stack:
            for _ in range(effort.whole(PAGES, 2)):
                stack.enter_context(read_stream(agent))
            used.append(measure_core_share(agent.process.pid, seconds) - without)
    return Row(
        f"page: agent CPU for {PAGES} open pages",
        "% of a core",
        summarize(OURS, used),
        Promise(10),
    )


def measure_core_share(pid: int, seconds: float) -> float:
    """Return the CPU usage of a process in percent of a core."""
    started, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(seconds)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - started)


@contextlib.contextmanager
def read_stream(agent: Agent) -> Iterator[None]:
    """Read a stream while the block runs."""
    connection, response = open_stream(agent)

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


def open_stream(agent: Agent) -> tuple[http.client.HTTPConnection, Any]:
    """Open a live stream."""
    connection = agent.connection()
    connection.request("GET", "/api/v1/live")
    return connection, connection.getresponse()


def read_event(response: Any) -> bytes:
    """Return the next event; empty at the end of the stream."""
    lines = []
    while (line := response.readline()) not in (b"", b"\n"):
        lines.append(line)
    return b"".join(lines)
