"""The wire format, version 1: names, limits and the encoding of every message.

`PROTOCOL.md` beside this file is the specification for other languages, with test
vectors. This module is pure: it opens nothing and reads no clock, and the agent
imports it for the names and limits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, Final

__all__ = [
    "DROP_REASONS",
    "EXECUTION_COLUMNS",
    "MAX_BATCH_EVENTS",
    "MAX_FRAME",
    "MAX_NAME",
    "MAX_TABLE_ENTRIES",
    "MQTT_PREFIX",
    "OFFLINE",
    "ONLINE",
    "PHASES",
    "PHASE_COLUMNS",
    "POINT_COLUMNS",
    "RUN_COLUMNS",
    "SECTIONS",
    "VERSION",
    "DropReason",
    "EndReason",
    "ErrorCode",
    "Outcome",
    "Phase",
    "PointKind",
    "ack",
    "batch",
    "bye",
    "capture",
    "captured",
    "decode",
    "error",
    "flush",
    "frame",
    "hello",
    "pack",
    "resend",
    "slow",
    "status_topic",
    "topic",
]

VERSION: Final = 1

# Limit of a frame on a stream and of an MQTT payload. A full batch of our client is
# about 130 kB; 4 MiB leaves room for rows written by hand and for tables of long names.
MAX_FRAME: Final = 4 * 1024 * 1024

# Events in one batch of our client. This many pending events wake the sender.
MAX_BATCH_EVENTS: Final = 5_000

# Characters of a name (service, graph, node, action, metric, label). Client and agent
# both truncate longer names, so that no event is rejected for its name.
MAX_NAME: Final = 200

# An index is 16 bits wide.
MAX_TABLE_ENTRIES: Final = 65_536

# The default prefix of all topics on a broker; see `topic`.
MQTT_PREFIX: Final = "kaywatch"

# The payloads of the agent's retained status topic.
ONLINE: Final = b"online"
OFFLINE: Final = b"offline"

# Column name -> array typecode, which is also the struct and numpy code. The recorder
# keeps the fields of an event in the same order.
EXECUTION_COLUMNS: Final[Mapping[str, str]] = {
    "series": "H",
    "end": "d",
    "seconds": "d",
    "outcome": "B",
    "attempts": "H",
    "action": "H",
    "error": "H",
}
# How the time of an execution was split. These columns may be absent, or shorter than
# the others: then they belong to the first executions of the batch.
PHASE_COLUMNS: Final[Mapping[str, str]] = {
    "prep": "f",
    "exec": "f",
    "wait": "f",
    "items": "I",
}
POINT_COLUMNS: Final[Mapping[str, str]] = {"series": "H", "time": "d", "value": "d"}
RUN_COLUMNS: Final[Mapping[str, str]] = {
    "graph": "H",
    "end": "d",
    "seconds": "d",
    "outcome": "B",
    "reason": "H",
    "node": "H",
    "action": "H",
    "visits": "I",
}

# The keys of a batch that hold its data.
SECTIONS: Final[tuple[str, ...]] = (
    "table",
    "executions",
    "points",
    "runs",
    "failures",
    "topologies",
    "in_flight",
    "loops",
    "looped",
    "process",
)


class Outcome(IntEnum):
    """How an execution of a node, or a run of a graph, ended."""

    OK = 0
    ERROR = 1  # an exception left the node
    SUPPRESSED = 2  # `on_error` swallowed it
    FALLBACK = 3  # `exec_fallback` answered
    CANCELLED = 4  # by a CancelledError or KeyboardInterrupt


class Phase(StrEnum):
    """Where in a node an error came from."""

    NONE = ""
    PREP = "prep"
    EXEC = "exec"
    POST = "post"


class EndReason(StrEnum):
    """Why a run ended."""

    NO_SUCCESSORS = "no_successors"  # the last node has no edges out: the normal end
    UNMATCHED_ACTION = "unmatched_action"  # no edge of the last node has its action
    ERROR = "error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # the graph replaces the framework's loop


PHASES: Final = frozenset(Phase)


class PointKind(StrEnum):
    """How the values of a custom metric are combined."""

    OBSERVE = "observe"  # a distribution: count, sum, min, max, quantiles
    COUNT = "count"  # a running sum
    GAUGE = "gauge"  # the last value


class DropReason(StrEnum):
    """Why a client could not deliver an event."""

    BUFFER_FULL = "buffer_full"  # too many unacknowledged batches
    PENDING_FULL = "pending_full"  # recorded faster than the sender could pack
    REJECTED = "rejected"  # the agent will never accept the batch
    UNPACKABLE = "unpackable"  # a value that no column can hold
    UNSENT = "unsent"  # the process ended before the agent had time to take them


DROP_REASONS: Final = frozenset(DropReason)


class ErrorCode(StrEnum):
    """Why the agent rejected a message; also the label of its counter."""

    FRAME_TOO_LARGE = "frame_too_large"
    BAD_MSGPACK = "bad_msgpack"
    BAD_MESSAGE = "bad_message"  # not a map; a field is missing or has a wrong type
    UNKNOWN_TYPE = "unknown_type"
    UNSUPPORTED_VERSION = "unsupported_version"
    BAD_TABLE = "bad_table"
    BAD_COLUMNS = "bad_columns"  # missing, truncated, or of different lengths
    BAD_INDEX = "bad_index"  # outside its table
    BAD_VALUE = "bad_value"  # NaN, infinite, negative, or an unknown enum member
    BAD_ROW = "bad_row"
    BAD_SECTION = "bad_section"  # failures, topologies, in_flight, loops, process
    BAD_JSON = "bad_json"  # rows from a shell over MQTT
    FORBIDDEN = "forbidden"  # to push, to capture, or to use another's client id
    OVER_QUOTA = "over_quota"  # too many connections or bytes of one process or user
    REPEATED_BATCH = "repeated_batch"  # the connection knows that the agent has it
    SUPERSEDED = "superseded"  # the client has a newer connection


def pack(value: object) -> bytes:
    """Encode `value` as msgpack, with question marks for lone surrogates.

    Lone surrogates, as `os.fsdecode` produces them, have no UTF-8 form.
    """
    import msgpack  # here, so that `import kaywatch` costs no third-party import

    packed: bytes
    try:
        packed = msgpack.packb(value, use_bin_type=True)
    except UnicodeEncodeError:
        packed = msgpack.packb(value, use_bin_type=True, unicode_errors="replace")
    return packed


def frame(message: bytes) -> bytes:
    """Prefix `message` with its length, as a stream carries it."""
    return struct.pack(">I", len(message)) + message


def decode(message: bytes) -> dict[str, Any]:
    """Decode a message from an agent that the client trusts.

    Raises:
        ValueError: if it is not a msgpack map.
    """
    import msgpack

    value = msgpack.unpackb(message, raw=False)
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f"expected a map, got {kind}")  # noqa: TRY004 - as documented
    return value


# -- messages to the agent -------------------------------------------------------------


def hello(
    *,
    client: bytes,
    service: str,
    host: str,
    pid: int,
    start: float,
    sdk: str,
    tags: Mapping[str, str],
    greeting: int = 0,
    first: int = 0,
) -> bytes:
    """Introduce a client: the first message on every connection.

    A `greeting` numbers the client's hellos from 1, and the answering ack repeats it.
    `first` is the lowest sequence number that may still be sent.
    """
    return _message(
        "hello",
        v=VERSION,
        client=client,
        service=service,
        host=host,
        pid=pid,
        start=start,
        sdk=sdk,
        tags=dict(tags),
        greeting=greeting or None,
        first=first or None,
    )


def batch(
    *,
    client: bytes,
    seq: int,
    sent: float,
    service: str,
    recorded: int,
    sections: Mapping[str, object],
    drops: Mapping[str, int] | None = None,
) -> bytes:
    """Encode one batch of events.

    Args:
        client: as in the client's hello.
        seq: 1 for the client's first batch, and 1 more for each that follows.
        sent: when the batch was made, in Unix seconds.
        service: as in the client's hello.
        recorded: events recorded by this client so far, including dropped ones.
        sections: any of `table`, `executions`, `points`, `runs`, `failures`,
            `topologies`, `in_flight`, `loops`, `looped`, `process`, or `events` (rows).
        drops: events lost since the last batch, by `DropReason`.
    """
    return _message(
        "batch",
        v=VERSION,
        client=client,
        seq=seq,
        sent=sent,
        service=service,
        recorded=recorded,
        **sections,
        drops=dict(drops) if drops else None,
    )


def flush(client: bytes = b"") -> bytes:
    """Ask the agent to commit now rather than at its next tick.

    Without a client, the agent answers with an ack after that commit.
    """
    return _message("flush", v=VERSION, client=client or None)


def bye(client: bytes, seq: int, drops: Mapping[str, int] | None = None) -> bytes:
    """Announce that the process ends in an orderly way after batch `seq`."""
    return _message("bye", v=VERSION, client=client, seq=seq, drops=dict(drops or {}))


def capture() -> bytes:
    """Ask for a copy of every valid message that the agent receives from now on."""
    return _message("capture", v=VERSION)


# -- messages from the agent -----------------------------------------------------------


def captured(
    *,
    at: float,
    connection: int | None = None,
    message: bytes | None = None,
    missed: int = 0,
    agent: str = "",
) -> bytes:
    """Encode one copy of a message for a peer that requested copies with `capture`.

    Args:
        at: when the message arrived, in Unix seconds.
        connection: the number of its connection; None in a note about the capture.
        message: the message as received; None when the connection has ended.
        missed: copies left out so far because the peer reads too slowly.
        agent: the agent's version.
    """
    return _message(
        "captured",
        at=at,
        connection=connection,
        message=message,
        missed=missed or None,
        agent=agent or None,
    )


def ack(seq: int, client: bytes, greeting: int = 0) -> bytes:
    """Confirm that all batches of `client` up to `seq` are committed.

    `greeting` is the number of the hello that this answers, if it had one.
    """
    return _message("ack", client=client, seq=seq, greeting=greeting or None)


def resend(after: int, client: bytes) -> bytes:
    """Ask for a hello, followed by all batches after `after`."""
    return _message("resend", client=client, after=after)


def error(code: ErrorCode, text: str, seq: int | None = None) -> bytes:
    """Reject a message; `seq` is the batch that the agent will never accept."""
    return _message("error", code=str(code), text=text, seq=seq)


def slow(seconds: float) -> bytes:
    """Ask the client to send at most one batch every `seconds`."""
    return _message("slow", seconds=seconds)


def _message(kind: str, /, **fields: object) -> bytes:
    """Encode a message; a field that is None is left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    return pack({"type": kind, **present})


# -- topics on a broker ----------------------------------------------------------------


def topic(prefix: str, client: str, leaf: str) -> str:
    """Return the topic of a client's messages.

    Args:
        prefix: as configured, without a slash at its end.
        client: its id in 32 hexadecimal digits, or `+` for all clients.
        leaf: `up` to the agent, `down` from it, `gone` for the last will, `rows` for
            JSON from a shell.
    """
    return f"{prefix}/v{VERSION}/{client}/{leaf}"


def status_topic(prefix: str) -> str:
    """Return the topic of the agent's retained status, ONLINE or OFFLINE."""
    return topic(prefix, "agent", "status")
