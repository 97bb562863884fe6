"""One message's bytes become a Message; whatever the bytes are, it never raises."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from kaywatch.wire import DROP_REASONS, MAX_NAME, VERSION, ErrorCode
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

__all__ = ["decode"]

TYPES: Final = ("hello", "batch", "flush", "bye", "capture")
OTHER_REASON: Final = "other"  # of drops: one that a later client may report


_RAW: Final = msgspec.Raw()


class _Head(msgspec.Struct):
    """What tells how to answer a message that is otherwise unusable."""

    type: msgspec.Raw = _RAW
    seq: msgspec.Raw = _RAW
    v: msgspec.Raw = _RAW


_messages: Final = msgspec.msgpack.Decoder(Encoded)
_heads: Final = msgspec.msgpack.Decoder(_Head)


def decode(frame: bytes) -> Message:
    """Return the message in `frame`; a `Rejected` if nothing of it can be used.

    The sections of a batch are read later, by `kaywatch_agent.protocol.batches`.
    """
    try:
        found = _messages.decode(frame)
    except BAD_INPUT as error:
        return _explain(frame, error)
    if found.v != VERSION:
        return _unsupported(found.v)
    if found.type not in TYPES:
        text = f"type {found.type[:40]!r}: expected one of {', '.join(TYPES)}"
        return Rejected(ErrorCode.UNKNOWN_TYPE, text)
    problem = _problem(found)
    if problem:
        seq = _seq(found.seq) if found.type == "batch" else None
        return Rejected(ErrorCode.BAD_MESSAGE, problem, seq)
    match found.type:
        case "batch":
            return _batch(found)
        case "hello":
            return _hello(found)
        case "flush":
            return Flush(found.client.hex())
        case "capture":
            return Capture()
    drops = _drops(found.drops)
    return Bye(found.client.hex(), _seq(found.seq) or 0, drops)


def _explain(frame: bytes, error: Exception) -> Rejected:
    """Find out how to refuse a message of which a field has a wrong type."""
    try:
        head = _heads.decode(frame)
    except msgspec.ValidationError:
        return Rejected(ErrorCode.BAD_MESSAGE, f"expected a map: {error}")
    except BAD_INPUT:
        return Rejected(ErrorCode.BAD_MSGPACK, f"no msgpack: {error}")
    version = _whole(head.v)
    if version is not None and version != VERSION:
        return _unsupported(version)
    seq = _whole(head.seq) if _text(head.type) == "batch" else None
    return Rejected(ErrorCode.BAD_MESSAGE, str(error), _seq(seq))


def _batch(found: Encoded) -> Batch:
    return Batch(
        client=found.client.hex(),
        seq=found.seq,
        sent=_time(found.sent),
        service=found.service[:MAX_NAME],
        recorded=min(max(0, found.recorded), MAX_COUNT),
        drops=_drops(found.drops) if found.drops else {},
        encoded=found,
    )


def _problem(found: Encoded) -> str:
    """Say why a message can't be used at all, if so."""
    if found.client and len(found.client) != CLIENT_BYTES:
        return f"client: {len(found.client)} bytes, expected {CLIENT_BYTES}"
    if not found.client and (found.type in ("hello", "bye") or found.seq is not None):
        return "client: missing"
    if found.type != "batch":
        return ""
    if found.seq is not None and _seq(found.seq) is None:
        return f"seq: {found.seq}, expected 1 to {MAX_SEQ}"
    if found.events and (found.executions or found.points or found.runs):
        return "events: a batch holds either rows or columns"
    return ""


def _hello(found: Encoded) -> Hello:
    tags = sorted(found.tags.items())[:MAX_TAGS]
    return Hello(
        client=found.client.hex(),
        service=found.service[:MAX_NAME],
        host=found.host[:MAX_NAME],
        pid=found.pid if 0 <= found.pid <= MAX_PID else 0,
        start=_time(found.start) or 0.0,
        sdk=found.sdk[:MAX_NAME],
        tags=tuple((key[:MAX_NAME], value[:MAX_NAME]) for key, value in tags),
        greeting=_seq(found.greeting) or 0,
        first=_seq(found.first) or 0,
    )


def _drops(drops: dict[str, int]) -> Counter[str]:
    known: Counter[str] = Counter()
    for reason, events in drops.items():
        if events > 0:
            name = reason if reason in DROP_REASONS else OTHER_REASON
            known[name] = min(known[name] + events, MAX_COUNT)
    return known


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


def _whole(encoded: msgspec.Raw) -> int | None:
    try:
        return _ints.decode(encoded) if encoded else None
    except BAD_INPUT:
        return None


def _text(encoded: msgspec.Raw) -> str | None:
    try:
        return _texts.decode(encoded) if encoded else None
    except BAD_INPUT:
        return None
