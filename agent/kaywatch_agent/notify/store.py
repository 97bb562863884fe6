"""The outbox's messages, the indexes derived from them, and their durability.

A message may be sent only after its content was committed: a crash before the commit
sends nothing, and a crash after it sends the message again under the same id. Later
changes (attempts, errors) are committed as well, and delay nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from kaywatch_agent.model.alerts import MessageStatus, NotificationKind
from kaywatch_agent.notify.message import (
    EpisodeKey,
    MessageEntry,
    OutboxMessage,
    episode_key,
)

__all__ = ["DEAD_KEPT", "DONE_KEPT", "EpisodeIndex", "OutboxStore"]

# About 2 KB each. Messages that were sent or superseded are kept to show what happened,
# and to be continued; dead ones until they are retried or purged.
DONE_KEPT: Final = 500  # per receiver
DEAD_KEPT: Final = 1_000  # in total

# Times of the last message, kept to space out the messages of a group.
STREAMS_KEPT: Final = 8_000

_Ids = dict[str, None]  # an ordered set


@dataclass
class EpisodeIndex:
    """The messages to one receiver about one episode of an alert, in short.

    Attributes:
        pending: the id of the pending message that reports it as firing.
        first: the id of the first message about it.
        resolved: whether a message reports its end.
        failed_over: whether the receiver's fallback was notified of it, too.
    """

    pending: str = ""
    first: str = ""
    resolved: bool = False
    failed_over: bool = False


class OutboxStore:
    """All messages by id; `put` and `delete` update every index.

    Attributes:
        messages: the messages by id.
        last_due: when the last message of a receiver and stream was due.
    """

    def __init__(self) -> None:
        self.messages: dict[str, OutboxMessage] = {}
        self.last_due: dict[tuple[str, str], float] = {}
        self._episodes: dict[EpisodeKey, EpisodeIndex] = defaultdict(EpisodeIndex)
        # Each message is in one of these three, by its status.
        self._pending: dict[str, _Ids] = defaultdict(dict)  # by receiver
        self._done: dict[str, _Ids] = defaultdict(dict)  # by receiver
        self._dead: _Ids = {}
        # Pending messages by receiver and stream, in the order in which they are sent.
        self._streams: dict[str, dict[str, _Ids]] = defaultdict(dict)
        # Messages that changed since the last commit began, and messages whose content
        # is not durable yet.
        self._dirty: _Ids = {}
        self._not_durable: set[str] = set()

    def knows(self, key: EpisodeKey) -> bool:
        """Return whether a receiver has a message about an episode."""
        episode = self._episodes.get(key)
        return episode is not None and bool(episode.first)

    def restore(self, documents: Mapping[str, bytes], now: float) -> None:
        """Load the committed documents of the previous run; skip damaged ones.

        A message that may have been in flight then may have been delivered.
        """
        for message_id in sorted(documents):
            try:
                message = msgspec.json.decode(documents[message_id], type=OutboxMessage)
            except (msgspec.DecodeError, ValueError):
                continue
            if message.attempts or not message.created <= now < message.not_before:
                message = msgspec.structs.replace(message, undelivered=False)
            self.put(message)
        self._dirty.clear()
        self._not_durable.clear()

    # -- changes ---------------------------------------------------------------------

    def put(self, message: OutboxMessage) -> None:
        """Add a message, or replace the one with its id."""
        before = self.messages.get(message.id)
        self.messages[message.id] = message
        self._dirty[message.id] = None
        indexed: tuple[MessageEntry, ...] = ()
        if before is None:
            self._add(message)
            self._remember_due(message)
        elif before.status is not message.status:
            self._remove(before)
            self._add(message)
        elif before.failed_over is message.failed_over:
            indexed = before.entries
        self._index(message, indexed)
        changed = before is None or before.entries is not message.entries
        if changed and message.status is MessageStatus.PENDING:
            self._not_durable.add(message.id)
        self._delete_oldest(self._done[message.receiver], DONE_KEPT)
        self._delete_oldest(self._dead, DEAD_KEPT)

    def delete(self, message_id: str) -> None:
        """Delete a message."""
        message = self.messages.pop(message_id)
        self._remove(message)
        self._dirty[message_id] = None
        self._not_durable.discard(message_id)
        for key in {episode_key(message, entry.alert) for entry in message.entries}:
            index = self._episodes.get(key)
            if index is not None and index.first in ("", message_id):
                del self._episodes[key]
                if index.pending:
                    self._episodes[key].pending = index.pending

    # -- durability ------------------------------------------------------------------

    def changes(self, full: bool = False) -> dict[str, bytes | None]:
        """Return the documents that changed since the last call; None for deleted ones.

        Call it only while no other commit is in progress.
        """
        ids = {**self._dirty, **dict.fromkeys(self.messages)} if full else self._dirty
        documents: dict[str, bytes | None] = {}
        for message_id in ids:
            message = self.messages.get(message_id)
            documents[message_id] = msgspec.json.encode(message) if message else None
        self._dirty.clear()
        return documents

    def committed(self, ids: Iterable[str]) -> set[str]:
        """Mark documents as durable; return the receivers with new messages."""
        # One that changed since the commit began is durable after the next commit.
        durable = [
            id_ for id_ in ids if id_ in self._not_durable and id_ not in self._dirty
        ]
        self._not_durable.difference_update(durable)
        return {self.messages[message_id].receiver for message_id in durable}

    def refused(self, ids: Iterable[str]) -> None:
        """Mark documents as changed again, after a commit that failed."""
        self._dirty.update(dict.fromkeys(ids))

    def release(self) -> set[str]:
        """Allow all messages to be sent although they are not durable.

        Returns:
            The receivers of these messages.
        """
        receivers = {self.messages[id_].receiver for id_ in self._not_durable}
        self._not_durable.clear()
        return receivers

    # -- queries ---------------------------------------------------------------------

    def is_durable(self, message: OutboxMessage) -> bool:
        """Return whether a message's content was committed, or released."""
        return message.id not in self._not_durable

    def episode(self, key: EpisodeKey) -> EpisodeIndex:
        """Return the index of an episode's messages; the caller must not change it."""
        return self._episodes.get(key) or EpisodeIndex()

    def stream_heads(self, receiver: str) -> Iterator[OutboxMessage]:
        """Yield the first pending message of each of a receiver's streams."""
        for ids in self._streams[receiver].values():
            yield self.messages[next(iter(ids))]

    def pending(self, receiver: str) -> list[OutboxMessage]:
        """Return a receiver's pending messages, ordered by id."""
        return [self.messages[id_] for id_ in sorted(self._pending[receiver])]

    def depth(self, receiver: str) -> int:
        """Return the number of a receiver's pending messages."""
        return len(self._pending[receiver])

    def last(self, receiver: str, stream: str) -> OutboxMessage | None:
        """Return the last pending message of a stream."""
        ids = self._streams[receiver].get(stream)
        return self.messages[next(reversed(ids))] if ids else None

    def dead(self) -> list[OutboxMessage]:
        """Return the dead messages, ordered by id."""
        return [self.messages[message_id] for message_id in sorted(self._dead)]

    # -- inside ----------------------------------------------------------------------

    def _ids(self, message: OutboxMessage) -> _Ids:
        """Return the ids of messages with the same status."""
        if message.status is MessageStatus.DEAD:
            return self._dead
        pending = message.status is MessageStatus.PENDING
        return (self._pending if pending else self._done)[message.receiver]

    def _add(self, message: OutboxMessage) -> None:
        """Add a message to the index of its status, and a pending one to its stream."""
        self._ids(message)[message.id] = None
        if message.status is not MessageStatus.PENDING:
            return
        streams = self._streams[message.receiver]
        ids = streams.setdefault(message.stream, {})
        last = next(reversed(ids), None)
        ids[message.id] = None
        if last is not None and message.position < self.messages[last].position:
            ordered = sorted(ids, key=lambda id_: self.messages[id_].position)
            streams[message.stream] = dict.fromkeys(ordered)

    def _remove(self, message: OutboxMessage) -> None:
        """Remove a message from the index of its status, and from its stream."""
        del self._ids(message)[message.id]
        if message.status is not MessageStatus.PENDING:
            return
        streams = self._streams[message.receiver]
        del streams[message.stream][message.id]
        if not streams[message.stream]:
            del streams[message.stream]
        for entry in message.entries:
            index = self._episodes.get(episode_key(message, entry.alert))
            if index is not None and index.pending == message.id:
                index.pending = ""

    def _remember_due(self, message: OutboxMessage) -> None:
        """Remember when a message is due: the group's next one keeps its distance."""
        if message.thread_root or message.replaces:
            return
        # Ordered by time of the last change, so that the first is the oldest.
        self.last_due.pop((message.receiver, message.stream), None)
        self.last_due[message.receiver, message.stream] = message.due
        if len(self.last_due) > STREAMS_KEPT:
            del self.last_due[next(iter(self.last_due))]

    def _index(self, message: OutboxMessage, indexed: tuple[MessageEntry, ...]) -> None:
        """Index the entries of a message that are not indexed yet."""
        superseded = message.status is MessageStatus.SUPERSEDED
        for n, entry in enumerate(message.entries):
            is_indexed = n < len(indexed) and indexed[n] is entry
            if is_indexed or entry.kind is NotificationKind.TEST:
                continue
            index = self._episodes[episode_key(message, entry.alert)]
            if entry.kind is NotificationKind.RESOLVED:
                index.resolved = True
                if index.pending == message.id:
                    index.pending = ""
            elif message.status is MessageStatus.PENDING:
                index.pending = message.id
            if superseded and index.first == message.id:
                index.first = ""
            elif not superseded and not message.thread_root:
                index.first = index.first or message.id
            index.failed_over |= message.failed_over

    def _delete_oldest(self, ids: _Ids, kept: int) -> None:
        while len(ids) > kept:
            self.delete(next(iter(ids)))
