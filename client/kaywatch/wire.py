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

# A stream frame, and an MQTT payload, at most. A full batch of our client is about
# 130 kB; 4 MiB leaves room for rows written by hand and for tables of long names.
MAX_FRAME: Final = 4 * 1024 * 1024

# Events in one batch of our client: the sender is woken when so many are waiting.
MAX_BATCH_EVENTS: Final = 5_000

# Characters of a name (service, graph, node, action, metric, label). Longer ones are
# cut, by client and agent alike, so that nothing is lost for them.
MAX_NAME: Final = 200

# An index is 16 bits wide.
MAX_TABLE_ENTRIES: Final = 65_536

# Where messages are on a broker: PREFIX/v1/CLIENT/up and others; see `topic`.
MQTT_PREFIX: Final = "kaywatch"

# What the agent's status topic says, retained.
ONLINE: Final = b"online"
OFFLINE: Final = b"offline"

# Column name -> array typecode, which is also the struct and numpy code.
EXECUTION_COLUMNS: Final[Mapping[str, str]] = {
    "series": "H",
    "end": "d",
    "seconds": "d",
    "outcome": "B",
    "attempts": "H",
    "action": "H",
    "error": "H",
}
# How the time of an execution was split. They may be left out, or be shorter than the
# others: then they are of the first executions, and of the rest it isn't known.
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


class Outcome(IntEnum):
    """How an execution of a node, or a run of a graph, ended."""

    OK = 0
    ERROR = 1  # an exception left the node
    SUPPRESSED = 2  # `on_error` swallowed it
    FALLBACK = 3  # `exec_fallback` answered
    CANCELLED = 4  # a CancelledError or KeyboardInterrupt passed through


class Phase(StrEnum):
    """Where in a node an error came from."""

    NONE = ""
    PREP = "prep"
    EXEC = "exec"
    POST = "post"


class EndReason(StrEnum):
    """Why a run ended."""

    NO_SUCCESSORS = "no_successors"  # the last node has no edges out: the normal end
    UNMATCHED_ACTION = "unmatched_action"  # it has, but none for its action
    ERROR = "error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # a graph that replaces the loop, and doesn't say


PHASES: Final = frozenset(Phase)


class PointKind(StrEnum):
    """What a custom metric's points are."""

    OBSERVE = "observe"  # a distribution: count, sum, min, max, quantiles
    COUNT = "count"  # a running sum
    GAUGE = "gauge"  # the last value counts


class DropReason(StrEnum):
    """Why a client could not deliver an event."""

    BUFFER_FULL = "buffer_full"  # the bounded buffer of unacknowledged batches
    PENDING_FULL = "pending_full"  # recorded faster than the sender could pack
    REJECTED = "rejected"  # the agent refused the batch for good
    UNPACKABLE = "unpackable"  # a value that no column can hold


DROP_REASONS: Final = frozenset(DropReason)


class ErrorCode(StrEnum):
    """What the agent found wrong with a message; also the label of its counter."""

    FRAME_TOO_LARGE = "frame_too_large"
    BAD_MSGPACK = "bad_msgpack"
    BAD_MESSAGE = "bad_message"  # no map, or a field is missing or has a wrong type
    UNKNOWN_TYPE = "unknown_type"
    UNSUPPORTED_VERSION = "unsupported_version"
    BAD_TABLE = "bad_table"
    BAD_COLUMNS = "bad_columns"  # one is missing or truncated, or lengths differ
    BAD_INDEX = "bad_index"  # outside its table
    BAD_VALUE = "bad_value"  # NaN, infinite, negative, or an unknown enum member
    BAD_ROW = "bad_row"
    BAD_SECTION = "bad_section"  # failures, topologies, in_flight, loops, process
    BAD_JSON = "bad_json"  # rows from a shell over MQTT
    FORBIDDEN = "forbidden"  # to push, to observe, or to speak for another's client
    OVER_QUOTA = "over_quota"  # too many connections or bytes of one process or user


def pack(value: object) -> bytes:
    """Return `value` as msgpack; what no UTF-8 can hold becomes a question mark."""
    import msgpack  # here, so that `import kaywatch` costs no third-party import

    packed: bytes
    try:
        packed = msgpack.packb(value, use_bin_type=True)
    except UnicodeEncodeError:
        # Lone surrogates, as from os.fsdecode, have no UTF-8 form.
        packed = msgpack.packb(value, use_bin_type=True, unicode_errors="replace")
    return packed


def frame(message: bytes) -> bytes:
    """Prefix `message` with its length, as a stream carries it."""
    return struct.pack(">I", len(message)) + message


