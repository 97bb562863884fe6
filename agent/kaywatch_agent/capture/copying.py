"""A captured message becomes one to send: another client's, and of now. Pure.

A client's id is replaced by one made from it and a replay's salt, so that a replay is
not taken for a duplicate, and two of them count twice. Numbers stay. A batch without a
number gets a client and a number of its own, so that it is acknowledged as well.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

__all__ = ["Copier", "Outgoing", "due", "events_in"]

Raws = dict[str, msgspec.Raw]

_raws: Final = msgspec.msgpack.Decoder(Raws)
_lists: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_numbers: Final = msgspec.msgpack.Decoder(float)
_flights: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_encode: Final = msgspec.msgpack.Encoder().encode

# The column of each section whose length is its number of events, and its width.
_SERIES: Final = {"executions": "series", "points": "series", "runs": "graph"}
_INDEX_BYTES: Final = 2
_TIMES: Final = {"executions": "end", "points": "time", "runs": "end"}


class Outgoing(NamedTuple):
    """A message to send.

    Attributes:
        message: the bytes.
        type: what it is.
        client: whose it is now; empty for none.
        seq: the batch's number, 0 for none.
        events: how many events it holds.
    """

    message: bytes
    type: str
    client: bytes = b""
    seq: int = 0
    events: int = 0


class _Head(msgspec.Struct):
    type: str
    client: bytes = b""
    seq: int | None = None
    recorded: int = 0
    drops: dict[str, int] = {}


_heads: Final = msgspec.msgpack.Decoder(_Head)


class Copier:
    """Turns the messages of one capture into those of one replay."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._unnumbered: dict[bytes, int] = {}  # the last number, by client
        self._before: dict[bytes, int] = {}  # recorded before the capture, by client

    def copy(self, message: bytes, connection: int, shift: float) -> Outgoing | None:
        """Return what to send for a message, None if it is of no use.

        Args:
            message: as captured.
            connection: what it came on.
            shift: seconds to add to its times.
        """
        try:
            head = _heads.decode(message)
            found: dict[str, Any] = dict(_raws.decode(message))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        if head.type not in ("hello", "batch", "flush", "bye"):
            return None
        events = events_in(message) if head.type == "batch" else 0
        if head.client:
            found["client"] = self._renamed(head.client)
        seq = head.seq or 0
        if head.type == "batch":
            if seq:
                found["recorded"] = self._recorded(head, events)
            else:
                name = self._renamed(head.client + b"%d unnumbered" % connection)
                seq = self._unnumbered[name] = self._unnumbered.get(name, 0) + 1
                found |= {"client": name, "seq": seq}
        if shift:
            _shift(found, shift)
        client = found.get("client", b"")
        return Outgoing(_encode(found), head.type, client, seq, events)

    def _renamed(self, client: bytes) -> bytes:
        return blake2b(client, digest_size=16, key=self._salt).digest()

    def _recorded(self, head: _Head, events: int) -> int:
        """Return what was recorded since the capture began.

        What the agent had taken before isn't in the capture, and would pass for lost.
        """
        before = self._before.get(head.client)
        if before is None:
            before = 0
            if (head.seq or 0) > 1:
                before = head.recorded - events - sum(head.drops.values())
            self._before[head.client] = before = max(0, before)
        return max(0, head.recorded - before)


def events_in(message: bytes) -> int:
    """Return how many events a batch holds, sound or not; 0 for what is no batch."""
    try:
        found = _raws.decode(message)
        if "events" in found:
            return len(_lists.decode(found["events"]))
        return sum(
            len(_column(found[section], name)) // _INDEX_BYTES
            for section, name in _SERIES.items()
            if section in found
        )
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError):
        return 0


def due(at: float, first: float, speed: float) -> float:
    """Return how many seconds after its start a replay sends what came at a time.

    Args:
        at: when it came, Unix seconds.
        first: when the first message of the capture came.
        speed: how many times faster than it came; infinite for at once.
    """
    return max(0.0, at - first) / speed


def _shift(found: dict[str, Any], shift: float) -> None:
    """Add seconds to all times of a message, in place."""
    for key in ("start", "sent"):
        if key in found:
            found[key] = _later(found[key], shift)
    for section, name in _TIMES.items():
        if section in found:
            found[section] = _columns(found[section], name, shift)
    for section, change in (
        ("failures", _failure),
        ("events", _row),
        ("in_flight", _flight),
    ):
        if section in found:
            found[section] = _each(found[section], change, shift)


def _later(encoded: msgspec.Raw, shift: float) -> object:
    """Return a time later; one of 0 or before says that there is none."""
    try:
        time = _numbers.decode(encoded)
    except (msgspec.MsgspecError, ValueError):
        return encoded
    return time + shift if time > 0 else encoded


def _column(section: msgspec.Raw, name: str) -> bytes:
    return msgspec.msgpack.decode(_raws.decode(section)[name], type=bytes)


def _columns(section: msgspec.Raw, name: str, shift: float) -> object:
    try:
        times = np.frombuffer(_column(section, name), "<f8")
        later = np.where(times > 0, times + shift, times)
        return {**_raws.decode(section), name: later.astype("<f8").tobytes()}
    except (msgspec.MsgspecError, ValueError, KeyError):
        return section


def _each(
    encoded: msgspec.Raw, change: Callable[[msgspec.Raw, float], object], shift: float
) -> object:
    try:
        return [change(item, shift) for item in _lists.decode(encoded)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return encoded


def _failure(item: msgspec.Raw, shift: float) -> object:
    return _item(item, ("time",), shift)


def _row(item: msgspec.Raw, shift: float) -> object:
    return _item(item, ("end", "time"), shift)


def _item(item: msgspec.Raw, keys: tuple[str, ...], shift: float) -> object:
    try:
        found: dict[str, Any] = dict(_raws.decode(item))
    except (msgspec.MsgspecError, ValueError):
        return item
    return found | {key: _later(found[key], shift) for key in keys if key in found}


def _flight(item: msgspec.Raw, shift: float) -> object:
    try:
        graph, node, start, *rest = _flights.decode(item)
    except (msgspec.MsgspecError, ValueError):
        return item
    return (graph, node, _later(start, shift), *rest)
