"""Server-sent events: each snapshot to all who listen, and no slow reader's backlog.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from kaywatch_agent.telemetry import Telemetry
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.reply import write

__all__ = ["MAX_STREAMS", "Streams"]

MAX_STREAMS: Final = 100

# Snapshots that wait for one reader; of more, the oldest fall out: each is the whole
# picture, and their ids tell the reader that some are missing.
QUEUE: Final = 4

RETRY_MILLISECONDS: Final = 2_000
KEEPALIVE_SECONDS: Final = 15.0
GRACE_SECONDS: Final = 1.0
KEEPALIVE: Final = b": keep-alive\n\n"

log = structlog.get_logger("kaywatch.agent")


class Streams:
    """All open streams."""

    def __init__(
        self, telemetry: Telemetry, make: Callable[[], Awaitable[bytes]]
    ) -> None:
        """Start without any.

        Args:
            telemetry: where they are counted.
            make: returns the present snapshot as JSON without newlines.
        """
        self._telemetry = telemetry
        self._make = make
        self._readers: set[_Reader] = set()
        self._number = 0
        self._due = False
        self._making: asyncio.Task[None] | None = None
        self._closed = False
        self._changed = asyncio.Event()

    def publish(self) -> None:
        """Send a snapshot to all who listen, if anybody does.

        While one is being made, at most one more is due: a machine that is too slow
        for a snapshot a second gets fewer.
        """
        self._due = bool(self._readers) and not self._closed
        if self._due and self._making is None:
            self._making = asyncio.create_task(self._broadcast(), name="http-snapshot")

    async def serve(
        self, request: web.Request, limit: int | None
    ) -> web.StreamResponse:
        """Answer a request with events until `limit` of them, or the end.

        Raises:
            Problem: 503 when there are too many streams.
        """
        if len(self._readers) >= MAX_STREAMS:
            raise Problem(
                503,
                "too_many_streams",
                f"{MAX_STREAMS} streams are open, which is the most there can be",
                "close one, or poll /api/v1/nodes?window=1m",
                {"Retry-After": "10"},
            )
        response = web.StreamResponse()
        response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
        response.headers["X-Accel-Buffering"] = "no"  # for an nginx in between
        reader = _Reader(request.transport, self._closed)
        self._count(reader, present=True)
        try:
            await response.prepare(request)
            if request.method != "HEAD":
                await self._feed(request, response, reader, limit)
        except ConnectionError:
            pass  # it left before the first byte
        finally:
            self._count(reader, present=False)
        return response

    async def close(self) -> None:
        """End all streams; hang up on those that don't take their end."""
        self._closed = True
        for reader in self._readers:
            reader.close()
        if self._making is not None:
            self._making.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._making
        if not await self._left(GRACE_SECONDS):
            for reader in self._readers:
                reader.abort()
            await self._left(GRACE_SECONDS)

    # -- inside ----------------------------------------------------------------------

    async def _left(self, seconds: float) -> bool:
        """Wait until nobody listens any more; return whether that is so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._readers:
                    self._changed.clear()
                    await self._changed.wait()
        return not self._readers

    async def _feed(
        self,
        request: web.Request,
        response: web.StreamResponse,
        reader: _Reader,
        limit: int | None,
    ) -> None:
        if not await write(request, response, b"retry: %d\n\n" % RETRY_MILLISECONDS):
            return
        sent = 0
        while limit is None or sent < limit:
            event = await reader.next()
            if event is None or not await write(request, response, event):
                return
            sent += event is not KEEPALIVE

    async def _broadcast(self) -> None:
        try:
            while self._due:
                self._due = False
                data = await self._make()
                self._number += 1
                head = b"id: %d\nevent: snapshot\ndata: " % self._number
                for reader in self._readers:
                    reader.put(head + data + b"\n\n")
        except Problem:
            pass  # too busy; the next tick tries again
        except Exception:
            log.exception("snapshot failed")
        finally:
            self._making = None

    def _count(self, reader: _Reader, *, present: bool) -> None:
        if present:
            self._readers.add(reader)
        else:
            self._readers.discard(reader)
        self._changed.set()
        self._telemetry.set("kaywatch_stream_clients", len(self._readers))


class _Reader:
    """One stream's queue."""

    def __init__(self, transport: asyncio.Transport | None, closed: bool) -> None:
        self._transport = transport
        self._queue: deque[bytes] = deque(maxlen=QUEUE)
        self._ready = asyncio.Event()
        self._closed = closed

    def put(self, event: bytes) -> None:
        self._queue.append(event)
        self._ready.set()

    def close(self) -> None:
        self._closed = True
        self._ready.set()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def next(self) -> bytes | None:
        """Return the next event, a comment in a long silence, or None at the end."""
        while not self._closed:
            if self._queue:
                return self._queue.popleft()
            self._ready.clear()
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    await self._ready.wait()
            except TimeoutError:
                return KEEPALIVE
        return None
