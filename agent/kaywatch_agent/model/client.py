"""One client process: its identity, state, and the counts behind completeness."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, field

from kaywatch.wire import ErrorCode
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.model.records import InFlight, NodeRevisits, ProcessSample
from kaywatch_agent.model.series import ClientState

__all__ = ["EVENT_CODES", "Client"]

# A process whose connection ended this recently has ended with it: the agent looks for
# dead processes once a second.
CHECK_SECONDS: Final = 2.0
SHORTEST_UNKNOWN: Final = 0.001  # even an event sent at the last moment was not the end

# The errors that count events; others count messages or list items.
EVENT_CODES: Final = (
    ErrorCode.BAD_TABLE,
    ErrorCode.BAD_COLUMNS,
    ErrorCode.BAD_INDEX,
    ErrorCode.BAD_VALUE,
    ErrorCode.BAD_ROW,
)

_Pid = Annotated[
    int,
    Meta(
        ge=0,
        description="from the kernel on a socket, otherwise from the client",
    ),
]
_Uid = Annotated[int, Meta(description="the user, from the kernel; null elsewhere")]
_Started = Annotated[Moment, Meta(description="of the process; 0 if unknown")]
_Via = Annotated[str, Meta(description="its broker; empty for a socket on this host")]
_Recorded = Annotated[
    int, Meta(ge=0, description="events by its own count, including dropped ones")
]
_ByReason = Annotated[dict[str, int], Meta(description="lost events by reason")]
_ByCode = Annotated[dict[str, int], Meta(description="unusable events by error code")]
_Late = Annotated[int, Meta(ge=0, description="of `events`, too old for a window")]
_Overflow = Annotated[
    int, Meta(ge=0, description="of `events`, counted under `__other__`")
]
_Unknown = Annotated[
    float,
    Meta(
        ge=0,
        description="seconds before it died from which events may be missing",
    ),
]
_Skew = Annotated[
    float,
    Meta(description="seconds: the agent's clock minus the client's"),
]
_Cpu = Annotated[
    float, Meta(ge=0, description="percent of one core, between the last two samples")
]


class Client(Struct):
    """A client process, from its first message on."""

    id: str = field(name="client")
    service: str = "unknown"
    host: str = ""
    pid: _Pid = 0
    uid: _Uid | None = None
    owner: Annotated[str, Meta(description="whose quota its series count for")] = ""
    start: _Started = 0.0
    sdk: str = ""
    tags: dict[str, str] = {}
    via: _Via = ""
    state: ClientState = ClientState.CONNECTED
    since: Annotated[Moment, Meta(description="when it entered its state")] = 0.0
    first_seen: Moment = 0.0
    last_seen: Moment = 0.0
    received_seq: Annotated[int, Meta(description="its last batch")] = 0
    committed_seq: Annotated[int, Meta(description="its last durable batch")] = 0
    greeting: Annotated[int, Meta(description="the number of its last hello")] = 0
    first: Annotated[int, Meta(description="no earlier batch will come")] = 0
    batches: Count = 0
    duplicates: Annotated[int, Meta(ge=0, description="batches received again")] = 0
    events: Count = 0
    recorded: _Recorded = 0
    dropped: _ByReason = {}
    rejected: _ByCode = {}
    missing_batches: Annotated[int, Meta(ge=0, description="that never arrived")] = 0
    late: _Late = 0
    overflow: _Overflow = 0
    unknown_seconds: _Unknown = 0.0
    skew: _Skew | None = None
    in_flight: tuple[InFlight, ...] = ()
    loops: Annotated[
        tuple[NodeRevisits, ...], Meta(description="of runs under way")
    ] = ()
    sample: ProcessSample | None = None
    peak_rss_bytes: Count = 0
    cpu_percent: _Cpu | None = None
    sampled_at: Moment = 0.0

    def __post_init__(self) -> None:
        """Make missing reasons count as zero."""
        self.dropped = Counter(self.dropped)
        self.rejected = Counter(self.rejected)

    @property
    def completeness(self) -> float | None:
        """The share of recorded events that has arrived, 0 to 1; None without any.

        A death counts as one lost event, since its last moments are unknown.
        """
        if not self.recorded:
            return None
        return min(1.0, self.events / (self.recorded + (self.unknown_seconds > 0)))

    @property
    def missing(self) -> int:
        """Recorded events that are neither received nor reported as lost.

        They are in transit, or were lost with the process.
        """
        refused = sum(self.rejected[code] for code in EVENT_CODES)
        accounted = self.events + sum(self.dropped.values()) + refused
        return max(0, self.recorded - accounted)

    def unknown_before_death(self, now: float, flush_interval: float) -> float:
        """Return for how many seconds events may have been recorded and not sent.

        A connected process sends what it has at least once per flush interval. While it
        was not connected, or behind a broker, only its last message is certain.

        Args:
            now: when its death was noticed, in Unix seconds. It is disconnected since
                the end of its connection.
            flush_interval: the longest time between two batches, in seconds.
        """
        unknown = now - self.last_seen
        if not self.via and now - self.since <= CHECK_SECONDS:
            unknown = min(self.since - self.last_seen, flush_interval)
        return max(unknown, SHORTEST_UNKNOWN)

    def to_json(self) -> bytes:
        """Return the client as JSON, for the store."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Client:
        """Return a client from the store, without the samples of an earlier agent.

        Raises:
            ValueError: the JSON is not a client.
        """
        client = _decoder.decode(data)
        client.committed_seq = client.received_seq
        client.owner, client.sample, client.cpu_percent = "", None, None
        return client

    def add_sample(self, sample: ProcessSample, now: float) -> None:
        """Record a sample of the process's memory and CPU."""
        before = self.sample
        if before is not None and now > self.sampled_at:
            used = sample.cpu_seconds - before.cpu_seconds
            self.cpu_percent = max(0.0, 100.0 * used / (now - self.sampled_at))
        self.sample = sample
        self.sampled_at = now
        self.peak_rss_bytes = max(self.peak_rss_bytes, sample.rss_bytes)


_decoder: Final = msgspec.json.Decoder(Client)
