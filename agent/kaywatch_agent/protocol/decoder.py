"""One message's bytes become a Message; whatever the bytes are, it never raises."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

import msgspec

from kaywatch.wire import DROP_REASONS, MAX_NAME, VERSION, ErrorCode
from kaywatch_agent.model.bounds import MAX_COUNT, MAX_TIME
from kaywatch_agent.model.records import (
    FailureRecord,
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.protocol import columns
from kaywatch_agent.protocol.columns import BAD_INPUT, Checked
from kaywatch_agent.protocol.limits import (
    CLIENT_BYTES,
    MAX_PID,
    MAX_SEQ,
    MAX_TAGS,
)
from kaywatch_agent.protocol.lists import ItemDecoder
from kaywatch_agent.protocol.messages import (
    Batch,
    Bye,
    Capture,
    Executions,
    Flush,
    Hello,
    Message,
    Points,
    Rejected,
    Runs,
)
from kaywatch_agent.protocol.rows import columns_of_rows
from kaywatch_agent.protocol.table import Table, TableCache, TableError

__all__ = ["Decoder"]

TYPES: Final = ("hello", "batch", "flush", "bye", "capture")
OTHER_REASON: Final = "other"  # of drops: one that a later client may report

_RAW: Final = msgspec.Raw()


class _Encoded(msgspec.Struct):
    """All fields of all messages; sections stay raw, so that each fails by itself."""

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


class _Head(msgspec.Struct):
    """What tells how to answer a message that is otherwise unusable."""

    type: msgspec.Raw = _RAW
    seq: msgspec.Raw = _RAW
    v: msgspec.Raw = _RAW


class Decoder:
    """Decodes messages; holds the cache of tables that makes it fast."""

    def __init__(self) -> None:
        self._tables = TableCache()
        self._encoded = msgspec.msgpack.Decoder(_Encoded)
        self._head = msgspec.msgpack.Decoder(_Head)

    def decode(self, frame: bytes) -> Message:
        """Return what `frame` says; a `Rejected` if nothing of it can be used."""
        try:
            found = self._encoded.decode(frame)
        except BAD_INPUT as error:
            return self._explain(frame, error)
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
                return self._batch(found)
            case "hello":
                return _hello(found)
            case "flush":
                return Flush(found.client.hex())
            case "capture":
                return Capture()
        drops = _drops(found.drops)
        return Bye(found.client.hex(), _seq(found.seq) or 0, drops)

    def _explain(self, frame: bytes, error: Exception) -> Rejected:
        """Find out how to refuse a message of which a field has a wrong type."""
        try:
            head = self._head.decode(frame)
        except msgspec.ValidationError:
            return Rejected(ErrorCode.BAD_MESSAGE, f"expected a map: {error}")
        except BAD_INPUT:
            return Rejected(ErrorCode.BAD_MSGPACK, f"no msgpack: {error}")
        version = _whole(head.v)
        if version is not None and version != VERSION:
            return _unsupported(version)
        seq = _whole(head.seq) if _text(head.type) == "batch" else None
        return Rejected(ErrorCode.BAD_MESSAGE, str(error), _seq(seq))

    def _batch(self, found: _Encoded) -> Batch:
        checked = Checked()
        events = self._events(found, checked)
        return Batch(
            client=found.client.hex(),
            seq=found.seq,
            sent=_time(found.sent),
            service=found.service[:MAX_NAME],
            recorded=min(max(0, found.recorded), MAX_COUNT),
            drops=_drops(found.drops),
            table=events.table,
            executions=events.executions,
            points=events.points,
            runs=events.runs,
            failures=_failures.decode(found.failures, "failures", checked) or (),
            topologies=_topologies.decode(found.topologies, "topologies", checked)
            or (),
            in_flight=_in_flight.decode(found.in_flight, "in_flight", checked),
            loops=_revisits.decode(found.loops, "loops", checked),
            looped=_revisits.decode(found.looped, "looped", checked) or (),
            process=_process(found.process, checked),
            rejected=checked.rejected,
            problem=checked.problem,
        )

    def _events(self, found: _Encoded, checked: Checked) -> _Events:
        """Return the events, and the table that they index, as far as sound."""
        if found.events:
            return _Events(*columns_of_rows(found.events, checked))
        try:
            table = self._tables.get(found.table)
        except TableError as error:
            lost = sum(columns.claimed(*section) for section in _sections(found))
            checked.count(ErrorCode.BAD_TABLE, str(error), max(1, lost))
            return _Events(self._tables.get(b""))
        return _Events(
            table,
            columns.executions(found.executions, table, checked),
            columns.points(found.points, table, checked),
            columns.runs(found.runs, table, checked),
        )


class _Events(NamedTuple):
    table: Table
    executions: Executions | None = None
    points: Points | None = None
    runs: Runs | None = None


def _problem(found: _Encoded) -> str:
    """Say why a message can't be used at all, if so."""
    if found.client and len(found.client) != CLIENT_BYTES:
        return f"client: {len(found.client)} bytes, expected {CLIENT_BYTES}"
    if not found.client and (found.type in ("hello", "bye") or found.seq is not None):
        return "client: missing"
    if found.type != "batch":
        return ""
    if found.seq is not None and _seq(found.seq) is None:
        return f"seq: {found.seq}, expected 1 to {MAX_SEQ}"
    if found.events and _sections(found):
        return "events: a batch holds either rows or columns"
    return ""


def _sections(found: _Encoded) -> list[tuple[str, msgspec.Raw]]:
    """Return the sections of columns that there are."""
    sections = (
        ("executions", found.executions),
        ("points", found.points),
        ("runs", found.runs),
    )
    return [section for section in sections if section[1]]


def _hello(found: _Encoded) -> Hello:
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


def _process(encoded: msgspec.Raw, checked: Checked) -> ProcessSample | None:
    """Return the process's resources; None if they are missing or out of bounds."""
    if not encoded:
        return None
    try:
        return _samples.decode(encoded)
    except BAD_INPUT as error:
        checked.count(ErrorCode.BAD_SECTION, f"process: {error}")
        return None


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


_failures: Final = ItemDecoder(FailureRecord)
_topologies: Final = ItemDecoder(TopologyRecord)
_in_flight: Final = ItemDecoder(InFlight, array_like=True)
_revisits: Final = ItemDecoder(NodeRevisits, array_like=True)
_samples: Final = msgspec.msgpack.Decoder(ProcessSample)
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
