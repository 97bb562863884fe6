"""Turns captured messages into the messages of a replay: new clients, times from now.

Each client id is replaced by a hash of itself and the replay's salt, so that the agent
does not take a replay for duplicates of the capture or of another replay. Sequence
numbers stay. A batch without a number gets a client and a number of its own, so that it
is acknowledged like the others. This module does no I/O.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

__all__ = ["MessageRewriter", "RewrittenMessage", "count_events", "send_offset"]

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode

# By section: a column with one index of two bytes for each event, and the times.
_INDEX_COLUMNS: Final = {"executions": "series", "points": "series", "runs": "graph"}
_INDEX_BYTES: Final = 2
_TIME_COLUMNS: Final = {"executions": "end", "points": "time", "runs": "end"}
_ITEM_TIMES: Final[Mapping[str, tuple[str | int, ...]]] = {
    "failures": ("time",),
    "events": ("end", "time"),
    "in_flight": (2, 5),
}

# Errors of messages that violate the protocol; our clients send none.
_MALFORMED: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class RewrittenMessage(NamedTuple):
    """A message to send.

    Attributes:
        message: the bytes.
        type: hello, batch, flush or bye.
        client: the new client id; empty if the message has none.
        seq: the batch's sequence number, 0 for other messages.
        events: the number of events in it.
    """

    message: bytes
    type: str
    client: bytes = b""
    seq: int = 0
    events: int = 0


class _Envelope(msgspec.Struct):
    type: str
    client: bytes = b""
    seq: int | None = None
    recorded: int = 0
    drops: dict[str, int] = {}


class MessageRewriter:
    """Rewrites the messages of one capture for one replay."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._last_seq: dict[bytes, int] = {}  # for clients that send none
        self._recorded_before: dict[bytes, int] = {}

    def rewrite(
        self, encoded: bytes, connection: int, shift: float
    ) -> RewrittenMessage | None:
        """Return the message to send; None if no agent would accept it.

        Args:
            encoded: the message as captured.
            connection: the number of the connection that carried the message.
            shift: seconds to add to the times in the message.
        """
        try:
            message: dict[str, Any] = _decode(encoded)
            envelope = msgspec.convert(message, _Envelope)
        except _MALFORMED:
            return None
        if envelope.type not in ("hello", "batch", "flush", "bye"):
            return None
        if envelope.client:
            message["client"] = self._rename(envelope.client)
        events = _count(message) if envelope.type == "batch" else 0
        if envelope.type == "batch":
            message |= self._batch_keys(envelope, connection, events)
        if shift:
            _shift_times(message, shift)
        return RewrittenMessage(
            _encode(message),
            envelope.type,
            message.get("client", b""),
            message.get("seq") or 0,
            events,
        )

    def _batch_keys(
        self, envelope: _Envelope, connection: int, events: int
    ) -> dict[str, Any]:
        """Return the keys of a batch that are different in the replay."""
        if envelope.seq:
            return {"recorded": self._recorded_since_start(envelope, events)}
        # One client per connection, because numbers count within a connection.
        client = self._rename(envelope.client + b"%d unnumbered" % connection)
        seq = self._last_seq[client] = self._last_seq.get(client, 0) + 1
        return {"client": client, "seq": seq}

    def _rename(self, client: bytes) -> bytes:
        # A hash instead of a table, because it needs no memory and does not depend on
        # earlier messages.
        return blake2b(client, digest_size=16, key=self._salt).digest()

    def _recorded_since_start(self, envelope: _Envelope, events: int) -> int:
        """Return how many events the client recorded since the capture started.

        Batches sent earlier are not in the capture and would count as lost.
        """
        before = self._recorded_before.get(envelope.client)
        if before is None:
            before = 0
            # The first batch in the capture is not the client's first: earlier ones
            # were recorded before it started.
            if envelope.seq != 1:
                before = envelope.recorded - events - sum(envelope.drops.values())
            self._recorded_before[envelope.client] = before = max(0, before)
        # `recorded` may be less than the number of events in the message. A negative
        # result would be rejected.
        return max(0, envelope.recorded - before)


def count_events(encoded: bytes) -> int:
    """Return the number of events in a batch, valid or not; 0 for other messages."""
    try:
        return _count(_decode(encoded))
    except _MALFORMED:
        return 0


def _count(message: dict[str, Any]) -> int:
    try:
        if "events" in message:
            return len(message["events"])
        return sum(
            len(message[section][column]) // _INDEX_BYTES
            for section, column in _INDEX_COLUMNS.items()
            if section in message
        )
    except _MALFORMED:
        return 0


def send_offset(at: float, first: float, speed: float) -> float:
    """Return how many seconds after its start a replay sends a message.

    Args:
        at: when the message was captured, Unix seconds.
        first: when the first message of the capture was captured.
        speed: the factor by which the replay is faster; infinite for no delay.
    """
    return max(0.0, at - first) / speed


def _shift_times(message: dict[str, Any], shift: float) -> None:
    """Add seconds to all times of a message, in place; malformed sections stay."""
    for key in ("start", "sent"):
        if key in message:
            message[key] = _shift_time(message[key], shift)
    for section, column in _TIME_COLUMNS.items():
        with contextlib.suppress(*_MALFORMED):
            times = np.frombuffer(message[section][column], "<f8")
            shifted = np.where(times > 0, times + shift, times)
            message[section][column] = shifted.tobytes()
    for section, keys in _ITEM_TIMES.items():
        with contextlib.suppress(*_MALFORMED):
            for item in message.get(section, ()):
                for time in keys:
                    with contextlib.suppress(*_MALFORMED, IndexError):
                        item[time] = _shift_time(item[time], shift)


def _shift_time(time: Any, shift: float) -> Any:
    """Return a time plus `shift`; times of 0 or less mean that there is none."""
    return time + shift if isinstance(time, int | float) and time > 0 else time
