"""Series, their keys and kinds, and columns of events."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OTHER",
    "Columns",
    "EndPoint",
    "ErrorKey",
    "Kind",
    "Labels",
    "Numbers",
    "PhaseColumns",
    "ClientState",
    "SeriesKey",
]

OTHER: Final = "__other__"

Labels = tuple[tuple[str, str], ...]
Numbers = NDArray[np.integer[Any]]


class Kind(IntEnum):
    """The kind of event that a series measures."""

    NODE = 0  # executions of a node; the value is seconds
    RUN = 1  # runs of a graph; the value is seconds, attempts are visits
    OBSERVE = 2  # a custom distribution
    COUNT = 3  # a custom sum
    GAUGE = 4  # a custom last value
    LOSS = 5  # events that a client reports as lost; the metric is the reason
    LATE = 6  # events too late for a bucket, counted at the time of arrival
    UNKNOWN = 7  # processes that died; the value is the seconds that nobody knows of


class SeriesKey(NamedTuple):
    """Identifies a series: the aggregation key."""

    kind: Kind
    service: str
    graph: str
    node: str
    metric: str = ""
    labels: Labels = ()


class ErrorKey(NamedTuple):
    """The class by which errors are counted."""

    type: str
    phase: str


class EndPoint(NamedTuple):
    """Where and why a run ended."""

    reason: str
    node: str
    action: str


class Columns(NamedTuple):
    """Events of any kind, as parallel columns of one length.

    `row` is the number of the series in the registry, `action` that of an action (of an
    EndPoint, for runs), and `error` that of an ErrorKey; 0 is none. Integers are as
    narrow as their source allows: thousands of events wait in the CPU cache.
    """

    row: Numbers
    time: NDArray[np.float64]  # Unix seconds
    value: NDArray[np.float64]
    outcome: NDArray[np.uint8]
    attempts: Numbers
    action: Numbers
    error: Numbers


class PhaseColumns(NamedTuple):
    """How the time of executions was split, for those where it is known.

    These executions are also in a Columns, which counts them.
    """

    row: Numbers
    time: NDArray[np.float64]  # Unix seconds
    value: NDArray[np.float64]  # seconds in all
    prep: NDArray[np.float32]
    exec: NDArray[np.float32]
    wait: NDArray[np.float32]
    items: NDArray[np.uint32]


class ClientState(StrEnum):
    """The state of a client."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"  # its process may be alive and reconnect
    ENDED = "ended"  # it sent a bye
    DIED = "died"  # its process ended without a bye
