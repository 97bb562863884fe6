"""The decoded and validated messages of clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import VERSION, ErrorCode
from kaywatch_agent.model.records import (
    FailureRecord,
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.model.series import Labels
from kaywatch_agent.protocol.table import Table

__all__ = [
    "Batch",
    "Bye",
    "Capture",
    "Details",
    "Encoded",
    "Events",
    "Executions",
    "Flush",
    "Hello",
    "Message",
    "Phases",
    "Points",
    "Rejected",
    "Runs",
]


_RAW: Final = msgspec.Raw()


class Encoded(msgspec.Struct):
    """All fields of all messages. Sections stay raw, so that each fails separately."""

    type: str
    v: int = VERSION
    client: bytes = b""
    seq: int | None = None
    service: str = ""
    host: str = ""
    pid: int = 0
    start: float = 0.0
    sdk: str = ""
    tags: dict[str, str] = {}
    greeting: int = 0
    first: int = 0
    sent: float | None = None
    recorded: int = 0
    drops: dict[str, int] = {}
    table: bytes = b""
    executions: msgspec.Raw = _RAW
    points: msgspec.Raw = _RAW
    runs: msgspec.Raw = _RAW
    events: msgspec.Raw = _RAW
    failures: msgspec.Raw = _RAW
    topologies: msgspec.Raw = _RAW
    in_flight: msgspec.Raw = _RAW
    loops: msgspec.Raw = _RAW
    looped: msgspec.Raw = _RAW
    process: msgspec.Raw = _RAW


class Phases(NamedTuple):
    """The durations of the phases of executions, in columns.

    `of` selects the executions that have them: the first ones of each batch.
    """

    prep: NDArray[np.float32]
    exec: NDArray[np.float32]  # without waiting
    wait: NDArray[np.float32]  # between attempts
    items: NDArray[np.uint32]  # of a batch node, else 0
    of: slice | NDArray[np.intp] = slice(None)


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
    """The identity of a connecting client. The reply is an ack.

    `greeting` is the number of the hello, 0 if the client does not number them. `first`
    is the lowest sequence number that the client may still send, 0 if unknown.
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


class Events(NamedTuple):
    """Events in columns, and the table that they index."""

    table: Table
    executions: Executions | None = None
    points: Points | None = None
    runs: Runs | None = None


class Details(NamedTuple):
    """The sections of a batch other than its events."""

    failures: tuple[FailureRecord, ...] = ()
    topologies: tuple[TopologyRecord, ...] = ()
    in_flight: tuple[InFlight, ...] | None = None
    loops: tuple[NodeRevisits, ...] | None = None  # of runs in progress
    looped: tuple[NodeRevisits, ...] = ()  # of runs that ended
    process: ProcessSample | None = None


class Batch(NamedTuple):
    """A batch with a decoded header and encoded sections.

    The sections are decoded at the tick, together with those of other batches; see
    `protocol.batches`.
    """

    client: str
    seq: int | None
    sent: float | None
    service: str
    recorded: int
    drops: Mapping[str, int]
    encoded: Encoded


class Flush(NamedTuple):
    """A request for a commit and the acks that follow it."""

    client: str


class Bye(NamedTuple):
    """The last message of a process that exits normally."""

    client: str
    seq: int
    drops: Mapping[str, int]


class Capture(NamedTuple):
    """A request for copies of all incoming messages."""


class Rejected(NamedTuple):
    """An invalid message.

    `seq` is the sequence number if the message is a batch and the number is readable.
    The client then drops the batch instead of sending it again. `fatal` means that the
    stream is unreadable and the connection must be closed.
    """

    code: ErrorCode
    text: str
    seq: int | None = None
    fatal: bool = False


Message = Hello | Batch | Flush | Bye | Capture | Rejected
