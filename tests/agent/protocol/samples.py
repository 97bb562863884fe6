"""Messages to send, sound ones and variations of them, and how to read the answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from tests.agent.protocol.whole import Batch, Decoder, Message

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.protocol.framing import FrameReader
from kaywatch_agent.protocol.messages import Rejected
from kaywatch_agent.protocol.table import Table

# For properties: a busy machine must not fail a test.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CLIENT = bytes(range(16))
START = 1_700_000_000.0

TABLE = {
    "strings": ["", "checkout", "pay", "ship", "default", "Timeout", "tokens"],
    "series": [[1, 2], [1, 3]],
    "points": [["count", 6, 1, 2, {"model": "m1"}]],
    "errors": [[0, ""], [5, "exec"]],
}


def column(code: str, values: Iterable[Any]) -> bytes:
    """Pack a column; the machines that run the tests are little-endian."""
    return array(code, values).tobytes()


def pack_columns(codes: Any, values: dict[str, list[Any]]) -> dict[str, bytes]:
    return {name: column(code, values[name]) for name, code in codes.items()}


def executions(size: int = 3, **changed: list[Any]) -> dict[str, bytes]:
    """Return valid executions in columns, except for `changed`."""
    values: dict[str, list[Any]] = {
        "series": [number % 2 for number in range(size)],
        "end": [START + number for number in range(size)],
        "seconds": [0.25 * (number + 1) for number in range(size)],
        "outcome": [0] * size,
        "attempts": [1] * size,
        "action": [4] * size,
        "error": [0] * size,
    }
    return pack_columns(wire.EXECUTION_COLUMNS, {**values, **changed})


def phases(size: int = 2, **changed: list[Any]) -> dict[str, bytes]:
    """Return sound phases of the first executions of a batch, as `executions`."""
    values: dict[str, list[Any]] = {
        "prep": [0.0625] * size,
        "exec": [0.125] * size,
        "wait": [0.03125] * size,
        "items": list(range(size)),
    }
    return pack_columns(wire.PHASE_COLUMNS, {**values, **changed})


def points(size: int = 2, **changed: list[Any]) -> dict[str, bytes]:
    values: dict[str, list[Any]] = {
        "series": [0] * size,
        "time": [START] * size,
        "value": [1.5 * number for number in range(size)],
    }
    return pack_columns(wire.POINT_COLUMNS, {**values, **changed})


def runs(size: int = 2, **changed: list[Any]) -> dict[str, bytes]:
    values: dict[str, list[Any]] = {
        "graph": [1] * size,
        "end": [START] * size,
        "seconds": [1.0] * size,
        "outcome": [0] * size,
        "reason": [4] * size,
        "node": [3] * size,
        "action": [4] * size,
        "visits": [2] * size,
    }
    return pack_columns(wire.RUN_COLUMNS, {**values, **changed})


FAILURE: dict[str, Any] = {
    "time": START,
    "graph": "checkout",
    "node": "pay",
    "type": "Timeout",
    "message": "no answer",
    "phase": "exec",
    "attempts": 3,
    "outcome": 1,
    "run": "a1-7",
}
TOPOLOGY: dict[str, Any] = {
    "graph": "checkout",
    "start": "pay",
    "nodes": ["pay", "ship"],
    "edges": [["pay", "default", "ship"]],
}
FLIGHT: list[Any] = ["checkout", "pay", START, "a1-8"]
ROW: dict[str, Any] = {"graph": "checkout", "node": "pay", "seconds": 0.5}


def hello(**changed: Any) -> bytes:
    """Return a valid hello, except for `changed`; None leaves a key out."""
    return message(
        {
            "type": "hello",
            "v": 1,
            "client": CLIENT,
            "service": "shop",
            "host": "web1",
            "pid": 4711,
            "start": START,
            "sdk": "mine/1.0",
            "tags": {"release": "r7"},
        },
        changed,
    )


def batch(**changed: Any) -> bytes:
    """Return a valid batch of three executions, except for `changed`."""
    return message(
        {
            "type": "batch",
            "v": 1,
            "client": CLIENT,
            "seq": 1,
            "sent": START + 10,
            "service": "shop",
            "recorded": 3,
            "executions": executions(),
            "table": wire.pack(TABLE),
        },
        changed,
    )


def rows(*events: Any, **changed: Any) -> bytes:
    """Return a batch of rows."""
    return message(
        {"type": "batch", "service": "cron", "events": list(events)}, changed
    )


def message(sound: dict[str, Any], changed: dict[str, Any]) -> bytes:
    result = {**sound, **changed}
    return wire.pack({key: value for key, value in result.items() if value is not None})


# -- decoding --------------------------------------------------------------------------

TRAILING = wire.flush(CLIENT)


def decode(packed: bytes) -> Message:
    """Decode one message whole, byte by byte, and with another one behind it.

    The three must agree, and the message behind it must arrive.
    """
    stream = wire.frame(packed)
    (whole,) = read([stream])
    (in_bytes,) = read(stream[at : at + 1] for at in range(len(stream)))
    followed, behind = read([stream + wire.frame(TRAILING)])
    assert plain(in_bytes) == plain(whole) == plain(followed)
    assert plain(behind) == plain(Decoder().decode(TRAILING))
    return whole


def read(chunks: Iterable[bytes]) -> list[Message]:
    """Return the messages in a stream that arrives in `chunks`."""
    reader, decoder = FrameReader(), Decoder()
    results = []
    for chunk in chunks:
        for frame in reader.receive(chunk):
            assert isinstance(frame, bytes)
            results.append(decoder.decode(frame))
    return results


def decode_batch(packed: bytes) -> Batch:
    """Decode a batch of which at least something can be used."""
    result = decode(packed)
    assert isinstance(result, Batch), result
    return result


def decode_rejection(packed: bytes) -> Rejected:
    """Decode a message of which nothing can be used."""
    result = decode(packed)
    assert isinstance(result, Rejected), result
    return result


def count_rejected(batch: Batch) -> dict[ErrorCode, int]:
    """Return the rejected events of a batch; check that an error is reported."""
    assert bool(batch.problem) == bool(batch.rejected)
    return dict(batch.rejected)


def events(batch: Batch) -> list[dict[str, Any]]:
    """Return a batch's events with names instead of indexes, as a person reads them.

    Executions have the keys of phases where these are known.
    """
    return [*_executions(batch), *_points(batch), *_runs(batch)]


def _executions(batch: Batch) -> Iterator[dict[str, Any]]:
    table = batch.table
    if batch.executions is None:
        return
    *columns, known = batch.executions
    split = zip(*(c.tolist() for c in known[:-1]), strict=True) if known else iter(())
    for row in zip(*(c.tolist() for c in columns), strict=True):
        series, end, seconds, outcome, attempts, action, error = row
        graph, node = table.series[series]
        yield {
            "graph": graph,
            "node": node,
            "end": end,
            "seconds": seconds,
            "outcome": wire.Outcome(outcome).name.lower(),
            "attempts": attempts,
            "action": table.strings[action],
            "error": table.errors[error].type,
            "phase": table.errors[error].phase,
            **dict(zip(wire.PHASE_COLUMNS, next(split, ()), strict=False)),
        }


def _points(batch: Batch) -> Iterator[dict[str, Any]]:
    if batch.points is None:
        return
    for series, time, value in zip(*(c.tolist() for c in batch.points), strict=True):
        kind, metric, graph, node, labels = batch.table.points[series]
        yield {
            "metric": metric,
            "kind": str(kind),
            "graph": graph,
            "node": node,
            "labels": dict(labels),
            "time": time,
            "value": value,
        }


def _runs(batch: Batch) -> Iterator[dict[str, Any]]:
    text = batch.table.strings
    if batch.runs is None:
        return
    for row in zip(*(c.tolist() for c in batch.runs), strict=True):
        graph, end, seconds, outcome, reason, node, action, visits = row
        yield {
            "graph": text[graph],
            "end": end,
            "seconds": seconds,
            "outcome": wire.Outcome(outcome).name.lower(),
            "reason": text[reason],
            "node": text[node],
            "action": text[action],
            "visits": visits,
        }


def plain(value: Any) -> Any:
    """Return a message as values that compare by ==, NaN included."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Table):
        return (value.strings, value.series, value.points, value.errors)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, tuple):
        return (type(value).__name__, *map(plain, value))
    return value
