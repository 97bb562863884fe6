"""The bounded buffer of batches that the agent has not acknowledged yet."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from kaywatch.wire import DropReason

__all__ = ["Buffer", "EncodedBatch"]

# Some 1.2 million events: twenty minutes of outage at 1,000 events/s.
DEFAULT_BYTES: Final = 32 * 1024 * 1024


class EncodedBatch(NamedTuple):
    """One batch as it is sent."""

    seq: int
    message: bytes
    events: int
    drops: dict[str, int]


class Buffer:
    """Keeps batches until they are acknowledged; drops the oldest when full.

    A batch that was sent before it was dropped may have been counted all the same.
    The agent's answer to the next hello shows which, so `restart` decides.

    Attributes:
        bytes, events: of all unacknowledged batches; any thread may read them.
        sent_bytes: of all batches that were sent on this connection.
        last_sent: the number of the last batch that was ever sent.
        acked_events: acknowledged since the start.
        dropped: events dropped since the start, by reason.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.bytes = self.events = self.sent_bytes = self.acked_events = 0
        self.last_sent = 0
        self.dropped: Counter[str] = Counter()
        self._limit = limit
        self._sent: deque[EncodedBatch] = deque()  # on this connection
        self._unsent: deque[EncodedBatch] = deque()
        self._evicted: deque[EncodedBatch] = deque()  # sent and then dropped
        self._unreported: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sent) + len(self._unsent)

    @property
    def sent(self) -> int:
        """Unacknowledged batches that were sent on this connection."""
        return len(self._sent)

    @property
    def unsent(self) -> int:
        """Batches that were not sent on this connection."""
        return len(self._unsent)

    @property
    def first_seq(self) -> int:
        """The number of the oldest batch, 0 if the buffer is empty."""
        oldest = self._sent or self._unsent
        return oldest[0].seq if oldest else 0

    def append(self, batch: EncodedBatch) -> None:
        """Add a batch, dropping the oldest ones to make room."""
        self._unsent.append(batch)
        self.bytes += len(batch.message)
        self.events += batch.events
        while self.bytes > self._limit and len(self) > 1:
            if self._sent:
                oldest = self._remove_first(self._sent)
                self._evicted.append(oldest._replace(message=b""))
            else:
                self._drop(self._remove_first(self._unsent))

    @property
    def first_unsent(self) -> EncodedBatch | None:
        """The oldest batch not sent on this connection."""
        return self._unsent[0] if self._unsent else None

    def replace_unsent(
        self, replace: Callable[[EncodedBatch], Iterable[EncodedBatch]]
    ) -> None:
        """Replace each batch that was not sent on this connection by others.

        The agent must not have any of them: the new ones use their numbers again.
        """
        for _ in range(len(self._unsent)):
            batch = self._remove_first(self._unsent)
            self.last_sent = min(self.last_sent, batch.seq - 1)
            for new in replace(batch):
                self._unsent.append(new)
                self.bytes += len(new.message)
                self.events += new.events

    def next_unsent(self) -> EncodedBatch | None:
        """Return the oldest batch not sent on this connection, and mark it sent."""
        if not self._unsent:
            return None
        batch = self._unsent.popleft()
        self._sent.append(batch)
        self.last_sent = max(self.last_sent, batch.seq)
        self.sent_bytes += len(batch.message)
        return batch

    def restart(self, seq: int) -> None:
        """Start a connection to an agent that has committed all batches up to `seq`.

        Whatever else was sent before is lost with its connection, and sent again.
        """
        self.ack(seq)
        for batch in self._evicted:
            self._drop(batch)
        self._evicted.clear()
        self._unsent = self._sent + self._unsent
        self._sent = deque()
        self.sent_bytes = 0

    def ack(self, seq: int) -> None:
        """Remove the batches up to `seq`: the agent has committed them."""
        while self._evicted and self._evicted[0].seq <= seq:
            self.acked_events += self._evicted.popleft().events
        for batches in (self._sent, self._unsent):
            while batches and batches[0].seq <= seq:
                self.acked_events += self._remove_first(batches).events

    def reject(self, seq: int, reason: str = DropReason.REJECTED) -> None:
        """Drop the one batch that can never be delivered."""
        for batches in (self._sent, self._unsent):
            for position, batch in enumerate(batches):
                if batch.seq == seq:
                    batches.rotate(-position)
                    self._drop(self._remove_first(batches), reason)
                    batches.rotate(position)
                    return

    def drop_unsent(self) -> None:
        """Drop the batches that were not sent on this connection: the process ends."""
        while self._unsent:
            self._drop(self._remove_first(self._unsent), DropReason.UNSENT)

    def count_drop(self, reason: str, events: int) -> None:
        """Count events that were dropped before they were batched."""
        if events:
            self.dropped[str(reason)] += events
            self._unreported[str(reason)] += events

    def report_again(self, drops: dict[str, int]) -> None:
        """Report drops once more: the batch that reported them was not sent."""
        self._unreported.update(drops)

    def take_drops(self) -> dict[str, int]:
        """Return the drops that no batch has reported yet; the caller reports them."""
        drops = dict(self._unreported)
        self._unreported.clear()
        return drops

    def _remove_first(self, batches: deque[EncodedBatch]) -> EncodedBatch:
        batch = batches.popleft()
        self.bytes -= len(batch.message)
        self.events -= batch.events
        if batches is self._sent:
            self.sent_bytes -= len(batch.message)
        return batch

    def _drop(self, batch: EncodedBatch, reason: str = DropReason.BUFFER_FULL) -> None:
        self.count_drop(reason, batch.events)
        self.report_again(batch.drops)
