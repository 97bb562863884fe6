"""For your tests: see what your code records, without an agent.

from kaywatch.testing import capture

def test_payment_retries():
    with capture() as captured:
        flow.run({})
    (pay,) = captured.executions("Pay")
    assert pay.attempts == 2
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

from kaywatch import wire
from kaywatch._process import process
from kaywatch.recorder import Failure, Topology

__all__ = ["Captured", "Execution", "MemoryTransport", "Point", "RunEnd", "capture"]


class Execution(NamedTuple):
    """One execution as it was sent.

    How its time was split is None where it isn't known: of `kaywatch.execution`, and
    of a node whose `_run` calls no `_exec`.

    Attributes:
        prep, exec: seconds in those phases, waiting left out.
        wait: seconds between an attempt that failed and the next one.
        items: how many a batch had; 0 for a node that is none.
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
        """Seconds that are left of the whole: those in `post`."""
        if self.prep is None or self.exec is None or self.wait is None:
            return None
        return max(0.0, self.seconds - self.prep - self.exec - self.wait)


class Point(NamedTuple):
    """One value of a custom metric as it was sent."""

    kind: str
    name: str
    graph: str
    node: str
    labels: dict[str, str]
    time: float
    value: float


class RunEnd(NamedTuple):
    """One run that ended, as it was sent."""

    graph: str
    end: float
    seconds: float
    outcome: wire.Outcome
    reason: str
    node: str
    action: str
    visits: int


class MemoryTransport:
    """An agent in memory: acknowledges everything, and keeps it."""

    lossy = False
    largest = wire.MAX_FRAME

    def __init__(self, received: list[dict[str, Any]]) -> None:
        self.received = received
        self.backlog = 0
        self._replies: list[bytes] = []

    def send(self, message: bytes) -> None:
        """Take one message."""
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


class Captured:
    """What the code under test recorded; filled when `capture` ends."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def executions(self, node: str | None = None) -> list[Execution]:
        """Return the executions in order of their end, or those of one node."""
        found = []
        columns = {**wire.EXECUTION_COLUMNS, **wire.PHASE_COLUMNS}
        for table, row in self._rows("executions", columns):
            series, end, seconds, outcome, attempts, action, error, *phases = row
            graph, name = table.series(series)
            kind, phase = table.error(error)
            found.append(
                Execution(
                    graph,
                    name,
                    end,
                    seconds,
                    wire.Outcome(outcome),
                    attempts,
                    table.strings[action],
                    kind,
                    phase,
                    *phases,
                )
            )
        found.sort(key=lambda execution: execution.end)
        return [e for e in found if node is None or e.node == node]

    def points(self, name: str | None = None) -> list[Point]:
        """Return the custom metrics' values in order, or those of one metric."""
        found = []
        for table, row in self._rows("points", wire.POINT_COLUMNS):
            series, time, value = row
            kind, metric, graph, node, labels = table.points[series]
            text = table.strings
            found.append(
                Point(kind, text[metric], text[graph], text[node], labels, time, value)
            )
        return [p for p in found if name is None or p.name == name]

    def runs(self, graph: str | None = None) -> list[RunEnd]:
        """Return the runs in order of their end, or those of one graph."""
        found = []
        for table, row in self._rows("runs", wire.RUN_COLUMNS):
            number, end, seconds, outcome, reason, node, action, visits = row
            text = table.strings
            found.append(
                RunEnd(
                    text[number],
                    end,
                    seconds,
                    wire.Outcome(outcome),
                    text[reason],
                    text[node],
                    text[action],
                    visits,
                )
            )
        return [r for r in found if graph is None or r.graph == graph]

    def failures(self) -> list[Failure]:
        """Return the failures' details in order."""
        return [Failure(**item) for item in self._items("failures")]

    def topologies(self) -> dict[str, Topology]:
        """Return the last topology of each graph."""
        found = {}
        for item in self._items("topologies"):
            edges = tuple(tuple(edge) for edge in item["edges"])
            found[item["graph"]] = Topology(
                item["graph"], item["start"], tuple(item["nodes"]), edges
            )
        return found

    def _items(self, section: str) -> Iterator[dict[str, Any]]:
        for message in self.messages:
            yield from message.get(section, [])

    def _rows(
        self, section: str, columns: Any
    ) -> Iterator[tuple[_Table, tuple[Any, ...]]]:
        for message in self.messages:
            packed = message.get(section)
            if packed:
                table = _Table(wire.decode(message["table"]))
                values = [
                    array(code, packed.get(name, b"")) for name, code in columns.items()
                ]
                for row in zip_longest(*values):
                    yield table, row


class _Table:
    def __init__(self, table: dict[str, Any]) -> None:
        self.strings: list[str] = table["strings"]
        self.points: list[Any] = table["points"]
        self._series: list[list[int]] = table["series"]
        self._errors: list[list[Any]] = table["errors"]

    def series(self, index: int) -> tuple[str, str]:
        graph, node = self._series[index]
        return self.strings[graph], self.strings[node]

    def error(self, index: int) -> tuple[str, str]:
        kind, phase = self._errors[index]
        return self.strings[kind], phase


@contextmanager
def capture() -> Iterator[Captured]:
    """Keep what is recorded within the block in memory instead of sending it.

    It is there once the block has ended. Not to be nested.
    """
    captured = Captured()
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
