"""The live stream: everything first, then changes, for any number of readers."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.agent.web.serving import Served, evaluate, serving
from tests.agent.web.sse import EventReader
from tests.agents import DEADLINE, until

from kaywatch_agent.web import stream as module
from kaywatch_agent.web.config import HttpConfig


@contextlib.contextmanager
def reading(served: Served, query: str = "", buffer: int = 0) -> Iterator[EventReader]:
    """Read a stream within the block; `buffer` bytes wait for it, by default many."""
    reader = EventReader(served, f"/api/v1/live{query}", buffer)
    try:
        headers = reader.headers()
        assert headers[0].endswith(b"200 OK")
        assert b"Content-Type: text/event-stream; charset=utf-8" in headers
        assert reader.block() == {"retry": "2000"}
        yield reader
    finally:
        reader.close()


def open_streams(served: Served) -> float:
    value: float = served.source.telemetry.get("kaywatch_stream_clients")
    return value


def publish(served: Served) -> None:
    served.call(served.server.publish)


class Live:
    """A reader's data after each event, as `src/api/decode.ts` computes it."""

    VALUES = frozenset({"seconds", "cost", "wasted", "p50", "p95", "p99"})

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.sections: dict[str, Any] = {}

    def apply(self, event: dict[str, str]) -> dict[str, Any]:
        """Take an event over, and return its data."""
        update: dict[str, Any] = json.loads(event["data"])
        if event["event"] == "full":
            self.tables = {name: {"keys": []} for name in ("nodes", "graphs")}
        for name, table in self.tables.items():
            table["keys"] += map(tuple, update[name]["keys"])
            for column, change in update[name]["columns"].items():
                self._apply(table.setdefault(column, {}), column, change)
        self.sections |= {k: v for k, v in update.items() if v is not None}
        return update

    def _apply(self, cells: dict[int, Any], column: str, change: Any) -> None:
        row = -1
        for n, value in enumerate(change["values"]):
            row += change["rows"][n] if change["rows"] is not None else 1
            is_value = column in self.VALUES
            cells[row] = value if is_value else cells.get(row, 0) + value

    def row(self, table: str, *key: str) -> dict[str, Any]:
        """Return the cells of a row that are not 0 or null."""
        number = self.tables[table]["keys"].index(key)
        columns = {k: v for k, v in self.tables[table].items() if k != "keys"}
        cells = {name: cells.get(number) for name, cells in columns.items()}
        return {name: value for name, value in cells.items() if value}


def test_the_first_event_has_everything_and_the_next_only_changes(
    served: Served,
) -> None:
    served.send_rows(
        *({"graph": "g", "node": "busy", "seconds": 0.5} for _ in range(3)),
        {"graph": "g", "node": "idle", "seconds": 1.0, "end": time.time() - 600},
        {"graph": "g", "node": "bad", "seconds": 2, "outcome": "error", "attempts": 3},
    )
    live = Live()
    with reading(served) as reader:
        first = reader.block()
        assert (first["event"], first["id"]) == ("full", "1")
        update = live.apply(first)
        assert all(value is not None for value in update.values())
        assert live.sections["window"] == "5m"
        assert live.sections["processes"] == {"connected": 1}
        assert live.sections["completeness"] == {
            "ratio": 1.0,
            "dropped": 0,
            "deaths": 0,
            "unknown_seconds": 0.0,
        }
        busy = live.row("nodes", "shop", "g", "busy")
        assert busy.pop("last") == pytest.approx(time.time() * 10, abs=600)
        assert busy == {
            "executions": 3,
            "seconds": 1.5,
            "p50": 0.5,
            "p95": 0.5,
            "p99": 0.5,
        }
        # Known, but not within the window.
        assert live.row("nodes", "shop", "g", "idle") == {}
        bad = live.row("nodes", "shop", "g", "bad")
        assert (bad["executions"], bad["error"], bad["retries"]) == (1, 1, 2)

        served.send_rows({"graph": "g", "node": "busy", "seconds": 0.5})
        publish(served)
        event = reader.block()
        assert event["event"] == "changes"
        update = live.apply(event)
        assert update["nodes"]["keys"] == []
        assert update["nodes"]["columns"]["executions"] == {"rows": [1], "values": [1]}
        assert update["version"] is update["alerts"] is update["processes"] is None
        assert live.row("nodes", "shop", "g", "busy")["executions"] == 4

        served.send_rows({"graph": "new", "node": "late", "seconds": 0.25})
        publish(served)
        update = live.apply(reader.block())
        assert update["nodes"]["keys"] == [["shop", "new", "late"]]
        assert live.row("nodes", "shop", "new", "late")["seconds"] == 0.25
    until(lambda: open_streams(served) == 0, "it is forgotten")


