"""Readers in threads never see a partial update while batches arrive."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.agent.web.serving import Served

ROUNDS = 40
PATHS = (
    "/metrics",
    "/api/v1/export?window=1m",
    "/api/v1/nodes",
    "/api/v1/graphs",
    "/api/v1/clients",
    "/api/v1/query?metric=executions&start=-1m",
)


def test_reading_while_new_series_come_in_never_fails(served: Served) -> None:
    done = threading.Event()

    def feed() -> None:
        for number in range(ROUNDS):
            rows = [
                {
                    "graph": f"g{number % 7}",
                    "node": f"n{number}-{n}",
                    "seconds": 0.1,
                    "action": f"a{n % 5}",
                }
                for n in range(50)
            ]
            served.send_rows(*rows, service=f"s{number % 5}")
        done.set()

    def read(path: str) -> int:
        reads = 0
        while not done.is_set() or not reads:
            answer = served.ask(path)
            assert answer.status == 200, answer.body
            reads += 1
        return reads

    with ThreadPoolExecutor(len(PATHS) + 1) as pool:
        feeding = pool.submit(feed)
        assert all(count > 0 for count in pool.map(read, PATHS))
        feeding.result()

    nodes = served.get("/api/v1/nodes")["nodes"]
    assert len(nodes) == ROUNDS * 50
    assert sum(node["total_executions"] for node in nodes) == ROUNDS * 50
