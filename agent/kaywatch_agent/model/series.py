"""The nouns that several stages share; imports none of ours."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OTHER",
    "Columns",
    "EndPoint",
    "ErrorKey",
    "Kind",
    "Labels",
    "PhaseColumns",
    "ClientState",
    "SeriesKey",
]

OTHER: Final = "__other__"

Labels = tuple[tuple[str, str], ...]


class Kind(IntEnum):
    """What a series measures."""

    NODE = 0  # executions of a node; the value is seconds
    RUN = 1  # runs of a graph; the value is seconds, attempts are visits
    OBSERVE = 2  # a custom distribution
    COUNT = 3  # a custom sum
    GAUGE = 4  # a custom last value
    LOSS = 5  # events that a client says it lost; the metric is the reason
    LATE = 6  # events that came too late for a bucket, one for each, when they came


class SeriesKey(NamedTuple):
    """What is aggregated over."""

    kind: Kind
    service: str
    graph: str
    node: str
    metric: str = ""
    labels: Labels = ()


class ErrorKey(NamedTuple):
    """An error class as it is counted."""

    type: str
    phase: str


class EndPoint(NamedTuple):
    """Where and why a run ended."""

    reason: str
    node: str
    action: str


class Columns(NamedTuple):
    """Events of any kind, as parallel columns of one length.

    `row` is the series' number in the registry, `action` the number of an action
    (or of an EndPoint, for runs), `error` of an ErrorKey; 0 is none.
    """

    row: NDArray[np.int64]
    time: NDArray[np.float64]  # Unix seconds
    value: NDArray[np.float64]
    outcome: NDArray[np.uint8]
    attempts: NDArray[np.int64]
    action: NDArray[np.int64]
    error: NDArray[np.int64]


class PhaseColumns(NamedTuple):
    """How the time of executions was split, of those of which it is known.

    They are among the events of a Columns, which counts them.
    """

    row: NDArray[np.int64]
    time: NDArray[np.float64]  # Unix seconds
    value: NDArray[np.float64]  # seconds in all
    prep: NDArray[np.float32]
    exec: NDArray[np.float32]
    wait: NDArray[np.float32]
    items: NDArray[np.uint32]


class ClientState(StrEnum):
    """What became of a client."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"  # its process lives; it may come back
    ENDED = "ended"  # it said goodbye
    DIED = "died"  # its process is gone without a goodbye