@pytest.mark.parametrize("window", ["1m", "1h"])
def test_updates_add_up_to_the_statistics_of_the_window(window: str) -> None:
    now = [1_800_000_000.0]
    live = Live()
    with serving(lambda: now[0]) as served, reading(served, f"?window={window}") as one:
        live.apply(one.block())
        for step in range(30):
            now[0] += 7.5
            # Late, by more than a bucket: closed ones change as well.
            row = {"graph": "g", "node": "n", "seconds": 0.1 * (step % 7 + 1)}
            late = {**row, "end": now[0] - 25, "outcome": "error", "attempts": 2}
            served.send_rows({**row, "end": now[0]}, late)
            publish(served)
            live.apply(one.block())
            cells = live.row("nodes", "shop", "g", "n")
            stats = served.node("n", window=window)
            assert cells["executions"] == stats["total_executions"]
            assert cells["error"] == stats["outcomes"]["error"]
            assert cells["retries"] == stats["total_retries"]
            average = cells["seconds"] / cells["executions"]
            assert average == pytest.approx(stats["avg_execution_time"], rel=1e-5)
            assert cells["p95"] == pytest.approx(stats["p95_execution_time"], rel=1e-3)


def test_a_later_reader_gets_everything_and_then_the_same_changes(
    served: Served,
) -> None:
    served.send_rows({"node": "n", "seconds": 1.0})
    early, late = Live(), Live()
    with reading(served) as first:
        early.apply(first.block())
        with reading(served) as second:
            late.apply(second.block())
            early.apply(first.block())
            served.send_rows({"node": "n", "seconds": 3.0})
            publish(served)
            events = first.block(), second.block()
            assert events[0] == events[1]
            early.apply(events[0])
            late.apply(events[1])
    assert early.tables == late.tables


def test_an_update_of_500_active_nodes_is_small(served: Served) -> None:
    def work() -> None:
        for graph in range(50):
            served.send_rows(
                *(
                    {"graph": f"graph {graph}", "node": f"node {node}", "seconds": s}
                    for node in range(10)
                    for s in (0.01 * graph + 0.001 * node + 0.1, 2.0 + 0.003 * node)
                )
            )

    work()
    with reading(served) as reader:
        reader.block()
        for _ in range(3):
            work()
            publish(served)
            event = reader.block()
            changes = json.loads(event["data"])["nodes"]["columns"]
            assert len(changes["executions"]["values"]) == 500
            assert len(event["data"]) < 20 * 1024


def test_runs_in_progress_are_sent_with_what_is_wrong(served: Served) -> None:
    start = time.time() - 100
    stuck_flight = ["g", "slow", start, "r-1", 2, start - 50]
    batch = {"type": "batch", "v": 1, "service": "shop", "client": b"c" * 16}
    # As many executions as the built-in rule needs.
    served.send_rows(*[{"graph": "g", "node": "slow", "seconds": 0.5}] * 20)
    served.receive(
        [
            {
                **batch,
                "seq": 1,
                "in_flight": [
                    stuck_flight,
                    ["g", "new", start + 9, "r-2"],
                    ["g", "failing", time.time(), "r-3", 0, start + 20, 2],
                ],
                "loops": [["g", "turn", 120, "r-2"]],
            }
        ],
        "looping",
    )
    evaluate(served)
    live = Live()
    with reading(served) as reader:
        runs = live.apply(reader.block())["runs"]
        assert runs["active"] == 3
        stuck, looping, retrying = runs["changed"]
        assert retrying["trouble"] == ["retrying"]
        assert (stuck["start"], retrying["start"]) == (start - 50, start + 20)
        assert stuck["trouble"] == ["stuck"]
        assert (stuck["node"], stuck["node_start"], stuck["visits"]) == (
            "slow",
            start,
            2,
        )
        assert looping["trouble"] == ["looping"]
        assert runs["order"] == [
            f"{run['client']}/{run['run']}" for run in runs["changed"]
        ]
        assert live.row("nodes", "shop", "g", "slow")["in_flight"] == 1
        assert live.row("graphs", "shop", "g")["in_progress"] == 3
        served.receive(
            [{**batch, "seq": 2, "in_flight": [stuck_flight]}],
            "looping",
        )
        publish(served)
        runs = live.apply(reader.block())["runs"]
        assert (runs["active"], len(runs["order"]), runs["changed"]) == (1, 1, [])


