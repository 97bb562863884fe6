"""What a client can say, decoded and checked: the values that later stages take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import ErrorCode
from kaywatch_agent.model.records import (
    FailureRecord,
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.model.series import ErrorKey, Labels
from kaywatch_agent.protocol.table import Table

__all__ = [
    "Batch",
    "Bye",
    "Capture",
    "Executions",
    "Flush",
    "Hello",
    "Message",
    "Phases",
    "Points",
    "Rejected",
    "Runs",
]


class Phases(NamedTuple):
    """How the seconds of the first executions of a batch were split, in columns."""

    prep: NDArray[np.float32]
    exec: NDArray[np.float32]  # without waiting
    wait: NDArray[np.float32]  # between attempts
    items: NDArray[np.uint32]  # of a batch node, else 0


class Executions(NamedTuple):
    """Executions in columns; the indexes are within the batch's table."""

    series: NDArray[np.uint16]
    end: NDArray[np.float64]
    seconds: NDArray[np.float64]
    outcome: NDArray[np.uint8]
    attempts: NDArray[np.uint16]
    action: NDArray[np.uint16]
    error: NDArray[np.uint16]
    phases: Phases | None = None


class Points(NamedTuple):
    """Custom metrics' values in columns."""

    series: NDArray[np.uint16]
    time: NDArray[np.float64]
    value: NDArray[np.float64]


class Runs(NamedTuple):
    """Runs that ended, in columns."""

    graph: NDArray[np.uint16]
    end: NDArray[np.float64]
    seconds: NDArray[np.float64]
    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint16]
    node: NDArray[np.uint16]
    action: NDArray[np.uint16]
    visits: NDArray[np.uint32]


class Hello(NamedTuple):
    """Who connects; the reply is an ack.

    `greeting` numbers a client's hellos, 0 when it doesn't; `first` is the lowest
    number of a batch that may still come, 0 when it doesn't say.
    """

    client: str
    service: str
    host: str
    pid: int
    start: float
    sdk: str
    tags: Labels
    greeting: int = 0
    first: int = 0


class Batch(NamedTuple):
    """One batch: its sound part, and what was wrong with the rest.

    `rejected` counts events (for sections without events, the sections) by reason;
    `problem` describes the first of them for the sender.
    """

    client: str
    seq: int | None
    sent: float | None
    service: str
    recorded: int
    drops: Mapping[str, int]
    table: Table
    executions: Executions | None
    points: Points | None
    runs: Runs | None
    failures: tuple[FailureRecord, ...]
    topologies: tuple[TopologyRecord, ...]
    in_flight: tuple[InFlight, ...] | None
    rejected: Counter[ErrorCode]
    problem: str
    loops: tuple[NodeRevisits, ...] | None = None  # of runs under way
    looped: tuple[NodeRevisits, ...] = ()  # of runs that ended
    process: ProcessSample | None = None


class Flush(NamedTuple):
    """The client waits for its acks."""

    client: str


class Bye(NamedTuple):
    """The client's process ends cleanly."""

    client: str
    seq: int
    drops: Mapping[str, int]


class Capture(NamedTuple):
    """Somebody asks for copies of what comes in."""


class Rejected(NamedTuple):
    """A message of which nothing could be used.

    `seq` is set when it was a batch whose number could still be read: that batch is
    refused for good, so that it isn't sent for ever. `fatal` means that the stream is
    out of step and the connection has to be closed.
    """

    code: ErrorCode
    text: str
    seq: int | None = None
    fatal: bool = False


Message = Hello | Batch | Flush | Bye | Capture | Rejected

NO_ERROR = ErrorKey("", "")
