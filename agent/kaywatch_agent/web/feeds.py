"""Live feeds: each window's changes are built and encoded once for all its readers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import msgspec
import structlog

from kaywatch_agent.web.api.live import LiveReport
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.snapshot import AgentSnapshot
from kaywatch_agent.web.stream import Chunk, Subscription, encode_event
from kaywatch_agent.web.workers import WorkerThreads

__all__ = ["LiveFeeds"]

# Updates queued for one reader. Beyond it, the reader gets everything again instead.
MAX_UPDATES: Final = 8

log = structlog.get_logger("kaywatch.agent")

_encode = msgspec.json.Encoder().encode


class LiveFeeds:
    """The feeds that have readers, by window."""

    def __init__(
        self, snapshot: Callable[[], AgentSnapshot], workers: WorkerThreads
    ) -> None:
        """Start without readers.

        Args:
            snapshot: returns the present snapshot.
            workers: build the updates.
        """
        self._snapshot = snapshot
        self._workers = workers
        self._feeds: dict[str, _Feed] = {}
        self._closed = False

    @contextlib.contextmanager
    def subscribe(self, window: str) -> Iterator[Subscription]:
        """Receive updates within the block, the first one at once."""
        feed = self._feeds.get(window)
        if feed is None:
            feed = _Feed(window, self._snapshot, self._workers)
            self._feeds[window] = feed
        subscription = _LiveSubscription()
        feed.readers.add(subscription)
        if not self._closed:
            feed.publish()
        try:
            yield subscription
        finally:
            feed.readers.discard(subscription)
            if not feed.readers and self._feeds.get(window) is feed:
                del self._feeds[window]

    def publish(self) -> None:
        """Send changes to all readers."""
        if not self._closed:
            for feed in self._feeds.values():
                feed.publish()

    async def close(self) -> None:
        """Build no more updates."""
        self._closed = True
        for feed in list(self._feeds.values()):
            await feed.close()


class _Updates(NamedTuple):
    """Encoded events; `full` is empty if no reader needs it."""

    changes: bytes
    full: bytes


class _Feed:
    """One window: its readers, and the data that they have."""

    def __init__(
        self,
        window: str,
        snapshot: Callable[[], AgentSnapshot],
        workers: WorkerThreads,
    ) -> None:
        self.readers: set[_LiveSubscription] = set()
        self._report = LiveReport(window)
        self._snapshot = snapshot
        self._workers = workers
        self._number = 0
        self._requested = False
        self._task: asyncio.Task[None] | None = None

    def publish(self) -> None:
        """Send the changes.

        While an update is being built, at most one more is requested: a machine that
        is too slow for one per second sends fewer.
        """
        self._requested = True
        if self._task is None:
            self._task = asyncio.create_task(self._broadcast(), name="http-live")

    async def close(self) -> None:
        """End the update in progress."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _broadcast(self) -> None:
        try:
            while self._requested and self.readers:
                self._requested = False
                await self._update()
        except Problem:
            pass  # the server is too busy; the next tick tries again
        except Exception:
            log.exception("live update failed")
            # Half of an update may be in it, so start again.
            self._report = self._report.restarted()
            for reader in self.readers:
                reader.needs_full = True
        finally:
            self._task = None

    async def _update(self) -> None:
        # A reader that subscribes meanwhile gets everything with the next update.
        starting = [reader for reader in self.readers if reader.needs_full]
        number = self._number + 1
        build = partial(
            _build, self._report, self._snapshot(), number, full=bool(starting)
        )
        updates = await self._workers.run(build)
        self._number = number
        for reader in self.readers:
            if reader in starting:
                reader.start(updates.full)
            elif not reader.needs_full:
                reader.add(updates.changes)


def _build(
    report: LiveReport, snapshot: AgentSnapshot, number: int, *, full: bool
) -> _Updates:
    """Advance a report; return the events, ready to be sent."""
    changes = encode_event("changes", _encode(report.advance(snapshot)), number)
    if not full:
        return _Updates(changes, b"")
    return _Updates(changes, encode_event("full", _encode(report.full()), number))


class _LiveSubscription(Subscription):
    """One reader's queue of updates.

    Attributes:
        needs_full: whether it has nothing that changes could be applied to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.needs_full = True
        self._updates: deque[bytes] = deque()

    def start(self, full: bytes) -> None:
        """Send everything."""
        self.needs_full = False
        self._updates.append(full)
        self.wake()

    def add(self, changes: bytes) -> None:
        """Send changes; drop unread updates of a slow reader."""
        if len(self._updates) >= MAX_UPDATES:
            self._updates.clear()
            self.needs_full = True
            return
        self._updates.append(changes)
        self.wake()

    def take(self, limit: int) -> Chunk | None:  # noqa: ARG002
        return Chunk(self._updates.popleft()) if self._updates else None