def test_it_ends_after_the_limit(served: Served) -> None:
    with reading(served, "?limit=2") as reader:
        assert reader.block()["event"] == "full"
        publish(served)
        assert reader.block()["event"] == "changes"
        assert reader.block() == {}
    assert served.ask("/api/v1/live?limit=0").status == 400
    assert served.ask("/api/v1/live?window=3m").status == 400


def test_without_readers_nothing_is_built(served: Served) -> None:
    publish(served)

    with reading(served) as reader:
        assert reader.block()["id"] == "1"


def test_a_silence_is_filled_with_comments(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 0.01)

    with reading(served, "?limit=2") as reader:
        while (event := reader.block()) == {"": "keep-alive"}:
            pass
        assert event["id"] == "1"
        assert reader.block() == {"": "keep-alive"}
        publish(served)
        # They don't count towards the limit.
        while (event := reader.block()) == {"": "keep-alive"}:
            pass
        assert event["id"] == "2"
        assert reader.block() == {}


def test_a_subscriber_that_leaves_makes_room_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 3600.0)

    with reading(served):
        assert open_streams(served) == 1
    until(lambda: open_streams(served) == 0, "it is removed")


def work_hard(served: Served, number: int) -> None:
    """Change every figure of 2,000 nodes, and publish: some 80 kB."""
    row = {"seconds": 1.1**number, "outcome": "error", "attempts": 2}
    served.send_rows(*({"node": f"node {n}", **row} for n in range(2_000)))
    publish(served)


def test_a_slow_reader_starts_again_and_holds_up_nobody(served: Served) -> None:
    early, late = Live(), Live()
    with reading(served, buffer=4096) as slow, reading(served) as quick:
        sent = number = 0
        # More than the kernel keeps for the agent, tcp_wmem.
        while sent < 5e6:
            work_hard(served, number := number + 1)
            event = quick.block()
            sent += len(event["data"])
            early.apply(event)
        kinds = []
        while late.sections.get("time") != early.sections["time"]:
            event = slow.block()
            kinds.append(event["event"])
            late.apply(event)
            if len(kinds) > number // 2 and "full" not in kinds[1:]:
                publish(served)
                early.apply(quick.block())
    assert early.tables == late.tables
    assert kinds[0] == "full"
    assert len(kinds) < number


def test_a_reader_that_takes_nothing_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.web.responses.STALL_SECONDS", 0.05)
    numbers = iter(range(10_000))

    def is_gone() -> bool:
        work_hard(served, next(numbers) % 300)
        return open_streams(served) == 0

    with reading(served, buffer=4096):
        until(is_gone, "it is disconnected")


def test_beyond_a_hundred_streams_the_next_is_refused(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(HttpConfig().streams):
            stack.enter_context(reading(served))
        answer = served.ask("/api/v1/live?limit=1")

        assert answer.status == 503
        assert answer.error["code"] == "too_many_streams"
        assert answer.headers["Retry-After"] == "10"
    until(lambda: open_streams(served) == 0, "all are gone")
    with reading(served) as reader:
        assert reader.block()["event"] == "full"


def test_stop_ends_streams_cleanly_and_soon() -> None:
    with contextlib.ExitStack() as stack:
        with serving() as served:
            rows = [{"node": f"{n:0190}", "seconds": 1.0} for n in range(9_000)]
            served.send_rows(*rows)
            ends = stack.enter_context(reading(served, "?limit=1000"))
            stack.enter_context(reading(served))  # and never reads again
            assert ends.block()["event"] == "full"
            began = time.monotonic()
        # Two grace periods of a second at most, of the one that doesn't read.
        assert time.monotonic() - began < 10
        while (event := ends.block()) and event["event"] == "changes":
            pass
        assert event == {}


def test_after_stop_a_publish_does_no_harm() -> None:
    with serving() as served:
        with reading(served):
            publish(served)
        served.await_(served.server.stop())
        publish(served)


def test_an_update_that_fails_does_not_end_the_stream(served: Served) -> None:
    view = served.source.view
    failed = threading.Event()

    def broken() -> Any:
        failed.set()
        raise RuntimeError("broken")

    with reading(served) as reader:
        assert reader.block()["event"] == "full"
        served.source.view = broken  # type: ignore[method-assign]
        # After the readers, the tick looks for blocks to merge, which fails at once.
        with pytest.raises(RuntimeError, match="broken"):
            publish(served)
        assert failed.wait(DEADLINE)
        served.source.view = view  # type: ignore[method-assign]
        publish(served)
        assert reader.block()["event"] == "full"
