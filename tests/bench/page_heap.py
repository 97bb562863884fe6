"""Watch the heaps of the overview and of a graph while 500 nodes are active.

python -m tests.bench.page_heap [MINUTES]

The agent has a day of history, and sends an update each second. The heaps are measured
after garbage collections, first when the pages have settled, and then each minute. The
exit code is 1 if a heap has grown by more than is promised.
"""

from __future__ import annotations

import sys
import time

from tests.bench.bench_page import (
    NODES,
    busy_agent,
    measure_heaps,
    open_sessions,
    open_stream,
    read_event,
)
from tests.bench.bench_store import DAY
from tests.browser import run_browser

MINUTE = 60
# V8 compiles and optimizes the code of the page in the first minutes: a third of the
# growth of an hour is in the first five.
SETTLE_UPDATES = 300
MAX_GROWTH_PERCENT = 10


def main() -> int:
    """Measure for the given time, by default for an hour; return the exit code."""
    minutes = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with (
        busy_agent(NODES, DAY) as agent,
        run_browser() as browser,
        open_sessions(browser, agent) as sessions,
    ):
        connection, response = open_stream(agent)
        count_updates(response, SETTLE_UPDATES)
        first, updates, started = measure_heaps(sessions), 0, time.monotonic()
        print_heaps(0, updates, first, first)
        last = first
        for minute in range(1, minutes + 1):
            while time.monotonic() < started + minute * MINUTE:
                updates += count_updates(response, 1)
            last = measure_heaps(sessions)
            print_heaps(minute, updates, first, last)
        connection.close()
    growth = max(last[view] / first[view] - 1 for view in first)
    return 1 if 100 * growth > MAX_GROWTH_PERCENT else 0


def count_updates(response: object, most: int) -> int:
    """Wait for a number of updates of the stream that all pages read."""
    updates = 0
    while updates < most:
        event = read_event(response)
        assert event, "the agent ended the stream"
        updates += b"event: changes" in event
    return updates


def print_heaps(
    minute: int, updates: int, first: dict[str, float], last: dict[str, float]
) -> None:
    """Print the size of each heap, and its growth."""
    heaps = ""
    for view, size in last.items():
        growth = 100 * (size / first[view] - 1)
        heaps += f"   {view} {size / 1e6:5.2f} MB {growth:+5.1f} %"
    print(f"{minute:3} min  {updates:5} updates{heaps}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
