"""The outbox's rows: which of them are durable, which wait, and what is known of whom.

A row may be sent only when what it says was committed, so that a crash before the
commit sends nothing and a crash after it sends it again under the same id. What happens
to a row later (attempts, errors) is committed too, and holds nothing up.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from kaywatch_agent.model.alerts import Alert, NoticeKind
from kaywatch_agent.notify.row import Entry, Row, Status

__all__ = ["DEAD_KEPT", "DONE_KEPT", "Episode", "Ledger", "episode_of"]

# Some 2 KB each; what was sent is kept for those who look what happened, and to go on
# from a message; what is dead, until someone sends it again or gives it up.
DONE_KEPT: Final = 500  # for each receiver
DEAD_KEPT: Final = 1_000  # in all

# Which messages an alert's episode is in, by the receiver (or its stand-in) it is for.
Episode = tuple[str, str, int]


def episode_of(row: Row, alert: Alert) -> Episode:
    """Return what an episode is known by to a row's receiver."""
    return (f"{row.receiver}<{row.fallback_for}", alert.dedup_key, alert.episode)


class Ledger:
    """All rows, by id."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.waiting: dict[Episode, str] = {}  # pending rows that say that it fires
        self.told: dict[Episode, str] = {}  # the first row that says it
        self.over: set[Episode] = set()  # of which a row says that it is over
        self.fallen: set[Episode] = set()  # of which a fallback was told, too
        self.depth: dict[str, int] = defaultdict(int)  # pending, by receiver
        self._streams: dict[str, dict[str, dict[str, None]]] = defaultdict(dict)
        self._done: dict[str, deque[str]] = defaultdict(deque)
        self._dead: dict[str, None] = {}
        self._restored: set[str] = set()
        self._dirty: set[str] = set()
        self._version: dict[str, int] = {}  # of what is not known to be durable
        self._offered: dict[str, int] = {}

    def restore(self, documents: Mapping[str, bytes]) -> None:
        """Take what was committed before a restart; a broken document is left out."""
        for row_id in sorted(documents):
            try:
                row = msgspec.json.decode(documents[row_id], type=Row)
            except (msgspec.DecodeError, ValueError):
                continue
            self.rows[row_id] = row
            self._index(row)
            if row.status is Status.PENDING:
                self._restored.add(row_id)

    # -- changes ---------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Take a new row."""
        self.rows[row.id] = row
        self._index(row)
        self._reword(row.id)

    def join(self, row: Row, entry: Entry) -> None:
        """Add an alert to a row."""
        self.rows[row.id] = msgspec.structs.replace(row, entries=(*row.entries, entry))
        self._index_entry(row, entry)
        self._reword(row.id)

    def amend(self, row: Row, entry: Entry) -> None:
        """Say something newer of an alert that is in a row."""
        entries = tuple(
            old.then(entry) if old.is_of(entry.alert) else old for old in row.entries
        )
        self.rows[row.id] = msgspec.structs.replace(row, entries=entries)
        if entry.kind is NoticeKind.RESOLVED:
            self.waiting.pop(episode_of(row, entry.alert), None)
            self.over.add(episode_of(row, entry.alert))
        self._reword(row.id)

    def change(self, row: Row) -> None:
        """Take a new state of a row that says the same as before."""
        before = self.rows[row.id]
        self.rows[row.id] = row
        self._dirty.add(row.id)
        if before.status is row.status:
            return
        if before.status is Status.PENDING:
            self._leave(before)
        if row.status is Status.SUPERSEDED:
            self._unsay(row)
        self._dead.pop(row.id, None)
        self._index(row)
        self._bound(row.receiver)

    def delete(self, row_id: str) -> None:
        """Forget a row."""
        row = self.rows.pop(row_id)
        if row.status is Status.PENDING:
            self._leave(row)
        self._dead.pop(row_id, None)
        self._dirty.add(row_id)
        self._version.pop(row_id, None)
        for episode in self._unsay(row):
            self.fallen.discard(episode)
            self.over.discard(episode)

    # -- durability ------------------------------------------------------------------

    def changes(self) -> dict[str, bytes | None]:
        """Return the documents that changed since the last call; None for deleted."""
        found: dict[str, bytes | None] = {}
        for row_id in self._dirty:
            row = self.rows.get(row_id)
            found[row_id] = None if row is None else msgspec.json.encode(row)
            if row_id in self._version:
                self._offered[row_id] = self._version[row_id]
        self._dirty.clear()
        return found

    def committed(self, ids: Iterable[str]) -> set[str]:
        """Learn that documents are durable; return the receivers that got work."""
        woken = set()
        for row_id in ids:
            offered = self._offered.pop(row_id, None)
            if offered is not None and self._version.get(row_id) == offered:
                del self._version[row_id]
                woken.add(self.rows[row_id].receiver)
        return woken

    def refused(self, ids: Iterable[str]) -> None:
        """Learn that documents were not made durable: they are changes again."""
        for row_id in ids:
            self._offered.pop(row_id, None)
            self._dirty.add(row_id)

    def release(self) -> set[str]:
        """Let all rows be sent, though nothing can be made durable."""
        woken = {self.rows[row_id].receiver for row_id in self._version}
        self._version.clear()
        self._offered.clear()
        return woken

    def rewrite(self) -> None:
        """Make all rows changes again, for a store that begins anew."""
        self._dirty.update(self.rows)

    # -- looking ---------------------------------------------------------------------

    def sealed(self, row: Row) -> bool:
        """Whether what it says is durable."""
        return row.id not in self._version

    def unread(self, row: Row, now: float) -> bool:
        """Whether the receiver surely never took it, nor from the process before."""
        return row.unread and not (row.id in self._restored and row.not_before <= now)

    def heads(self, receiver: str) -> Iterator[Row]:
        """Yield the first pending row of each of a receiver's streams."""
        for stream in self._streams[receiver].values():
            yield self.rows[next(iter(stream))]

    def pending(self, receiver: str) -> list[Row]:
        """Return all pending rows of a receiver, in no order."""
        streams = self._streams[receiver].values()
        return [self.rows[row_id] for stream in streams for row_id in stream]

    def last(self, receiver: str, stream: str) -> Row | None:
        """Return the last pending row of a stream."""
        ids = self._streams[receiver].get(stream)
        return self.rows[next(reversed(ids))] if ids else None

    # -- inside ----------------------------------------------------------------------

    def _reword(self, row_id: str) -> None:
        self._dirty.add(row_id)
        self._version[row_id] = self._version.get(row_id, 0) + 1
        # What was offered meanwhile says less than this.
        self._offered.pop(row_id, None)

    def _index(self, row: Row) -> None:
        if row.status is Status.PENDING:
            self._line_up(row)
            self.depth[row.receiver] += 1
        elif row.status is Status.DEAD:
            self._dead[row.id] = None
        else:
            self._done[row.receiver].append(row.id)
        for entry in row.entries:
            self._index_entry(row, entry)

    def _line_up(self, row: Row) -> None:
        stream = self._streams[row.receiver].setdefault(row.stream, {})
        last = next(reversed(stream)) if stream else None
        stream[row.id] = None
        if last is not None and row.place < self.rows[last].place:
            ordered = sorted(stream, key=lambda row_id: self.rows[row_id].place)
            self._streams[row.receiver][row.stream] = dict.fromkeys(ordered)

    def _index_entry(self, row: Row, entry: Entry) -> None:
        if entry.kind is NoticeKind.TEST:
            return
        episode = episode_of(row, entry.alert)
        if entry.kind is NoticeKind.RESOLVED:
            self.over.add(episode)
        elif row.status is Status.PENDING:
            self.waiting[episode] = row.id
        if not row.root and row.status is not Status.SUPERSEDED:
            self.told.setdefault(episode, row.id)
        if row.fell_back:
            self.fallen.add(episode)

    def _leave(self, row: Row) -> None:
        stream = self._streams[row.receiver][row.stream]
        del stream[row.id]
        if not stream:
            del self._streams[row.receiver][row.stream]
        self.depth[row.receiver] -= 1
        self._restored.discard(row.id)
        for entry in row.entries:
            episode = episode_of(row, entry.alert)
            if self.waiting.get(episode) == row.id:
                del self.waiting[episode]

    def _unsay(self, row: Row) -> list[Episode]:
        """Forget that a row was the first to tell of its episodes; return them."""
        episodes = [episode_of(row, entry.alert) for entry in row.entries]
        first = [e for e in episodes if self.told.get(e) == row.id]
        for episode in first:
            del self.told[episode]
        return first

    def _bound(self, receiver: str) -> None:
        done = self._done[receiver]
        while len(done) > DONE_KEPT:
            oldest = done.popleft()
            if oldest in self.rows and self.rows[oldest].status is not Status.PENDING:
                self.delete(oldest)
        while len(self._dead) > DEAD_KEPT:
            self.delete(next(iter(self._dead)))
