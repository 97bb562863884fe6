"""The bounded buffer of batches that the agent has not acknowledged yet."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, NamedTuple

from kaywatch.wire import DropReason

__all__ = ["Buffer", "Packed"]

# Some 1.2 million events: twenty minutes of outage at 1,000 events/s.
DEFAULT_BYTES: Final = 32 * 1024 * 1024


class Packed(NamedTuple):
    """One encoded batch."""

    seq: int
    message: bytes
    events: int
    drops: dict[str, int]


class Buffer:
    """Keeps batches until they are acknowledged; drops the oldest when full.

    A batch that was sent before it was dropped may have been counted all the same.
    Only the next agent's greeting tells, so it waits in `_doubtful` and becomes a
    drop, or not, in `settle`.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self.sent_bytes = 0  # of those that were sent and not acknowledged
        self.acked_events = 0
        self.lost: Counter[str] = Counter()  # all drops since the start
        self._batches: deque[Packed] = deque()
        self._unsent = 0  # how many at the right end have not been sent
        self._doubtful: deque[Packed] = deque()  # without their messages
        self._unreported: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def events(self) -> int:
        """Events in unacknowledged batches; any thread may ask."""
        # Copied in one go: the sender goes on adding and dropping batches.
        return sum(batch.events for batch in tuple(self._batches))

    @property
    def sent(self) -> int:
        """Batches that were sent on this connection and not acknowledged."""
        return len(self._batches) - self._unsent

    @property
    def waiting(self) -> int:
        """Batches that were not sent on this connection."""
        return self._unsent

    @property
    def lowest(self) -> int:
        """The number of the oldest batch, 0 if there is none."""
        return self._batches[0].seq if self._batches else 0

    def append(self, batch: Packed) -> None:
        """Add a batch, dropping the oldest ones that no longer fit."""
        self._batches.append(batch)
        self._unsent += 1
        self.bytes += len(batch.message)
        while self.bytes > self.limit and len(self._batches) > 1:
            oldest = self._batches.popleft()
            self.bytes -= len(oldest.message)
            if self._unsent > len(self._batches):
                self._unsent -= 1
                self._lose(oldest)
            else:
                self.sent_bytes -= len(oldest.message)
                self._doubtful.append(oldest._replace(message=b""))

    def next_unsent(self) -> Packed | None:
        """Return the oldest batch not sent on this connection, and mark it sent."""
        if not self._unsent:
            return None
        batch = self._batches[-self._unsent]
        self._unsent -= 1
        self.sent_bytes += len(batch.message)
        return batch

    def settle(self, seq: int) -> None:
        """Learn from a greeting that `seq` and all before it are committed.

        Whatever else was sent before is lost with its connection, and sent again.
        """
        self.ack(seq)
        for batch in self._doubtful:
            self._lose(batch)
        self._doubtful.clear()
        self._unsent = len(self._batches)
        self.sent_bytes = 0

    def ack(self, seq: int) -> None:
        """Forget the batches up to `seq`: the agent has them."""
        while self._doubtful and self._doubtful[0].seq <= seq:
            self.acked_events += self._doubtful.popleft().events
        batches = self._batches
        while batches and batches[0].seq <= seq:
            done = batches.popleft()
            self._forget(done, unsent=self._unsent > len(batches))
            self.acked_events += done.events

    def reject(self, seq: int, reason: str = DropReason.REJECTED) -> None:
        """Drop the one batch that can't be delivered, ever."""
        batches = self._batches
        for position, batch in enumerate(batches):
            if batch.seq == seq:
                unsent = position >= len(batches) - self._unsent
                del batches[position]
                self._forget(batch, unsent)
                self._lose(batch, reason)
                return

    def count_drop(self, reason: str, events: int) -> None:
        """Count events that were lost before they came here."""
        if events:
            self.lost[str(reason)] += events
            self._unreported[str(reason)] += events

    def report_again(self, drops: dict[str, int]) -> None:
        """Take back drops whose report did not go out."""
        self._unreported.update(drops)

    def take_drops(self) -> dict[str, int]:
        """Return the drops that no batch has reported yet; the caller reports them."""
        drops = dict(self._unreported)
        self._unreported.clear()
        return drops

    def _forget(self, batch: Packed, unsent: bool) -> None:
        """Count a batch out that was taken from the list."""
        self.bytes -= len(batch.message)
        if unsent:
            self._unsent -= 1
        else:
            self.sent_bytes -= len(batch.message)

    def _lose(self, batch: Packed, reason: str = DropReason.BUFFER_FULL) -> None:
        self.count_drop(reason, batch.events)
        self.report_again(batch.drops)
