"""One process that sends: who it is, and the accounts behind completeness."""

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

# The errors that count events, rather than messages or items of lists.
EVENT_CODES: Final = (
    ErrorCode.BAD_TABLE,
    ErrorCode.BAD_COLUMNS,
    ErrorCode.BAD_INDEX,
    ErrorCode.BAD_VALUE,
    ErrorCode.BAD_ROW,
)

_Pid = Annotated[
    int,
    Meta(ge=0, description="from the kernel on a socket, else from the client itself"),
]
_Uid = Annotated[int, Meta(description="the user, from the kernel; null elsewhere")]
_Started = Annotated[Moment, Meta(description="of the process; 0 if unknown")]
_Via = Annotated[str, Meta(description="its broker; empty for a socket of this host")]
_Recorded = Annotated[
    int, Meta(ge=0, description="events by its own count, with those it dropped")
]
_ByReason = Annotated[dict[str, int], Meta(description="lost events by reason")]
_ByCode = Annotated[dict[str, int], Meta(description="unusable events by error code")]
_Late = Annotated[int, Meta(ge=0, description="of `events`, too old for a window")]
_Overflow = Annotated[
    int, Meta(ge=0, description="of `events`, counted under `__other__`")
]
_Skew = Annotated[
    float, Meta(description="seconds: the agent's clock minus its, with transit")
]
_Cpu = Annotated[
    float, Meta(ge=0, description="of one core, between the last two samples")
]


class Client(Struct):
    """One process, from its first message on."""

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
    since: Annotated[Moment, Meta(description="when it came into its state")] = 0.0
    first_seen: Moment = 0.0
    last_seen: Moment = 0.0
    received_seq: Annotated[int, Meta(description="its last batch")] = 0
    committed_seq: Annotated[int, Meta(description="its last durable batch")] = 0
    greeting: Annotated[int, Meta(description="the number of its last hello")] = 0
    first: Annotated[int, Meta(description="no earlier batch will come")] = 0
    batches: Count = 0
    duplicates: Annotated[int, Meta(ge=0, description="batches that came again")] = 0
    events: Count = 0
    recorded: _Recorded = 0
    dropped: _ByReason = {}
    rejected: _ByCode = {}
    missing_batches: Annotated[int, Meta(ge=0, description="that never came")] = 0
    late: _Late = 0
    overflow: _Overflow = 0
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
        """Count from zero: a reason that is not there yet is 0."""
        self.dropped = Counter(self.dropped)
        self.rejected = Counter(self.rejected)

    @property
    def completeness(self) -> float | None:
        """The share of what the client recorded that has arrived, 0 to 1."""
        if not self.recorded:
            return None
        return min(1.0, self.events / self.recorded)

    @property
    def missing(self) -> int:
        """Events that it recorded, and of which nothing is known.

        They are on their way, or were lost with the process.
        """
        refused = sum(self.rejected[code] for code in EVENT_CODES)
        known = self.events + sum(self.dropped.values()) + refused
        return max(0, self.recorded - known)

    def to_json(self) -> bytes:
        """Return all that is known of it, for the store."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Client:
        """Return a client from the store, without samples of an earlier agent.

        Raises:
            ValueError: that is no client.
        """
        found = _decoder.decode(data)
        found.committed_seq = found.received_seq
        found.owner, found.sample, found.cpu_percent = "", None, None
        return found

    def sampled(self, sample: ProcessSample, now: float) -> None:
        """Take a sample of the process's memory and CPU."""
        before = self.sample
        if before is not None and now > self.sampled_at:
            used = sample.cpu_seconds - before.cpu_seconds
            self.cpu_percent = max(0.0, 100.0 * used / (now - self.sampled_at))
        self.sample = sample
        self.sampled_at = now
        self.peak_rss_bytes = max(self.peak_rss_bytes, sample.rss_bytes)


_decoder: Final = msgspec.json.Decoder(Client)
