"""Who sends: presence, sequence marks, and the accounts behind completeness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from kaywatch.wire import ErrorCode
from kaywatch_agent.model.records import InFlight, NodeRevisits, ProcessSample
from kaywatch_agent.model.series import Labels, Presence
from kaywatch_agent.protocol.messages import Hello

__all__ = ["EVENT_CODES", "Client", "Clients"]

# A client that has left is shown for so long, and so many of them at most.
KEEP_SECONDS = 3600.0
KEEP_CLIENTS = 10_000

# One whose process may live on is kept longer: it still holds what was not
# acknowledged, and sends it again when it finds the agent. Its number tells whether
# that has been counted. A buffer that is not sent for a week has been given up.
KEEP_DISCONNECTED_SECONDS = 7 * 86_400.0


# The errors that count events, rather than messages or items of lists.
EVENT_CODES: Final = (
    ErrorCode.BAD_TABLE,
    ErrorCode.BAD_COLUMNS,
    ErrorCode.BAD_INDEX,
    ErrorCode.BAD_VALUE,
    ErrorCode.BAD_ROW,
)


@dataclass
class Client:
    """One process, from its first message on."""

    id: str
    service: str = "unknown"
    host: str = ""
    pid: int = 0  # the kernel's word where the transport has it, else the client's
    uid: int | None = None  # its user by the kernel's word; None where nobody tells
    owner: str = ""  # the process that its series are counted for
    start: float = 0.0
    sdk: str = ""
    tags: Labels = ()
    via: str = ""  # the broker that it comes by; empty for a socket of this host
    state: Presence = Presence.CONNECTED
    since: float = 0.0  # when it came into that state
    first_seen: float = 0.0
    last_seen: float = 0.0
    received_seq: int = 0  # applied: whatever is up to it is a duplicate
    committed_seq: int = 0  # acknowledged
    greeting: int = 0  # the number of its last hello
    first: int = 0  # no number below it will come any more, by that hello
    batches: int = 0
    duplicates: int = 0
    events: int = 0
    recorded: int = 0  # by the client's own count, what it dropped included
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    missing_batches: int = 0  # numbers that never came
    late: int = 0  # of the events, those too old for a bucket
    folded: int = 0  # and those of series beyond the caps
    skew: float | None = None  # our clock minus its, transit included, in seconds
    in_flight: tuple[InFlight, ...] = ()
    loops: tuple[NodeRevisits, ...] = ()  # of runs under way
    sample: ProcessSample | None = None
    peak_rss_bytes: int = 0
    cpu_percent: float | None = None  # of one core, between the last two samples
    sampled_at: float = 0.0

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
        """Return what is known of it, but for samples of its process, for the store."""
        known = {name: getattr(self, name) for name in _STORED}
        return msgspec.json.encode(known)

    @classmethod
    def from_json(cls, data: bytes) -> Client:
        """Return a client from the store.

        Raises:
            ValueError: that is no client.
        """
        found = msgspec.convert(msgspec.json.decode(data), _Stored)
        known = msgspec.structs.asdict(found)
        for name in ("dropped", "rejected"):
            known[name] = Counter(known[name])
        return cls(**known, committed_seq=found.received_seq)

    def sampled(self, sample: ProcessSample, now: float) -> None:
        """Take a sample of the process's memory and CPU."""
        before = self.sample
        if before is not None and now > self.sampled_at:
            used = sample.cpu_seconds - before.cpu_seconds
            self.cpu_percent = max(0.0, 100.0 * used / (now - self.sampled_at))
        self.sample = sample
        self.sampled_at = now
        self.peak_rss_bytes = max(self.peak_rss_bytes, sample.rss_bytes)


class _Stored(msgspec.Struct):
    """What the store keeps of a client; fields that it doesn't have are new ones."""

    id: str
    service: str = "unknown"
    host: str = ""
    pid: int = 0
    uid: int | None = None
    start: float = 0.0
    sdk: str = ""
    tags: Labels = ()
    via: str = ""
    state: Presence = Presence.CONNECTED
    since: float = 0.0
    first_seen: float = 0.0
    last_seen: float = 0.0
    received_seq: int = 0
    greeting: int = 0
    batches: int = 0
    duplicates: int = 0
    events: int = 0
    recorded: int = 0
    dropped: dict[str, int] = {}
    rejected: dict[str, int] = {}
    missing_batches: int = 0
    late: int = 0
    folded: int = 0
    skew: float | None = None
    in_flight: tuple[InFlight, ...] = ()
    loops: tuple[NodeRevisits, ...] = ()
    peak_rss_bytes: int = 0


_STORED: Final = _Stored.__struct_fields__


_KEPT: Final = {
    Presence.DISCONNECTED: KEEP_DISCONNECTED_SECONDS,
    Presence.ENDED: KEEP_SECONDS,
    Presence.DIED: KEEP_SECONDS,
}


class Clients:
    """All clients that are here or left lately.

    Attributes:
        changed: ids of those that changed since somebody cleared it.
        forgotten: ids of those that were dropped since then.
    """

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self.changed: set[str] = set()
        self.forgotten: set[str] = set()

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def get(self, client: str) -> Client | None:
        """Return a client that is known."""
        return self._clients.get(client)

    def meet(self, client: str, now: float) -> Client:
        """Return the client, new or known, as present now."""
        found = self._clients.get(client)
        if found is None:
            found = Client(client, since=now, first_seen=now)
            self._clients[client] = found
        found.last_seen = now
        self.changed.add(client)
        if found.state is not Presence.CONNECTED:
            self.turn(found, Presence.CONNECTED, now)
        return found

    def greet(self, hello: Hello, pid: int, now: float, started: float = 0.0) -> Client:
        """Take in who a client says it is.

        Args:
            hello: its own words.
            pid: the kernel's word for it, which counts more; 0 for none.
            now: Unix seconds.
            started: when its process started by the kernel's word; 0 for none.
        """
        client = self.meet(hello.client, now)
        client.service = hello.service or client.service
        client.host = hello.host
        client.pid = pid or hello.pid
        client.start = started or hello.start
        client.sdk = hello.sdk
        client.tags = hello.tags
        client.greeting = hello.greeting
        client.first = hello.first
        return client

    def turn(self, client: Client, state: Presence, now: float) -> None:
        """Put a client into another state."""
        client.state = state
        client.since = now
        self.changed.add(client.id)
        if state is Presence.ENDED:
            client.in_flight = ()
            client.loops = ()

    def forget(self, now: float) -> list[Client]:
        """Drop those who left long ago, and return them."""
        gone = [
            client.id
            for client in self._clients.values()
            if now - client.since > _KEPT.get(client.state, math.inf)
        ]
        if len(self._clients) - len(gone) > KEEP_CLIENTS:
            left = [
                c for c in self._clients.values() if c.state is not Presence.CONNECTED
            ]
            # Those of above first; then who won't come back, the longest gone first.
            dropped = set(gone)
            left.sort(
                key=lambda client: (
                    client.id not in dropped,
                    client.state is Presence.DISCONNECTED,
                    client.since,
                )
            )
            gone = [c.id for c in left[: len(self._clients) - KEEP_CLIENTS]]
        self.forgotten.update(gone)
        return [self._clients.pop(client) for client in gone]

    def restore(self, clients: Iterable[Client], now: float) -> None:
        """Take in those of before a restart; none of them is connected any more."""
        for client in clients:
            self._clients[client.id] = client
            if client.state is Presence.CONNECTED:
                self.turn(client, Presence.DISCONNECTED, now)