def decode(message: bytes) -> dict[str, Any]:
    """Return a message as a map; for the client's side, which trusts its agent.

    Raises:
        ValueError: if it is no msgpack map.
    """
    import msgpack

    value = msgpack.unpackb(message, raw=False)
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f"expected a map, got {kind}")  # noqa: TRY004 - as documented
    return value


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
    """Introduce a client; first on every connection, and answered with an ack.

    A `greeting` numbers a client's hellos from 1, and the ack that answers it has it
    too; `first` is the lowest number of a batch that may still come.
    """
    message: dict[str, object] = {
        "type": "hello",
        "v": VERSION,
        "client": client,
        "service": service,
        "host": host,
        "pid": pid,
        "start": start,
        "sdk": sdk,
        "tags": dict(tags),
    }
    if greeting:
        message["greeting"] = greeting
    if first:
        message["first"] = first
    return pack(message)


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
    """Return one batch.

    Args:
        client: the 16 random bytes of this process.
        seq: from 1, rising by 1 with every batch of this client.
        sent: when the batch was made, in Unix seconds.
        service: the service's name.
        recorded: events recorded by this client so far, those it dropped included.
        sections: any of `table`, `executions`, `points`, `runs`, `failures`,
            `topologies`, `in_flight`, `loops`, `looped`, `process`, or `events` (rows).
        drops: events lost since the last batch, by `DropReason`.
    """
    message: dict[str, object] = {
        "type": "batch",
        "v": VERSION,
        "client": client,
        "seq": seq,
        "sent": sent,
        "service": service,
        "recorded": recorded,
        **sections,
    }
    if drops:
        message["drops"] = dict(drops)
    return pack(message)


def flush(client: bytes = b"") -> bytes:
    """Say that the client waits for its acks: commit now rather than at the tick.

    Without a client it is nobody's, and answered with an ack after that commit.
    """
    message: dict[str, object] = {"type": "flush", "v": VERSION}
    if client:
        message["client"] = client
    return pack(message)


def bye(client: bytes, seq: int, drops: Mapping[str, int] | None = None) -> bytes:
    """Say that the process ends cleanly after batch `seq`."""
    return pack(
        {
            "type": "bye",
            "v": VERSION,
            "client": client,
            "seq": seq,
            "drops": dict(drops or {}),
        }
    )


def capture() -> bytes:
    """Ask for a copy of every sound message that the agent takes in from now on."""
    return pack({"type": "capture", "v": VERSION})


def captured(
    *,
    at: float,
    connection: int | None = None,
    message: bytes | None = None,
    missed: int = 0,
    agent: str = "",
) -> bytes:
    """Return what an observer is told.

    Args:
        at: when it came in, in Unix seconds.
        connection: the number of the connection that it came on; None for a word about
            the capture itself.
        message: as it came; None when the connection has ended.
        missed: copies left out so far, since the observer was too slow.
        agent: its version.
    """
    found: dict[str, object] = {"type": "captured", "at": at}
    if connection is not None:
        found["connection"] = connection
    if message is not None:
        found["message"] = message
    if missed:
        found["missed"] = missed
    if agent:
        found["agent"] = agent
    return pack(found)


def ack(seq: int, client: bytes, greeting: int = 0) -> bytes:
    """Say that all batches of `client` up to `seq` are committed.

    Args:
        seq: the highest committed number.
        client: whose.
        greeting: the number of the hello that this answers, if it had one.
    """
    message: dict[str, object] = {"type": "ack", "client": client, "seq": seq}
    if greeting:
        message["greeting"] = greeting
    return pack(message)


def resend(after: int, client: bytes) -> bytes:
    """Ask for a hello, and then for all batches after `after` again."""
    return pack({"type": "resend", "client": client, "after": after})


def error(code: ErrorCode, text: str, seq: int | None = None) -> bytes:
    """Say what was wrong; with `seq` when that batch is refused for good."""
    message: dict[str, object] = {"type": "error", "code": str(code), "text": text}
    if seq is not None:
        message["seq"] = seq
    return pack(message)


def slow(seconds: float) -> bytes:
    """Ask the client to send at most every `seconds`."""
    return pack({"type": "slow", "seconds": seconds})


def topic(prefix: str, client: str, leaf: str) -> str:
    """Return where messages of a client are on a broker.

    Args:
        prefix: as configured, without a slash at its end.
        client: its id in 32 hexadecimal digits, or `+` for those of all.
        leaf: `up` to the agent, `down` from it, `gone` for the last will, `rows` for
            JSON from a shell.
    """
    return f"{prefix}/v{VERSION}/{client}/{leaf}"


def status_topic(prefix: str) -> str:
    """Return where the agent says whether it is there: ONLINE or OFFLINE."""
    return topic(prefix, "agent", "status")
