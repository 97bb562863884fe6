"""Server-sent events: to all who listen, and no slow reader's backlog.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec
import structlog
from aiohttp import web

from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.reply import write

__all__ = ["MAX_STREAMS", "Piece", "Reader", "Snapshots", "Streams", "event"]

MAX_STREAMS: Final = 100

# Snapshots that wait for one reader; of more, the oldest fall out: each is the whole
# picture, and their ids tell the reader that some are missing.
QUEUE: Final = 4

# Changes of alerts that wait for one reader; after a gap in the ids it reads the list.
CHANGES: Final = 1_000

RETRY_MILLISECONDS: Final = 2_000
KEEPALIVE_SECONDS: Final = 15.0
GRACE_SECONDS: Final = 1.0

encode = msgspec.json.Encoder().encode

log = structlog.get_logger("kaywatch.agent")


class Piece(NamedTuple):
    """What is written at once, and how many events it counts for."""

    data: bytes
    events: int = 1


KEEPALIVE: Final = Piece(b": keep-alive\n\n", 0)


def event(name: str, data: bytes, number: int | None = None) -> bytes:
    """Return an event as it is on the wire; `data` has no newlines."""
    head = b"" if number is None else b"id: %d\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (head, name.encode(), data)


class Reader:
    """One stream's side of what is sent; those who send make their own of it."""

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._closed = False

    def wake(self) -> None:
        """Say that there is something to take."""
        self._ready.set()

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self.wake()

    def take(self, most: int) -> Piece | None:
        """Return what is next, of at most so many events; None when nothing is."""
        raise NotImplementedError

    async def next(self, most: int) -> Piece | None:
        """Return what is next, a comment in a long silence, or None at the end."""
        while not self._closed:
            # Before the look: what comes after it wakes again.
            self._ready.clear()
            piece = self.take(most)
            if piece is not None:
                return piece
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    await self._ready.wait()
            except TimeoutError:
                return KEEPALIVE
        return None


class Streams:
    """All open streams."""

    def __init__(self) -> None:
        self.limit = MAX_STREAMS
        self._open: dict[Reader, asyncio.Transport | None] = {}
        self._closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    async def serve(
        self, request: web.Request, reader: Reader, limit: int | None
    ) -> web.StreamResponse:
        """Answer a request with events until `limit` of them, or the end.

        Raises:
            Problem: 503 when there are too many streams.
        """
        if len(self._open) >= self.limit:
            raise Problem(
                503,
                "too_many_streams",
                f"{self.limit} streams are open, which is the most there can be",
                "close one, or poll /api/v1/nodes?window=1m",
                {"Retry-After": "10"},
            )
        response = web.StreamResponse()
        response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
        response.headers["X-Accel-Buffering"] = "no"  # for an nginx in between
        self._open[reader] = request.transport
        self._changed.set()
        if self._closed:
            reader.close()
        try:
            await response.prepare(request)
            if request.method != "HEAD":
                await _feed(request, response, reader, limit)
        except ConnectionError:
            pass  # it left before the first byte
        finally:
            del self._open[reader]
            self._changed.set()
        return response

    async def close(self) -> None:
        """End all streams; hang up on those that don't take their end."""
        self._closed = True
        for reader in self._open:
            reader.close()
        if not await self._left(GRACE_SECONDS):
            for transport in self._open.values():
                if transport is not None:
                    transport.abort()
            await self._left(GRACE_SECONDS)

    # -- inside ----------------------------------------------------------------------

    async def _left(self, seconds: float) -> bool:
        """Wait until nobody listens any more; return whether that is so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    self._changed.clear()
                    await self._changed.wait()
        return not self._open


async def _feed(
    request: web.Request,
    response: web.StreamResponse,
    reader: Reader,
    limit: int | None,
) -> None:
    if not await write(request, response, b"retry: %d\n\n" % RETRY_MILLISECONDS):
        return
    left = sys.maxsize if limit is None else limit
    while left > 0:
        piece = await reader.next(left)
        if piece is None or not await write(request, response, piece.data):
            return
        left -= piece.events


class Snapshots:
    """Makes the snapshot that all its readers get."""

    def __init__(self, make: Callable[[], Awaitable[bytes]]) -> None:
        """Start without readers.

        Args:
            make: returns the present snapshot as JSON without newlines.
        """
        self._make = make
        self._readers: set[_SnapshotReader] = set()
        self._number = 0
        self._due = False
        self._making: asyncio.Task[None] | None = None
        self._closed = False

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader]:
        """Let one read within the block."""
        reader = _SnapshotReader()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def tell(self, name: str, found: Iterable[object], left_out: int = 0) -> None:
        """Send an event for each of several values, at once, if anybody listens.

        Args:
            name: of the events.
            found: their values.
            left_out: how many more there would be; a gap in the ids says so.
        """
        if self._readers and not self._closed:
            for value in found:
                self._number += 1
                made = event(name, encode(value), self._number)
                for reader in self._readers:
                    reader.add(made)
            self._number += left_out

    def publish(self) -> None:
        """Send a snapshot to all who listen, if anybody does.

        While one is being made, at most one more is due: a machine that is too slow
        for a snapshot a second gets fewer.
        """
        self._due = bool(self._readers) and not self._closed
        if self._due and self._making is None:
            self._making = asyncio.create_task(self._broadcast(), name="http-snapshot")

    async def close(self) -> None:
        """Make no more."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._making

    async def _broadcast(self) -> None:
        try:
            while self._due:
                self._due = False
                data = await self._make()
                self._number += 1
                made = event("snapshot", data, self._number)
                for reader in self._readers:
                    reader.put(made)
        except Problem:
            pass  # too busy; the next tick tries again
        except Exception:
            log.exception("snapshot failed")
        finally:
            self._making = None


class _SnapshotReader(Reader):
    """One reader's queue of snapshots."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[bytes] = deque(maxlen=QUEUE)
        self._changes: deque[bytes] = deque(maxlen=CHANGES)

    def put(self, made: bytes) -> None:
        self._queue.append(made)
        self.wake()

    def add(self, made: bytes) -> None:
        self._changes.append(made)
        self.wake()

    def take(self, most: int) -> Piece | None:  # noqa: ARG002
        if self._changes:
            return Piece(self._changes.popleft(), 0)
        return Piece(self._queue.popleft()) if self._queue else None
