"""Captures the events that your code records, for tests without an agent.

from kaywatch.testing import capture

def test_payment_retries():
    with capture() as captured:
        flow.run({})
    (pay,) = captured.executions("Pay")
    assert pay.attempts == 2
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

from kaywatch import wire
from kaywatch._process import process
from kaywatch.recorder import Failure, Topology

__all__ = [
    "CapturedEvents",
    "Execution",
    "MemoryTransport",
    "Point",
    "RunEnd",
    "capture",
]


class Execution(NamedTuple):
    """One execution as it was sent.

    `prep`, `exec`, `wait` and `items` are None where they are unknown: for
    `kaywatch.execution`, and for a node whose `_run` does not call `_exec`.

    Example:
        with kaywatch.testing.capture() as captured:
            with kaywatch.execution("checkout", "pay"):
                pass
        (pay,) = captured.executions("pay")
        assert pay.attempts == 1 and pay.outcome.name == "OK"

    Attributes:
        prep, exec: seconds in those phases, without waiting.
        wait: seconds between failed attempts and the next ones.
        items: the number of a batch's items; 0 for a node that is not a batch.
    """

    graph: str
    node: str
    end: float
    seconds: float
    outcome: wire.Outcome
    attempts: int
    action: str
    error: str
    phase: str
    prep: float | None = None
    exec: float | None = None
    wait: float | None = None
    items: int | None = None

    @property
    def post(self) -> float | None:
        """Seconds in `post`: the rest of the execution."""
        if self.prep is None or self.exec is None or self.wait is None:
            return None
        return max(0.0, self.seconds - self.prep - self.exec - self.wait)


class Point(NamedTuple):
    """One value of a custom metric as it was sent; `time` is in Unix seconds.

    Example:
        with kaywatch.testing.capture() as captured:
            kaywatch.observe("answer_characters", 1834, model="large")
        (point,) = captured.points("answer_characters")
        assert (point.value, point.labels) == (1834, {"model": "large"})
    """

    kind: str
    name: str
    graph: str
    node: str
    labels: dict[str, str]
    time: float
    value: float


class RunEnd(NamedTuple):
    """One run that ended, as it was sent; `end` is in Unix seconds.

    Example:
        kaywatch.instrument()
        with kaywatch.testing.capture() as captured:
            Flow(start=Node()).run({})
        (run,) = captured.runs()
        assert (run.visits, run.outcome.name) == (1, "OK")
    """

    graph: str
    end: float
    seconds: float
    outcome: wire.Outcome
    reason: str
    node: str
    action: str
    visits: int


class MemoryTransport:
    """An agent in memory that acknowledges and keeps all messages.

    `capture` uses it. Use it directly for tests of a transport.

    Example:
        received = []
        transport = kaywatch.testing.MemoryTransport(received)
        transport.close()
        assert received == []
    """

    lossy = False
    largest = wire.MAX_FRAME

    def __init__(self, received: list[dict[str, Any]]) -> None:
        self.received = received
        self.backlog = 0
        self._replies: list[bytes] = []

    def send(self, message: bytes) -> None:
        """Keep one message, and acknowledge it."""
        decoded = wire.decode(message)
        self.received.append(decoded)
        client = decoded.get("client", b"")
        if decoded["type"] == "hello":
            self._replies.append(wire.ack(0, client))
        elif decoded["type"] == "batch":
            self._replies.append(wire.ack(decoded["seq"], client))

    def receive(self, timeout: float) -> list[bytes]:  # noqa: ARG002
        """Return the acknowledgements."""
        replies, self._replies = self._replies, []
        return replies

    def close(self) -> None:
        """Nothing to release."""


class CapturedEvents:
    """The events that the code under test recorded; filled when `capture` ends.

    Example:
        with kaywatch.testing.capture() as captured:
            with kaywatch.execution("checkout", "pay"):
                pass
        assert [e.node for e in captured.executions()] == ["pay"]
        assert captured.failures() == []
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def executions(self, node: str | None = None) -> list[Execution]:
        """Return the executions in order of their end, or those of one node."""
        columns = {**wire.EXECUTION_COLUMNS, **wire.PHASE_COLUMNS}
        rows = self._rows("executions", columns)
        executions = sorted((Execution(**row) for row in rows), key=lambda e: e.end)
        return [e for e in executions if node is None or e.node == node]

    def points(self, name: str | None = None) -> list[Point]:
        """Return the custom metrics' values in order, or those of one metric."""
        points = (Point(**row) for row in self._rows("points", wire.POINT_COLUMNS))
        return [p for p in points if name is None or p.name == name]

    def runs(self, graph: str | None = None) -> list[RunEnd]:
        """Return the runs in order of their end, or those of one graph."""
        runs = (RunEnd(**row) for row in self._rows("runs", wire.RUN_COLUMNS))
        return [r for r in runs if graph is None or r.graph == graph]

    def failures(self) -> list[Failure]:
        """Return the failures' details in order."""
        return [Failure(**item) for item in self._items("failures")]

    def topologies(self) -> dict[str, Topology]:
        """Return the last topology of each graph."""
        topologies = {}
        for item in self._items("topologies"):
            edges = tuple(map(tuple, item["edges"]))
            nodes = tuple(item["nodes"])
            topology = Topology(item["graph"], item["start"], nodes, edges)
            topologies[topology.graph] = topology
        return topologies

    def _items(self, section: str) -> Iterator[dict[str, Any]]:
        for message in self.messages:
            yield from message.get(section, [])

    def _rows(
        self, section: str, columns: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        for message in self.messages:
            packed = message.get(section)
            if packed:
                table = wire.decode(message["table"])
                values = [
                    array(code, packed.get(name, b"")) for name, code in columns.items()
                ]
                for row in zip_longest(*values):
                    yield _resolve_names(dict(zip(columns, row, strict=True)), table)


def _resolve_names(row: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the names that its indexes refer to."""
    strings = table["strings"]
    for name in row.keys() & {"action", "graph", "node", "reason"}:
        row[name] = strings[row[name]]
    if "outcome" in row:
        row["outcome"] = wire.Outcome(row["outcome"])
    if "error" in row:
        number, row["phase"] = table["errors"][row["error"]]
        row["error"] = strings[number]
    if "value" in row:
        kind, *names, labels = table["points"][row.pop("series")]
        row |= {"kind": kind, "labels": labels}
        row |= zip(("name", "graph", "node"), (strings[n] for n in names), strict=True)
    elif "series" in row:
        graph, node = table["series"][row.pop("series")]
        row |= {"graph": strings[graph], "node": strings[node]}
    return row


@contextmanager
def capture() -> Iterator[CapturedEvents]:
    """Keep the events of the block in memory instead of sending them.

    They are available once the block has ended. Blocks cannot be nested.

    Example:
        with kaywatch.testing.capture() as captured:
            kaywatch.count("cache_hits", 3)
        assert captured.points("cache_hits")[0].value == 3

    Threads and forks:
        It captures the events of all threads of this process, but not of children.
        Tests that run at the same time in one process would share their events.
    """
    captured = CapturedEvents()
    before = process.settings
    process.stop(before.exit_timeout)
    process.recorder.forget()
    process.settings = before._replace(
        enabled=True, connect=lambda: MemoryTransport(captured.messages)
    )
    try:
        yield captured
    finally:
        process.stop(5.0)
        process.settings = before
