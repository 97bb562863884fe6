"""Decode the bytes of one message. Invalid input never raises an exception."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from kaywatch.wire import DROP_REASONS, VERSION, ErrorCode
from kaywatch_agent.model.bounds import MAX_COUNT, MAX_TIME
from kaywatch_agent.protocol.columns import BAD_INPUT
from kaywatch_agent.protocol.limits import CLIENT_BYTES, MAX_PID, MAX_SEQ, MAX_TAGS
from kaywatch_agent.protocol.messages import (
    Batch,
    Bye,
    Capture,
    Encoded,
    Flush,
    Hello,
    Message,
    Rejected,
)
from kaywatch_agent.protocol.names import clean_name

__all__ = ["decode"]

TYPES: Final = ("hello", "batch", "flush", "bye", "capture")
OTHER_REASON: Final = "other"  # replaces unknown drop reasons, as of a newer client


_RAW: Final = msgspec.Raw()


class _Head(msgspec.Struct):
    """The fields that are needed to answer an otherwise invalid message."""

    type: msgspec.Raw = _RAW
    seq: msgspec.Raw = _RAW
    v: msgspec.Raw = _RAW


_messages: Final = msgspec.msgpack.Decoder(Encoded)
_heads: Final = msgspec.msgpack.Decoder(_Head)


def decode(frame: bytes) -> Message:
    """Return the message in `frame`; a `Rejected` if it is invalid.

    The sections of a batch are read later, by `kaywatch_agent.protocol.batches`.
    """
    try:
        encoded = _messages.decode(frame)
    except BAD_INPUT as error:
        return _explain(frame, error)
    if encoded.v != VERSION:
        return _unsupported(encoded.v)
    if encoded.type not in TYPES:
        text = f"type {encoded.type[:40]!r}: expected one of {', '.join(TYPES)}"
        return Rejected(ErrorCode.UNKNOWN_TYPE, text)
    problem = _problem(encoded)
    if problem:
        seq = _seq(encoded.seq) if encoded.type == "batch" else None
        return Rejected(ErrorCode.BAD_MESSAGE, problem, seq)
    match encoded.type:
        case "batch":
            return _batch(encoded)
        case "hello":
            return _hello(encoded)
        case "flush":
            return Flush(encoded.client.hex())
        case "capture":
            return Capture()
    drops = _drops(encoded.drops)
    return Bye(encoded.client.hex(), _seq(encoded.seq) or 0, drops)


def _explain(frame: bytes, error: Exception) -> Rejected:
    """Return the rejection of a message that cannot be decoded."""
    try:
        head = _heads.decode(frame)
    except msgspec.ValidationError:
        return Rejected(ErrorCode.BAD_MESSAGE, f"expected a map: {error}")
    except BAD_INPUT:
        return Rejected(ErrorCode.BAD_MSGPACK, f"no msgpack: {error}")
    version = _int(head.v)
    if version is not None and version != VERSION:
        return _unsupported(version)
    seq = _int(head.seq) if _text(head.type) == "batch" else None
    return Rejected(ErrorCode.BAD_MESSAGE, str(error), _seq(seq))


def _batch(encoded: Encoded) -> Batch:
    return Batch(
        client=encoded.client.hex(),
        seq=encoded.seq,
        sent=_time(encoded.sent),
        service=clean_name(encoded.service),
        recorded=min(max(0, encoded.recorded), MAX_COUNT),
        drops=_drops(encoded.drops) if encoded.drops else {},
        encoded=encoded,
    )


def _problem(encoded: Encoded) -> str:
    """Return why the whole message is invalid, or an empty string."""
    if encoded.client and len(encoded.client) != CLIENT_BYTES:
        return f"client: {len(encoded.client)} bytes, expected {CLIENT_BYTES}"
    if not encoded.client and (
        encoded.type in ("hello", "bye") or encoded.seq is not None
    ):
        return "client: missing"
    if encoded.type != "batch":
        return ""
    if encoded.seq is not None and _seq(encoded.seq) is None:
        return f"seq: {encoded.seq}, expected 1 to {MAX_SEQ}"
    if encoded.events and (encoded.executions or encoded.points or encoded.runs):
        return "events: a batch holds either rows or columns"
    return ""


def _hello(encoded: Encoded) -> Hello:
    tags = sorted(encoded.tags.items())[:MAX_TAGS]
    return Hello(
        client=encoded.client.hex(),
        service=clean_name(encoded.service),
        host=clean_name(encoded.host),
        pid=encoded.pid if 0 <= encoded.pid <= MAX_PID else 0,
        start=_time(encoded.start) or 0.0,
        sdk=clean_name(encoded.sdk),
        tags=tuple((clean_name(key), clean_name(value)) for key, value in tags),
        greeting=_seq(encoded.greeting) or 0,
        first=_seq(encoded.first) or 0,
    )


def _drops(drops: dict[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for reason, events in drops.items():
        if events > 0:
            name = reason if reason in DROP_REASONS else OTHER_REASON
            counts[name] = min(counts[name] + events, MAX_COUNT)
    return counts


def _seq(seq: int | None) -> int | None:
    return seq if seq is not None and 0 < seq <= MAX_SEQ else None


def _time(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 <= seconds <= MAX_TIME else None


def _unsupported(version: int) -> Rejected:
    return Rejected(
        ErrorCode.UNSUPPORTED_VERSION,
        f"protocol version {version}: this agent speaks {VERSION}",
    )


_ints: Final = msgspec.msgpack.Decoder(int)
_texts: Final = msgspec.msgpack.Decoder(str)


def _int(encoded: msgspec.Raw) -> int | None:
    try:
        return _ints.decode(encoded) if encoded else None
    except BAD_INPUT:
        return None


def _text(encoded: msgspec.Raw) -> str | None:
    try:
        return _texts.decode(encoded) if encoded else None
    except BAD_INPUT:
        return None
