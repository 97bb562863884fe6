"""The outbox's table: its rows, indexes derived from them, and which are durable.

A message may be sent only once its content was committed, so that a crash before the
commit sends nothing, and a crash after it sends it again under the same id. What
happens to it later (attempts, errors) is committed too, and delays nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from kaywatch_agent.model.alerts import NotificationKind
from kaywatch_agent.notify.message import (
    Episode,
    MessageEntry,
    OutboxMessage,
    Status,
    episode_of,
)

__all__ = ["DEAD_KEPT", "DONE_KEPT", "EpisodeIndex", "OutboxStore"]

# Some 2 KB each. Sent messages are kept to show what happened, and to be continued;
# dead ones until somebody retries or purges them.
DONE_KEPT: Final = 500  # for each receiver
DEAD_KEPT: Final = 1_000  # in all
_DEAD: Final = ""  # their key among the ended ones: no receiver has this name

# Times of the last message, kept to space out the messages of a group.
STREAMS_KEPT: Final = 8_000


@dataclass
class EpisodeIndex:
    """What the rows say about one episode to one receiver.

    Attributes:
        waiting: the id of the pending message that reports it as firing.
        first: the id of the first message about it.
        resolved: whether a message reports its end.
        failed_over: whether the receiver's fallback was notified of it, too.
    """

    waiting: str = ""
    first: str = ""
    resolved: bool = False
    failed_over: bool = False


class OutboxStore:
    """All messages, by id. `put` and `delete` keep every index.

    Attributes:
        rows: the messages, by id.
        last_due: by receiver and stream, when the last message was to be sent.
    """

    def __init__(self) -> None:
        self.rows: dict[str, OutboxMessage] = {}
        self.last_due: dict[tuple[str, str], float] = {}
        self._episodes: dict[Episode, EpisodeIndex] = defaultdict(EpisodeIndex)
        # Ids by receiver: the pending ones, also by stream in their order; and those
        # that ended, the dead ones on their own.
        self._pending: dict[str, dict[str, None]] = defaultdict(dict)
        self._streams: dict[str, dict[str, dict[str, None]]] = defaultdict(dict)
        self._ended: dict[str, dict[str, None]] = defaultdict(dict)
        # Ids of rows that changed since the last commit began; and of those whose
        # content is not durable yet.
        self._dirty: dict[str, None] = {}
        self._unsealed: set[str] = set()

    def restore(self, documents: Mapping[str, bytes], now: float) -> None:
        """Take what was committed before a restart; a broken document is left out.

        A message that may have been in flight then counts as possibly delivered.
        """
        for row_id in sorted(documents):
            try:
                row = msgspec.json.decode(documents[row_id], type=OutboxMessage)
            except (msgspec.DecodeError, ValueError):
                continue
            if row.attempts or not row.created <= now < row.not_before:
                row = msgspec.structs.replace(row, undelivered=False)
            self.put(row)
        self._dirty.clear()
        self._unsealed.clear()

    # -- changes ---------------------------------------------------------------------

    def put(self, row: OutboxMessage) -> None:
        """Add a message, or replace the one with its id."""
        before = self.rows.get(row.id)
        self.rows[row.id] = row
        self._dirty[row.id] = None
        known: tuple[MessageEntry, ...] = ()
        if before is None:
            self._enter(row)
            self._remember_due(row)
        elif before.status is not row.status:
            self._leave(before)
            self._enter(row)
        elif before.failed_over is row.failed_over:
            known = before.entries
        self._index(row, known)
        changed = before is None or before.entries is not row.entries
        if changed and row.status is Status.PENDING:
            self._unsealed.add(row.id)
        self._bound(row.receiver)

    def delete(self, row_id: str) -> None:
        """Forget a message."""
        row = self.rows.pop(row_id)
        self._leave(row)
        self._dirty[row_id] = None
        self._unsealed.discard(row_id)
        for episode in {episode_of(row, entry.alert) for entry in row.entries}:
            index = self._episodes.get(episode)
            if index is not None and index.first in ("", row_id):
                del self._episodes[episode]
                if index.waiting:
                    self._episodes[episode].waiting = index.waiting

    # -- durability ------------------------------------------------------------------

    def changes(self, full: bool = False) -> dict[str, bytes | None]:
        """Return the documents that changed since the last call; None for deleted.

        Only while no other commit is under way.
        """
        ids = {**self._dirty, **dict.fromkeys(self.rows)} if full else self._dirty
        found: dict[str, bytes | None] = {}
        for row_id in ids:
            row = self.rows.get(row_id)
            found[row_id] = None if row is None else msgspec.json.encode(row)
        self._dirty.clear()
        return found

    def committed(self, ids: Iterable[str]) -> set[str]:
        """Mark documents as durable; return the receivers that have new work."""
        durable = [r for r in ids if r in self._unsealed and r not in self._dirty]
        self._unsealed.difference_update(durable)
        return {self.rows[row_id].receiver for row_id in durable}

    def refused(self, ids: Iterable[str]) -> None:
        """Make documents changes again that a commit failed to write."""
        self._dirty.update(dict.fromkeys(ids))

    def release(self) -> set[str]:
        """Let all messages be sent though they are not durable; return who has some."""
        woken = {self.rows[row_id].receiver for row_id in self._unsealed}
        self._unsealed.clear()
        return woken

    # -- queries ---------------------------------------------------------------------

    def sealed(self, row: OutboxMessage) -> bool:
        """Return whether a message's content is durable."""
        return row.id not in self._unsealed

    def episode(self, episode: Episode) -> EpisodeIndex:
        """Return what the rows say about an episode, to be read only."""
        return self._episodes.get(episode) or EpisodeIndex()

    def heads(self, receiver: str) -> Iterator[OutboxMessage]:
        """Yield the first pending message of each of a receiver's streams."""
        for stream in self._streams[receiver].values():
            yield self.rows[next(iter(stream))]

    def pending(self, receiver: str) -> list[OutboxMessage]:
        """Return the pending messages of a receiver by id."""
        return [self.rows[row_id] for row_id in sorted(self._pending[receiver])]

    def depth(self, receiver: str) -> int:
        """Return how many messages of a receiver are pending."""
        return len(self._pending[receiver])

    def last(self, receiver: str, stream: str) -> OutboxMessage | None:
        """Return the last pending message of a stream."""
        ids = self._streams[receiver].get(stream)
        return self.rows[next(reversed(ids))] if ids else None

    def dead(self) -> list[OutboxMessage]:
        """Return the dead messages by id."""
        return [self.rows[row_id] for row_id in sorted(self._ended[_DEAD])]

    # -- inside ----------------------------------------------------------------------

    def _enter(self, row: OutboxMessage) -> None:
        """Add a message to the list of its status."""
        if row.status is not Status.PENDING:
            key = _DEAD if row.status is Status.DEAD else row.receiver
            self._ended[key][row.id] = None
            return
        self._pending[row.receiver][row.id] = None
        streams = self._streams[row.receiver]
        stream = streams.setdefault(row.stream, {})
        last = next(reversed(stream), None)
        stream[row.id] = None
        if last is not None and row.place < self.rows[last].place:
            ordered = sorted(stream, key=lambda row_id: self.rows[row_id].place)
            streams[row.stream] = dict.fromkeys(ordered)

    def _leave(self, row: OutboxMessage) -> None:
        """Take a message from the list of its status."""
        if row.status is not Status.PENDING:
            self._ended[_DEAD].pop(row.id, None)
            self._ended[row.receiver].pop(row.id, None)
            return
        del self._pending[row.receiver][row.id]
        streams = self._streams[row.receiver]
        del streams[row.stream][row.id]
        if not streams[row.stream]:
            del streams[row.stream]
        for entry in row.entries:
            index = self._episodes.get(episode_of(row, entry.alert))
            if index is not None and index.waiting == row.id:
                index.waiting = ""

    def _remember_due(self, row: OutboxMessage) -> None:
        """Let the next message of its group wait for the group's interval."""
        if row.thread_root or row.replaces:
            return
        # The latest comes last: the first is the one to forget.
        self.last_due.pop((row.receiver, row.stream), None)
        self.last_due[row.receiver, row.stream] = row.due
        if len(self.last_due) > STREAMS_KEPT:
            del self.last_due[next(iter(self.last_due))]

    def _index(self, row: OutboxMessage, known: tuple[MessageEntry, ...]) -> None:
        """Index the entries of a message that differ from those known already."""
        pending = row.status is Status.PENDING
        superseded = row.status is Status.SUPERSEDED
        for n, entry in enumerate(row.entries):
            if entry.kind is NotificationKind.TEST or (
                n < len(known) and known[n] is entry
            ):
                continue
            index = self._episodes[episode_of(row, entry.alert)]
            if entry.kind is NotificationKind.RESOLVED:
                index.resolved = True
                if index.waiting == row.id:
                    index.waiting = ""
            elif pending:
                index.waiting = row.id
            if superseded and index.first == row.id:
                index.first = ""
            elif not superseded and not row.thread_root:
                index.first = index.first or row.id
            index.failed_over |= row.failed_over

    def _bound(self, receiver: str) -> None:
        """Delete the oldest of the ended messages that are too many."""
        for key, limit in ((receiver, DONE_KEPT), (_DEAD, DEAD_KEPT)):
            while len(self._ended[key]) > limit:
                self.delete(next(iter(self._ended[key])))
