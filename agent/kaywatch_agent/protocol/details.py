"""What a batch tells beside its events: failures, wiring, flights, loops, usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from kaywatch.wire import MAX_NAME, PHASES, ErrorCode, Outcome
from kaywatch_agent.model.series import InFlight, Loop, ProcessSample
from kaywatch_agent.protocol.columns import BAD_INPUT, Checked
from kaywatch_agent.protocol.limits import (
    MAX_ATTEMPTS,
    MAX_COUNT,
    MAX_LIST,
    MAX_MESSAGE,
    MAX_TIME,
    MAX_TRACEBACK,
)
from kaywatch_agent.protocol.lists import items
from kaywatch_agent.protocol.messages import Failure, Topology

__all__ = ["failures", "in_flight", "looped", "loops", "process", "topologies"]

T = TypeVar("T")


def failures(encoded: msgspec.Raw, checked: Checked) -> tuple[Failure, ...]:
    """Return the sound failures; the others are counted."""
    return _sound(encoded, "failures", _failure, checked) or ()


def topologies(encoded: msgspec.Raw, checked: Checked) -> tuple[Topology, ...]:
    """Return the sound topologies; the others are counted."""
    return _sound(encoded, "topologies", _topology, checked) or ()


def in_flight(encoded: msgspec.Raw, checked: Checked) -> tuple[InFlight, ...] | None:
    """Return the nodes in flight, or None if the batch doesn't say."""
    return _sound(encoded, "in_flight", _flight, checked)


def loops(encoded: msgspec.Raw, checked: Checked) -> tuple[Loop, ...] | None:
    """Return the loops of runs under way, or None if the batch doesn't say."""
    return _sound(encoded, "loops", _loop, checked)


def looped(encoded: msgspec.Raw, checked: Checked) -> tuple[Loop, ...]:
    """Return the sound loops of runs that ended; the others are counted."""
    return _sound(encoded, "looped", _loop, checked) or ()


def process(encoded: msgspec.Raw, checked: Checked) -> ProcessSample | None:
    """Return what the process uses; None if the batch doesn't say, or not rightly."""
    if not encoded:
        return None
    try:
        return _sample(encoded)
    except BAD_INPUT as error:
        checked.count(ErrorCode.BAD_SECTION, f"process: {error}")
        return None


# -- inside --------------------------------------------------------------------------


def _sound(
    encoded: msgspec.Raw,
    where: str,
    read: Callable[[msgspec.Raw], T],
    checked: Checked,
) -> tuple[T, ...] | None:
    if not encoded:
        return None
    found = items(encoded, where, MAX_LIST, ErrorCode.BAD_SECTION, checked)
    if found is None:
        return None
    sound = []
    for number, item in enumerate(found):
        try:
            sound.append(read(item))
        except BAD_INPUT as error:
            checked.count(ErrorCode.BAD_SECTION, f"{where}[{number}]: {error}")
    return tuple(sound)


class _Failure(msgspec.Struct):
    time: float
    node: str
    type: str
    graph: str = ""
    message: str = ""
    phase: str = ""
    attempts: int = 1
    outcome: int = int(Outcome.ERROR)
    run: str = ""
    traceback: str = ""


class _Topology(msgspec.Struct):
    graph: str
    nodes: list[str]
    edges: list[tuple[str, str, str]] = []
    start: str = ""


class _Flight(msgspec.Struct, array_like=True):
    graph: str
    node: str
    start: float
    run: str
    visits: int = 0


class _Loop(msgspec.Struct, array_like=True):
    graph: str
    node: str
    visits: int
    run: str = ""


class _Usage(msgspec.Struct):
    cpu: float
    rss: int = 0


_usages: Final = msgspec.msgpack.Decoder(_Usage)
_failures: Final = msgspec.msgpack.Decoder(_Failure)
_topologies: Final = msgspec.msgpack.Decoder(_Topology)
_flights: Final = msgspec.msgpack.Decoder(_Flight)
_loops: Final = msgspec.msgpack.Decoder(_Loop)


def _failure(encoded: msgspec.Raw) -> Failure:
    found = _failures.decode(encoded)
    return Failure(
        time=_time(found.time),
        graph=found.graph[:MAX_NAME],
        node=found.node[:MAX_NAME],
        type=found.type[:MAX_NAME],
        message=found.message[:MAX_MESSAGE],
        phase=found.phase if found.phase in PHASES else "",
        attempts=min(max(1, found.attempts), MAX_ATTEMPTS),
        outcome=Outcome(found.outcome),
        run=found.run[:MAX_NAME],
        traceback=found.traceback[:MAX_TRACEBACK],
    )


def _topology(encoded: msgspec.Raw) -> Topology:
    found = _topologies.decode(encoded)
    if len(found.nodes) > MAX_LIST or len(found.edges) > MAX_LIST:
        raise ValueError(f"over {MAX_LIST} nodes or edges")
    return Topology(
        graph=found.graph[:MAX_NAME],
        start=found.start[:MAX_NAME],
        nodes=tuple(node[:MAX_NAME] for node in found.nodes),
        edges=tuple(
            (node[:MAX_NAME], action[:MAX_NAME], after[:MAX_NAME])
            for node, action, after in found.edges
        ),
    )


def _flight(encoded: msgspec.Raw) -> InFlight:
    found = _flights.decode(encoded)
    return InFlight(
        found.graph[:MAX_NAME],
        found.node[:MAX_NAME],
        _time(found.start),
        found.run[:MAX_NAME],
        min(max(0, found.visits), MAX_ATTEMPTS),
    )


def _loop(encoded: msgspec.Raw) -> Loop:
    found = _loops.decode(encoded)
    return Loop(
        found.graph[:MAX_NAME],
        found.node[:MAX_NAME],
        min(max(0, found.visits), MAX_COUNT),
        found.run[:MAX_NAME],
    )


def _sample(encoded: msgspec.Raw) -> ProcessSample:
    found = _usages.decode(encoded)
    if not 0 <= found.rss <= MAX_COUNT:
        raise ValueError(f"rss={found.rss}: expected bytes")
    if not 0 <= found.cpu <= MAX_TIME:
        raise ValueError(f"cpu={found.cpu}: expected seconds")
    return ProcessSample(found.rss, found.cpu)


def _time(seconds: float) -> float:
    if not 0 <= seconds <= MAX_TIME:
        raise ValueError(f"{seconds}: expected Unix seconds")
    return seconds
